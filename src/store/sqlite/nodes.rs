//! Which server processes there are, and what a dead one left open.

use sqlx::sqlite::SqliteConnection;

use crate::clock::Timestamp;
use crate::event::{NodeId, Reason};
use crate::store::Result;

/// See [`crate::store::Store::node_heartbeat`].
pub(super) async fn node_heartbeat(
    connection: &mut SqliteConnection,
    now: Timestamp,
    node: NodeId,
) -> Result<()> {
    let (node, now) = (node.to_string(), now.micros());
    sqlx::query!(
        "insert into nodes (id, started_at, heartbeat_at) values ($1, $2, $2)
         on conflict (id) do update set heartbeat_at = excluded.heartbeat_at",
        node,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// See [`crate::store::Store::reap_dead_nodes`]. A SQLite file serves one
/// process, so every other node is dead.
pub(super) async fn reap_dead_nodes(
    connection: &mut SqliteConnection,
    now: Timestamp,
    node: NodeId,
) -> Result<u64> {
    let (node, now, reason) = (node.to_string(), now.micros(), Reason::NodeLost.as_str());
    sqlx::query!(
        "update cursors set left_at = $2
         where left_at is null
           and instance in (select id from connections where closed_at is null and node <> $1)",
        node,
        now
    )
    .execute(&mut *connection)
    .await?;
    let reaped = sqlx::query!(
        "update connections set closed_at = $2, close_reason = $3
         where closed_at is null and node <> $1",
        node,
        now,
        reason
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    sqlx::query!(
        "update nodes set stopped_at = heartbeat_at where stopped_at is null and id <> $1",
        node
    )
    .execute(connection)
    .await?;
    Ok(reaped)
}
