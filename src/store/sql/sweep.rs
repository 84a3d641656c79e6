//! The sweep: what was appended while nobody was there is a failed attempt,
//! and is still delivered when the gateway comes back.

use std::collections::BTreeSet;

use super::dialect::{self, Connection, query};

use super::ledger::{self, Ended, How};
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, NodeId, Reason, Sequence};
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
    // The same order in every database: attempts of one instant are shown by it.
    missed.sort_unstable_by_key(|row| row.gateway);
    let mut recorded = Vec::with_capacity(missed.len());
    for row in missed {
        let range = Range { first: row.answered.next(), last: row.head };
        let ended = Ended {
            gateway: row.gateway,
            connection: None,
            range,
            how: How::Failed(Reason::NotConnected, ""),
            started_at: now,
            finished_at: now,
        };
        ledger::write(connection, node, &ended).await?;
        query!("update streams set missed = $2 where gateway = $1", row.gateway.0, row.head.0)
            .execute(&mut *connection)
            .await?;
        recorded.push(Missed { gateway_id: row.gateway_id, range });
    }
    Ok(recorded)
}

/// A stream whose rows from `answered` to `head` nobody was there to receive.
pub(crate) struct Unserved {
    pub(crate) gateway: GatewayKey,
    pub(crate) gateway_id: GatewayId,
    pub(crate) head: Sequence,
    pub(crate) answered: Sequence,
}
