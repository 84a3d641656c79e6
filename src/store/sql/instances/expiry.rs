//! Removes instances that were not connected for too long, and keeps a record of them.

use std::collections::BTreeSet;

use super::super::dialect::{Connection, NodeStatements, query, query_as, query_scalar};
use super::{is_connected, remove};
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, Sequence};
use crate::store::limits::TRIMMED_STREAMS;
use crate::store::{ExpiredInstance, Level, Result};

/// Expires instances without activity since `before`, of the next gateways after the key `reached`,
/// which moves on. Returns how many expired, and whether these were the last gateways.
pub(crate) async fn expire(
    conn: &mut Connection,
    now: Timestamp,
    before: Timestamp,
    reached: &mut i64,
    batch: i64,
) -> Result<(u64, bool)> {
    let after = *reached;
    let streams = query_scalar!(
        r#"
        select gateway as "gateway!: i64" from streams where gateway > $1 order by gateway limit $2
        "#,
        after,
        TRIMMED_STREAMS
    )
    .fetch_all(&mut *conn)
    .await?;
    let Some(last) = streams.last().copied() else { return Ok((0, true)) };
    let are_last = i64::try_from(streams.len()).is_ok_and(|count| count < TRIMMED_STREAMS);
    let rows = query!(
        r#"
        select u.gateway as "gateway!: GatewayKey", u.instance as "name!: String",
            g.id as "gateway_id!: GatewayId"
        from cursors u join gateways g on g.gateway = u.gateway
        where u.gateway > $1 and u.gateway <= $2 and u.confirm is not null and u.updated_at < $3
            and not exists (
                select 1 from connections c
                where c.gateway = u.gateway and c.closed_at is null and c.instance = u.instance
            )
        order by u.gateway, u.instance limit $4
        "#,
        after,
        last,
        before as _,
        batch
    )
    .fetch_all(&mut *conn)
    .await?;
    let gateways: BTreeSet<GatewayKey> = rows.iter().map(|row| row.gateway).collect();
    conn.lock_streams(&gateways).await?;
    // A gateway of which some were examined is examined again.
    let is_cut = i64::try_from(rows.len()).is_ok_and(|rows| rows >= batch);
    *reached = rows.last().filter(|_| is_cut).map_or(last, |row| row.gateway.0 - 1);
    let mut expired = 0;
    for row in rows {
        // It may have connected before the stream was locked.
        if is_connected(conn, row.gateway, &row.name).await? {
            continue;
        }
        let Some(gone) = remove(conn, now, row.gateway, &row.name).await? else { continue };
        insert(conn, now, row.gateway, &gone).await?;
        expired += 1;
        tracing::warn!(
            gateway = %row.gateway_id,
            instance = gone.name,
            last_seen_at = %gone.last_seen_at,
            received = gone.received.0,
            applied = gone.applied.0,
            "an instance has not connected for too long; its cursor is removed"
        );
    }
    Ok((expired, are_last && !is_cut))
}

async fn insert(
    conn: &mut Connection,
    now: Timestamp,
    gateway: GatewayKey,
    gone: &ExpiredInstance,
) -> Result<()> {
    let confirm = gone.confirm.as_str();
    query!(
        r#"
        insert into expired_instances (gateway, instance, confirm, received, applied_up_to,
            last_seen_at, expired_at)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (gateway, instance) do update
        set confirm = excluded.confirm, received = excluded.received,
            applied_up_to = excluded.applied_up_to, last_seen_at = excluded.last_seen_at,
            expired_at = excluded.expired_at
        "#,
        gateway.0,
        gone.name,
        confirm,
        gone.received.0,
        gone.applied.0,
        gone.last_seen_at as _,
        now as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Expired instances of a gateway, newest first.
pub(super) async fn expired(
    conn: &mut Connection,
    gateway: GatewayKey,
    limit: i64,
) -> Result<Vec<ExpiredInstance>> {
    struct Row {
        name: String,
        confirm: String,
        received: Sequence,
        applied: Sequence,
        last_seen_at: Timestamp,
        expired_at: Timestamp,
    }
    let rows = query_as!(
        Row,
        r#"
        select instance as "name!: String", confirm as "confirm!: String",
            received as "received!: Sequence", applied_up_to as "applied!: Sequence",
            last_seen_at as "last_seen_at!: Timestamp", expired_at as "expired_at!: Timestamp"
        from expired_instances where gateway = $1
        order by expired_at desc, instance limit $2
        "#,
        gateway.0,
        limit
    )
    .fetch_all(conn)
    .await?;
    let instance = |row: Row| ExpiredInstance {
        name: row.name,
        confirm: Level::stored(&row.confirm),
        received: row.received,
        applied: row.applied,
        last_seen_at: row.last_seen_at,
        expired_at: row.expired_at,
    };
    Ok(rows.into_iter().map(instance).collect())
}

/// Deletes a batch of the records of instances that expired before this; returns how many.
pub(crate) async fn forget(conn: &mut Connection, before: Timestamp, batch: i64) -> Result<u64> {
    let done = query!(
        r#"
        delete from expired_instances where (gateway, instance) in (
            select gateway, instance from expired_instances
            where expired_at < $1 order by expired_at limit $2
        )
        "#,
        before as _,
        batch
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
