//! Expiry: records deliveries as failed whose event has expired while their gateway is not
//! connected. While a gateway is connected, its lane skips expired events itself, because only the
//! lane knows which of them have been sent.

use std::collections::BTreeSet;

use super::dialect::expiry::OpenDelivery;
use super::dialect::nodes::ExclusiveTask;
use super::dialect::{Connection, ExpiryStatements, LedgerStatements, NodeStatements};
use super::ledger::logged::{Failed, named};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, NodeId, Reason};
use crate::store::limits::EXPIRED_DELIVERIES;
use crate::store::ranges::cut;
use crate::store::{Range, Result, TimedKey, UndeliveredRange};

/// The result of one bounded search.
pub(super) struct Due {
    events: Vec<i64>,
    /// Those of them without an open delivery.
    settled: Vec<i64>,
    has_open: bool,
    /// The last event examined, by its expiry.
    pub(super) next: TimedKey,
    pub(super) is_last: bool,
    pub(super) now: Timestamp,
}

impl Due {
    pub(super) const fn is_nothing(&self) -> bool {
        self.settled.is_empty() && !self.has_open
    }
}

/// Examines one batch of the expired events after this one.
pub(super) async fn due(conn: &mut Connection, after: TimedKey, batch: i64) -> Result<Due> {
    let now = conn.now().await?;
    let found = conn.due_events(now, after, batch).await?;
    let is_last = i64::try_from(found.len()).is_ok_and(|count| count < batch);
    let next = found.last().map_or(after, |last| TimedKey { at: last.expires_at, key: last.event });
    let events: Vec<i64> = found.into_iter().map(|due| due.event).collect();
    let mut due = Due { events, settled: Vec::new(), has_open: false, next, is_last, now };
    if due.events.is_empty() {
        return Ok(due);
    }
    due.settled = conn.settled_events(&due.events).await?;
    if due.settled.len() < due.events.len() {
        let open = conn.open_and_not_connected(&due.events, EXPIRED_DELIVERIES).await?;
        due.has_open = !open.is_empty();
        if is_full(&open) {
            // The next call continues with these events.
            (due.next, due.is_last) = (after, false);
        }
    }
    Ok(due)
}

fn is_full(open: &[OpenDelivery]) -> bool {
    i64::try_from(open.len()).is_ok_and(|count| count >= EXPIRED_DELIVERIES)
}

/// Records the deliveries that were found as failed, if they are still open; `None` if another
/// node holds the lock.
pub(super) async fn expire(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    due: Due,
) -> Result<Option<Vec<UndeliveredRange>>> {
    if !conn.try_lock_task(ExclusiveTask::Expiry).await? {
        return Ok(None);
    }
    let mut answer = Vec::new();
    if due.has_open {
        let mut open = conn.open_and_not_connected(&due.events, EXPIRED_DELIVERIES).await?;
        let keys: BTreeSet<GatewayKey> = open.iter().map(|open| open.gateway).collect();
        if conn.lock_streams(&keys).await?.may_have_changed {
            open = conn.open_and_not_connected(&due.events, EXPIRED_DELIVERIES).await?;
            open.retain(|open| keys.contains(&open.gateway));
        }
        open.sort_unstable_by_key(|open| (open.gateway, open.sequence));
        let mut pieces = Vec::new();
        let expired = runs(open);
        for Failed { gateway, range, .. } in &expired {
            pieces.extend(cut(*range).map(|piece| (*gateway, piece)));
        }
        if !pieces.is_empty() {
            conn.insert_failed(now, node, Reason::Expired, &pieces).await?;
            conn.insert_dead_letters(now, Reason::Expired, &pieces).await?;
        }
        answer = named(conn, expired).await?;
    }
    if !due.settled.is_empty() {
        conn.settle_expiry(&due.settled).await?;
    }
    Ok(Some(answer))
}

/// Groups sorted deliveries into ranges.
fn runs(open: Vec<OpenDelivery>) -> Vec<Failed> {
    let mut runs: Vec<Failed> = Vec::new();
    for OpenDelivery { gateway, gateway_id, gateway_name, sequence } in open {
        match runs.last_mut() {
            Some(run) if run.gateway == gateway && run.range.last.next() == sequence => {
                run.range.last = sequence;
            }
            _ => {
                let range = Range { first: sequence, last: sequence };
                runs.push(Failed { gateway, gateway_id, gateway_name, range });
            }
        }
    }
    runs
}
