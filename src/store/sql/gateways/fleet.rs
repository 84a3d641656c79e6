//! The state of all gateways together, for metrics. Gateways of all organisations count.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use futures_util::TryStreamExt as _;

use super::super::dialect::{Connection, query_as};
use crate::event::GatewayId;
use crate::store::{Fleet, GatewayLag, Result};

/// What one gateway contributes.
struct FleetRow {
    id: GatewayId,
    name: String,
    is_disabled: i64,
    is_failing: i64,
    is_connected: i64,
    dead_letters: i64,
    lag: i64,
}

/// Reads one row per gateway, and keeps the `furthest` that are furthest behind.
pub(super) async fn fleet(conn: &mut Connection, furthest: usize) -> Result<Fleet> {
    let mut rows = query_as!(
        FleetRow,
        r#"
        with placed as (
            select g.gateway, g.id, g.name, g.disabled_at, s.failing_since, s.dead_total, s.head, s.floor,
                coalesce((select received from cursors c where c.gateway = g.gateway and c.instance = ''),
                         (select max(received) from cursors c where c.gateway = g.gateway), 0) as confirmed
            from gateways g join streams s using (gateway)
            where g.deleted_at is null
        )
        select id as "id!: GatewayId", name as "name!: String",
            cast(case when disabled_at is null then 0 else 1 end as bigint) as "is_disabled!: i64",
            cast(case when failing_since is null then 0 else 1 end as bigint) as "is_failing!: i64",
            cast(case when exists (
                select 1 from connections n where n.gateway = p.gateway and n.closed_at is null
            ) then 1 else 0 end as bigint) as "is_connected!: i64",
            dead_total as "dead_letters!: i64",
            cast(head - case when floor > confirmed then floor else confirmed end as bigint) as "lag!: i64"
        from placed p
        "#
    )
    .fetch(conn);
    let mut fleet = Fleet::default();
    let mut behind = BinaryHeap::new();
    while let Some(row) = rows.try_next().await? {
        match (row.is_disabled != 0, row.is_connected != 0) {
            (true, _) => fleet.disabled += 1,
            (false, true) => fleet.connected += 1,
            (false, false) => fleet.away += 1,
        }
        fleet.failing += u64::from(row.is_failing != 0 && row.is_disabled == 0);
        let lag = u64::try_from(row.lag).unwrap_or(0);
        fleet.pending += lag;
        fleet.dead_letters += u64::try_from(row.dead_letters).unwrap_or(0);
        behind.push(Reverse((lag, row.name, row.id)));
        if behind.len() > furthest {
            behind.pop();
        }
    }
    fleet.furthest_behind = behind
        .into_sorted_vec()
        .into_iter()
        .map(|Reverse((events, name, id))| GatewayLag { id, name, events })
        .collect();
    Ok(fleet)
}
