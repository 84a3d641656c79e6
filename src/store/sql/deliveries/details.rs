//! Deliveries with their states and attempts, for known keys.

use std::collections::{BTreeMap, HashMap};

use super::super::dialect::{Connection, DeliveryStatements};

use crate::event::Sequence;
use crate::store::filtered::Filtered;
use crate::store::ledger::Attempts;
use crate::store::{Attempt, Delivery, DeliveryKey, DeliveryState, RedrivenAs, Result};

/// A delivery without its attempts.
pub(crate) struct Standing {
    pub(crate) key: DeliveryKey,
    pub(crate) delivery: Delivery,
    pub(crate) is_gateway_deleted: bool,
    /// The sequence of its redrive.
    redriven_as: Option<Sequence>,
}

impl Standing {
    fn successor(&self) -> Option<DeliveryKey> {
        self.redriven_as.map(|sequence| DeliveryKey { sequence, ..self.key })
    }
}

/// How many redrives of redrives are followed. Beyond that, the state of the last one reached is
/// returned.
const HOPS: usize = 100;

/// The deliveries with these keys, in the same order.
pub(crate) async fn deliveries(
    conn: &mut Connection,
    keys: &[DeliveryKey],
) -> Result<Vec<Delivery>> {
    let standings = standings(conn, keys).await?;
    let mut attempts = attempts(conn, keys).await?;
    let redrives = redrives(conn, &standings).await?;
    Ok(standings
        .into_iter()
        .map(|Standing { key, delivery, .. }| {
            let attempts = attempts.remove(&key).unwrap_or_default();
            delivery.with(attempts, redrives.get(&key).copied())
        })
        .collect())
}

/// The newest redrive of each delivery that was redriven. Each statement follows all of them by one
/// redrive.
async fn redrives(
    conn: &mut Connection,
    of: &[Standing],
) -> Result<HashMap<DeliveryKey, RedrivenAs>> {
    let mut newest = HashMap::new();
    let mut open: Vec<(DeliveryKey, DeliveryKey)> =
        of.iter().filter_map(|one| Some((one.key, one.successor()?))).collect();
    for _ in 0..HOPS {
        if open.is_empty() {
            break;
        }
        let successors: Vec<DeliveryKey> = open.iter().map(|(_, successor)| *successor).collect();
        let found = standings(conn, &successors).await?;
        let found: HashMap<DeliveryKey, Standing> =
            found.into_iter().map(|it| (it.key, it)).collect();
        open = open
            .into_iter()
            .filter_map(|(origin, successor)| {
                let standing = found.get(&successor)?;
                let (sequence, state) = (standing.delivery.sequence, standing.delivery.state);
                newest.insert(origin, RedrivenAs { sequence, state });
                Some((origin, standing.successor()?))
            })
            .collect();
    }
    Ok(newest)
}

/// The states of the deliveries with these keys, in the same order.
pub(crate) async fn standings(
    conn: &mut Connection,
    keys: &[DeliveryKey],
) -> Result<Vec<Standing>> {
    let rows = conn.standings(keys).await?;
    let filtered: Vec<DeliveryKey> = rows
        .iter()
        .filter(|row| row.filtered && !row.dead && row.is_passed())
        .map(|row| DeliveryKey::new(row.gateway, row.sequence))
        .collect();
    let filtered = if filtered.is_empty() {
        BTreeMap::new()
    } else {
        Filtered::of(conn.outcomes_at(&filtered).await?)
    };
    Ok(rows
        .into_iter()
        .map(|row| {
            let key = DeliveryKey::new(row.gateway, row.sequence);
            let state = DeliveryState::of(row.dead, row.is_passed(), filtered.get(&key));
            let delivery = Delivery {
                gateway_id: row.gateway_id,
                gateway_name: row.gateway_name,
                sequence: Sequence(row.sequence),
                event_id: row.event_id,
                event_type: row.event_type,
                correlation_id: row.correlation_id,
                appended_at: row.appended_at,
                state,
                trimmed: row.sequence <= row.floor,
                delivered_since: false,
                redriven: row.redriven,
                redriven_as: None,
                failures: 0,
                first_failure_at: None,
                last_failure_at: None,
                reason: None,
                attempt_count: 0,
                attempts: Vec::new(),
            };
            let is_gateway_deleted = row.gateway_deleted;
            let redriven_as = row.redriven_as.map(Sequence);
            Standing { key, delivery, is_gateway_deleted, redriven_as }
        })
        .collect())
}

/// The newest hundred attempts at each delivery, oldest first, with aggregates over all attempts.
async fn attempts(
    conn: &mut Connection,
    keys: &[DeliveryKey],
) -> Result<HashMap<DeliveryKey, Attempts>> {
    let mut attempts: HashMap<DeliveryKey, Attempts> = HashMap::new();
    for row in conn.attempts_at(keys).await? {
        let key = DeliveryKey::new(row.gateway, row.sequence);
        let of = attempts.entry(key).or_insert_with(|| Attempts {
            newest: Vec::new(),
            count: row.attempts,
            failures: row.failures,
            first_failure_at: row.first_failure_at,
            last_failure_at: row.last_failure_at,
            reason: row.last_reason,
        });
        of.newest.push(Attempt {
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
