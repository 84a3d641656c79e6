//! Adds the events of failed deliveries without an attempt, for log lines.

use super::super::dialect::{Connection, LedgerStatements};
use crate::event::{GatewayId, GatewayKey, Sequence};
use crate::store::limits::{LOGGED_EVENTS, LOGGED_IN_ALL};
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
    let named = failed.into_iter().map(|it| {
        let Range { first, last } = it.range;
        let is_its = |(gateway, event): &mut (GatewayKey, LoggedEvent)| {
            *gateway == it.gateway && (first..=last).contains(&event.sequence)
        };
        let events = events.extract_if(.., is_its).map(|(_, event)| event).collect();
        let Failed { gateway_id, gateway_name, range, .. } = it;
        UndeliveredRange { gateway_id, gateway_name, range, events }
    });
    Ok(named.collect())
}

fn logged(failed: &[Failed]) -> Vec<(GatewayKey, Sequence)> {
    let of = |it: &Failed| {
        let Range { first, last } = it.range;
        let gateway = it.gateway;
        (first.0..=last.0.min(first.0 + LOGGED_EVENTS - 1)).map(move |nth| (gateway, Sequence(nth)))
    };
    failed.iter().flat_map(of).take(LOGGED_IN_ALL).collect()
}
