//! The peak number of connections of a gateway.

use std::time::Duration;

use super::super::dialect::{Connection, NodeStatements, query_scalar};

use crate::event::GatewayKey;
use crate::store::Result;
use crate::store::limits::PEAK_CONNECTIONS;

/// The largest number of simultaneous connections since this instant. Older connections beyond the
/// limit of rows are ignored.
pub(crate) async fn peak(
    conn: &mut Connection,
    gateway: GatewayKey,
    within: Duration,
) -> Result<usize> {
    let since = conn.now().await?.minus(within);
    // A running sum over openings and ends. At the same instant the end counts first, because one
    // connection replaced the other.
    let peak = query_scalar!(
        r#"
        with newest as (
            select connected_at, closed_at from connections
            where gateway = $1 order by connected_at desc limit $2
        ),
        lately as (select * from newest where closed_at is null or closed_at >= $3),
        changes as (
            select connected_at as at, 1 as change from lately
            union all
            select closed_at as at, -1 as change from lately where closed_at is not null
        ),
        sums as (
            select sum(change) over (order by at, change rows unbounded preceding) as held from changes
        )
        select coalesce(max(held), 0) as "peak!: i64" from sums
        "#,
        gateway.0,
        PEAK_CONNECTIONS,
        since as _
    )
    .fetch_one(conn)
    .await?;
    Ok(usize::try_from(peak).unwrap_or(0))
}
