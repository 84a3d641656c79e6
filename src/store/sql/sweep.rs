//! The sweep: what was appended while nobody was there is a failed attempt,
//! and is still delivered when the gateway comes back.

use std::collections::BTreeSet;

use super::dialect::{self, Connection};
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, NodeId, Sequence};
use crate::store::limits::{LOGGED_EVENTS, LOGGED_IN_ALL};
use crate::store::ranges::cut;
use crate::store::{Missed, Range, Result};

/// Records `not_connected` for gateways without a live connection; `None`
/// looks at all of them. Returns what was recorded.
pub(super) async fn sweep_not_connected(
    connection: &mut Connection,
    now: Timestamp,
    node: NodeId,
    gateways: Option<&[GatewayKey]>,
) -> Result<Vec<Missed>> {
    let mut missed = dialect::unserved(connection, gateways).await?;
    let keys: BTreeSet<GatewayKey> = missed.iter().map(|row| row.gateway).collect();
    if dialect::lock_streams(connection, &keys).await? {
        let keys: Vec<GatewayKey> = keys.into_iter().collect();
        missed = dialect::unserved(connection, Some(&keys)).await?;
    }
    if missed.is_empty() {
        return Ok(Vec::new());
    }
    // The same order in every database: attempts of one instant are shown by it.
    missed.sort_unstable_by_key(|row| row.gateway);
    dialect::insert_missed(connection, now, node, &missed).await?;
    dialect::count_missed(connection, now, &missed).await?;
    let mut named = dialect::logged_events(connection, &logged(&missed)).await?;
    let recorded = missed.into_iter().map(|it| Missed {
        gateway_id: it.gateway_id,
        range: it.range(),
        events: named
            .extract_if(.., |(gateway, _)| *gateway == it.gateway)
            .map(|(_, event)| event)
            .collect(),
        gateway_name: it.gateway_name,
    });
    Ok(recorded.collect())
}

/// The deliveries of which the log names the events: the first ones of each range.
fn logged(missed: &[Unserved]) -> Vec<(GatewayKey, Sequence)> {
    let of = |it: &Unserved| {
        let Range { first, last } = it.range();
        let gateway = it.gateway;
        (first.0..=last.0.min(first.0 + LOGGED_EVENTS - 1)).map(move |nth| (gateway, Sequence(nth)))
    };
    missed.iter().flat_map(of).take(LOGGED_IN_ALL).collect()
}

/// A stream whose rows from `answered` to `head` nobody was there to receive.
pub(crate) struct Unserved {
    pub(crate) gateway: GatewayKey,
    pub(crate) gateway_id: GatewayId,
    pub(crate) gateway_name: String,
    pub(crate) head: Sequence,
    pub(crate) answered: Sequence,
}

impl Unserved {
    fn range(&self) -> Range {
        Range { first: self.answered.next(), last: self.head }
    }

    /// How many that are.
    pub(crate) fn count(&self) -> i64 {
        self.head.0 - self.answered.0
    }

    /// The ranges of its attempts.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Range> + use<> {
        cut(self.range())
    }
}
