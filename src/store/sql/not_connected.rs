//! The sweep: an event that was appended for a gateway without a live connection is recorded as a
//! failed attempt. It is still delivered when the gateway connects.

use std::collections::BTreeSet;
use std::time::Duration;

use super::dialect::not_connected::{NotConnected, NotConnectedCount};
use super::dialect::{Connection, LedgerStatements, NodeStatements, NotConnectedStatements};
use super::ledger;
use super::ledger::logged::{Failed, named};
use super::supersession::not_superseded;
use crate::clock::Timestamp;
use crate::event::{GatewayKey, NodeId, Reason};
use crate::store::ranges::cut;
use crate::store::{Range, Result, SweepResult};

/// Records `not_connected` for these gateways, or all of them with `None`, if they have no live
/// connection. Postpones those whose last connection ended less than `grace` ago.
pub(crate) async fn sweep_not_connected(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    gateways: Option<&[GatewayKey]>,
    grace: Duration,
) -> Result<SweepResult> {
    let mut found = conn.streams_not_connected(gateways).await?;
    let mut postponed = postpone(&mut found, now, grace);
    let keys: BTreeSet<GatewayKey> = found.iter().map(|row| row.gateway).collect();
    if conn.lock_streams(&keys).await?.may_have_changed {
        let keys: Vec<GatewayKey> = keys.into_iter().collect();
        found = conn.streams_not_connected(Some(&keys)).await?;
        postponed.extend(postpone(&mut found, now, grace));
    }
    // Sorted, so that both databases list attempts of the same instant in the same order.
    found.sort_unstable_by_key(|row| row.gateway);
    let (mut failed, mut counts, mut pieces) = (Vec::new(), Vec::new(), Vec::new());
    for row in found {
        let all = Range { first: row.answered.next(), last: row.head };
        let mut open =
            if row.has_dead { ledger::not_dead(conn, row.gateway, all).await? } else { vec![all] };
        if row.has_superseded {
            open = not_superseded(conn, row.gateway, open).await?;
        }
        let count = open.iter().map(|range| range.last.0 - range.first.0 + 1).sum();
        counts.push(NotConnectedCount { gateway: row.gateway, head: row.head, count });
        for range in open {
            let (gateway_id, gateway_name) = (row.gateway_id, row.gateway_name.clone());
            failed.push(Failed { gateway: row.gateway, gateway_id, gateway_name, range });
            pieces.extend(cut(range).map(|piece| (row.gateway, piece)));
        }
    }
    if !pieces.is_empty() {
        conn.insert_failed(now, node, Reason::NotConnected, &pieces).await?;
    }
    if !counts.is_empty() {
        conn.count_not_connected(now, &counts).await?;
    }
    Ok(SweepResult { recorded: named(conn, failed).await?, postponed })
}

/// Removes gateways within their grace period, and returns when to sweep them.
fn postpone(
    found: &mut Vec<NotConnected>,
    now: Timestamp,
    grace: Duration,
) -> Vec<(GatewayKey, Duration)> {
    let mut postponed = Vec::new();
    found.retain(|row| match SweepResult::grace_left(row.left_at, now, grace) {
        Some(left) => {
            postponed.push((row.gateway, left));
            false
        }
        None => true,
    });
    postponed
}
