//! Adds the events of failed deliveries without an attempt, for log lines, and their types, for
//! metrics.

use std::collections::HashMap;

use super::super::dialect::{Connection, LedgerStatements};
use crate::event::{EventType, GatewayId, GatewayKey, Sequence};
use crate::store::limits::{COUNTED_TYPES, LOGGED_EVENTS, LOGGED_IN_ALL};
use crate::store::{LoggedEvent, Range, Result, UndeliveredRange};

/// Failed deliveries of a gateway.
pub(crate) struct Failed {
    pub(crate) gateway: GatewayKey,
    pub(crate) gateway_id: GatewayId,
    pub(crate) gateway_name: String,
    pub(crate) range: Range,
}

/// Adds the first events of each range with one statement. The number of events is bounded.
pub(crate) async fn named(
    conn: &mut Connection,
    failed: Vec<Failed>,
) -> Result<Vec<UndeliveredRange>> {
    if failed.is_empty() {
        return Ok(Vec::new());
    }
    let mut events = conn.logged_events(&logged(&failed)).await?;
    let mut types: HashMap<usize, Vec<(EventType, u64)>> = HashMap::new();
    for (nth, event_type, count) in conn.counted_types(&counted_ranges(&failed)).await? {
        types.entry(nth).or_default().push((event_type, count));
    }
    let named = failed.into_iter().enumerate().map(|(nth, it)| {
        let Range { first, last } = it.range;
        let is_its = |(gateway, event): &mut (GatewayKey, LoggedEvent)| {
            *gateway == it.gateway && (first..=last).contains(&event.sequence)
        };
        let events = events.extract_if(.., is_its).map(|(_, event)| event).collect();
        let Failed { gateway_id, gateway_name, range, .. } = it;
        let mut types = types.remove(&nth).unwrap_or_default();
        types.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        UndeliveredRange { gateway_id, gateway_name, range, events, types }
    });
    Ok(named.collect())
}

/// The first ranges, and the beginning of one, as far as the limit allows. Their places are those of
/// the failed deliveries.
fn counted_ranges(failed: &[Failed]) -> Vec<(GatewayKey, Range)> {
    let mut left = COUNTED_TYPES;
    let within = failed.iter().map_while(|it| {
        let Range { first, last } = it.range;
        let last = Sequence(last.0.min(first.0 + left - 1));
        let length = last.0 - first.0 + 1;
        left -= length.max(0);
        (length > 0).then_some((it.gateway, Range { first, last }))
    });
    within.collect()
}

fn logged(failed: &[Failed]) -> Vec<(GatewayKey, Sequence)> {
    let of = |it: &Failed| {
        let Range { first, last } = it.range;
        let gateway = it.gateway;
        (first.0..=last.0.min(first.0 + LOGGED_EVENTS - 1)).map(move |nth| (gateway, Sequence(nth)))
    };
    failed.iter().flat_map(of).take(LOGGED_IN_ALL).collect()
}
