//! Names failed deliveries that no connection attempted, for the log.

use super::dialect::{self, Connection};
use crate::event::{GatewayId, GatewayKey, Sequence};
use crate::store::limits::{LOGGED_EVENTS, LOGGED_IN_ALL};
use crate::store::{LoggedEvent, Missed, Range, Result};

/// Failed deliveries of a gateway.
pub(super) struct Failed {
    pub(super) gateway: GatewayKey,
    pub(super) gateway_id: GatewayId,
    pub(super) gateway_name: String,
    pub(super) range: Range,
}

/// Adds the first events of each range, a bounded number in all, with one statement.
pub(super) async fn named(connection: &mut Connection, failed: Vec<Failed>) -> Result<Vec<Missed>> {
    if failed.is_empty() {
        return Ok(Vec::new());
    }
    let mut events = dialect::logged_events(connection, &logged(&failed)).await?;
    let named = failed.into_iter().map(|it| {
        let Range { first, last } = it.range;
        let is_its = |(gateway, event): &mut (GatewayKey, LoggedEvent)| {
            *gateway == it.gateway && (first..=last).contains(&event.sequence)
        };
        let events = events.extract_if(.., is_its).map(|(_, event)| event).collect();
        let Failed { gateway_id, gateway_name, range, .. } = it;
        Missed { gateway_id, gateway_name, range, events }
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
