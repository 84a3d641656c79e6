//! The state of all gateways together, for metrics. Gateways of all organisations count.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use futures_util::TryStreamExt as _;

use super::super::dialect::{Connection, Manifests, query_as};
use super::details::details;
use crate::clock::Timestamp;
use crate::event::{GatewayKey, Reason};
use crate::store::{Fleet, GatewayLag, Handling, Result};

/// What one gateway contributes.
struct FleetRow {
    gateway: GatewayKey,
    name: String,
    is_disabled: i64,
    is_paused: i64,
    has_failed_reports: i64,
    last_failure_at: Option<Timestamp>,
    last_failure_reason: Option<Reason>,
    last_receipt_at: Option<Timestamp>,
    is_connected: i64,
    dead_letters: i64,
    lag: i64,
}

impl FleetRow {
    fn handling(&self) -> Handling {
        Handling {
            is_stopped: self.is_disabled != 0 || self.is_paused != 0,
            has_failed_reports: self.has_failed_reports != 0,
            last_failure: self.last_failure_at.zip(self.last_failure_reason),
            // A position without a receipt has the epoch.
            last_receipt_at: self.last_receipt_at.filter(|at| at.micros() > 0),
        }
    }
}

/// Reads one row per gateway, and the details of the `furthest` that are furthest behind.
pub(super) async fn fleet(conn: &mut Connection, furthest: usize) -> Result<Fleet> {
    let mut rows = query_as!(
        FleetRow,
        r#"
        with placed as (
            select g.gateway, g.name, g.disabled_at, g.paused_at, s.failing_since,
                s.last_failure_at, s.last_failure_reason, s.dead_total, s.head, s.floor,
                coalesce((select received from cursors c where c.gateway = g.gateway and c.instance = ''),
                         (select max(received) from cursors c where c.gateway = g.gateway), 0) as confirmed
            from gateways g join streams s using (gateway)
            where g.deleted_at is null
        )
        select gateway as "gateway!: GatewayKey", name as "name!: String",
            cast(case when disabled_at is null then 0 else 1 end as bigint) as "is_disabled!: i64",
            cast(case when paused_at is null then 0 else 1 end as bigint) as "is_paused!: i64",
            cast(case when failing_since is null then 0 else 1 end as bigint) as "has_failed_reports!: i64",
            last_failure_at as "last_failure_at?: Timestamp",
            last_failure_reason as "last_failure_reason?: Reason",
            (select max(c.updated_at) from cursors c
             where c.gateway = p.gateway and c.instance = '') as "last_receipt_at?: Timestamp",
            cast(case when exists (
                select 1 from connections n where n.gateway = p.gateway and n.closed_at is null
            ) then 1 else 0 end as bigint) as "is_connected!: i64",
            dead_total as "dead_letters!: i64",
            cast(head - case when floor > confirmed then floor else confirmed end as bigint) as "lag!: i64"
        from placed p
        "#
    )
    .fetch(&mut *conn);
    let mut fleet = Fleet::default();
    let mut behind = BinaryHeap::new();
    while let Some(row) = rows.try_next().await? {
        match (row.is_disabled != 0, row.is_connected != 0) {
            (true, _) => fleet.disabled += 1,
            (false, true) => fleet.connected += 1,
            (false, false) => fleet.away += 1,
        }
        fleet.failing += u64::from(row.handling().is_failing());
        let lag = u64::try_from(row.lag).unwrap_or(0);
        fleet.pending += lag;
        fleet.dead_letters += u64::try_from(row.dead_letters).unwrap_or(0);
        behind.push(Reverse((lag, row.name, row.gateway)));
        if behind.len() > furthest {
            behind.pop();
        }
    }
    drop(rows);
    let furthest: Vec<(u64, GatewayKey)> =
        behind.into_sorted_vec().into_iter().map(|Reverse((lag, _, key))| (lag, key)).collect();
    let keys: Vec<GatewayKey> = furthest.iter().map(|(_, key)| *key).collect();
    let gateways = details(conn, &keys, Manifests::Omit).await?;
    let lags = furthest.into_iter().filter_map(|(events, key)| {
        let gateway = gateways.iter().find(|gateway| gateway.key == key)?;
        let age = gateway.oldest_pending_at.map_or(Duration::ZERO, |at| gateway.as_of.since(at));
        Some(GatewayLag { id: gateway.id, name: gateway.name.clone(), events, age })
    });
    fleet.furthest_behind = lags.collect();
    Ok(fleet)
}
