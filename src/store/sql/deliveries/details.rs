//! Deliveries in full: where they stand and every attempt, for keys that are known.

use std::collections::HashMap;

use super::super::dialect::{self, Connection};

use super::Key;
use crate::clock::Timestamp;
use crate::event::{ConnectionId, CorrelationId, EventId, EventType, GatewayId, Reason, Sequence};
use crate::store::{Attempt, Delivery, DeliveryState, Result};

/// A delivery without its attempts.
pub(crate) struct Standing {
    pub(crate) key: Key,
    pub(crate) delivery: Delivery,
}

/// The deliveries of these keys, in their order.
pub(crate) async fn deliveries(connection: &mut Connection, keys: &[Key]) -> Result<Vec<Delivery>> {
    let standings = standings(connection, keys).await?;
    let mut attempts = attempts(connection, keys).await?;
    Ok(standings
        .into_iter()
        .map(|Standing { key, delivery }| delivery.with(attempts.remove(&key).unwrap_or_default()))
        .collect())
}

/// Where the deliveries of these keys stand, in the order of the keys.
pub(crate) async fn standings(connection: &mut Connection, keys: &[Key]) -> Result<Vec<Standing>> {
    let rows = dialect::standings(connection, keys).await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let state = DeliveryState::of(row.dead, row.sequence <= row.confirmed);
            let delivery = Delivery {
                gateway_id: row.gateway_id,
                gateway_name: row.gateway_name,
                sequence: Sequence(row.sequence),
                event_id: row.event_id,
                event_type: row.event_type,
                correlation_id: row.correlation_id,
                appended_at: row.appended_at,
                state,
                delivered_since: false,
                redriven: row.redriven,
                failures: 0,
                first_failure_at: None,
                last_failure_at: None,
                reason: None,
                attempts: Vec::new(),
            };
            Standing { key: (row.gateway, row.sequence), delivery }
        })
        .collect())
}

/// What a delivery's standing follows from.
pub(crate) struct StandingRow {
    pub(crate) gateway: i64,
    pub(crate) sequence: i64,
    pub(crate) gateway_id: GatewayId,
    pub(crate) gateway_name: String,
    pub(crate) event_id: Option<EventId>,
    pub(crate) event_type: Option<EventType>,
    pub(crate) correlation_id: Option<CorrelationId>,
    pub(crate) appended_at: Option<Timestamp>,
    pub(crate) confirmed: i64,
    pub(crate) dead: bool,
    pub(crate) redriven: bool,
}

/// The newest hundred attempts at each, oldest first.
async fn attempts(connection: &mut Connection, keys: &[Key]) -> Result<HashMap<Key, Vec<Attempt>>> {
    let mut attempts: HashMap<Key, Vec<Attempt>> = HashMap::new();
    for row in dialect::attempts_at(connection, keys).await? {
        attempts.entry((row.gateway, row.sequence)).or_default().push(Attempt {
            outcome: row.outcome,
            reason: row.reason,
            detail: row.detail,
            connection_id: row.connection,
            started_at: row.started_at,
            finished_at: row.finished_at,
        });
    }
    Ok(attempts)
}

/// An attempt at a delivery.
pub(crate) struct AttemptRow {
    pub(crate) gateway: i64,
    pub(crate) sequence: i64,
    pub(crate) outcome: String,
    pub(crate) reason: Option<Reason>,
    pub(crate) detail: Option<String>,
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) started_at: Timestamp,
    pub(crate) finished_at: Timestamp,
}
