//! What SQLite says in its own words. One server has the file and one
//! connection writes, so that nobody ever waits for a lock of another node.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, GatewayKey, NodeId};
use crate::store::Result;

use super::sql::Chore;
use super::sql::nodes::{Left, REAPED};

mod attempts;
mod batches;
mod expiry;
mod inbox;
mod missed;
mod positions;
mod reads;
mod types;
mod walks;

pub(super) use super::session::Session;
pub(super) use attempts::*;
pub(super) use batches::*;
pub(super) use expiry::*;
pub(super) use inbox::*;
pub(super) use missed::*;
pub(super) use positions::*;
pub(super) use reads::*;
pub(super) use walks::*;

pub(super) type Connection = sqlx::SqliteConnection;

macro_rules! query {
    ($text:tt $($rest:tt)*) => { sqlx::query!($text + " -- sqlite" $($rest)*) };
}
macro_rules! query_as {
    ($row:path, $text:tt $($rest:tt)*) => { sqlx::query_as!($row, $text + " -- sqlite" $($rest)*) };
}
macro_rules! query_scalar {
    ($text:tt $($rest:tt)*) => { sqlx::query_scalar!($text + " -- sqlite" $($rest)*) };
}
pub(super) use {query, query_as, query_scalar};

/// There is one clock, this machine's.
#[expect(clippy::unused_async, reason = "a shared database has to be asked")]
pub(super) async fn clock(_: &mut Connection) -> Result<Timestamp> {
    Ok(Timestamp::now())
}

/// When something happened that this node's clock saw at `at`.
pub(super) fn instant(now: Timestamp, at: Timestamp) -> Timestamp {
    at.min(now)
}

/// The whole file is locked already. Answers whether what was read before has
/// to be read again.
#[expect(clippy::unused_async, reason = "a shared database has rows to lock")]
pub(super) async fn lock_streams(_: &mut Connection, _: &BTreeSet<GatewayKey>) -> Result<bool> {
    Ok(false)
}

/// Nothing is deleted between two statements of a transaction.
#[expect(clippy::unused_async, reason = "a shared database has to be asked")]
pub(super) async fn still_there(
    _: &mut Connection,
    gateways: &BTreeSet<GatewayKey>,
) -> Result<(Timestamp, BTreeSet<GatewayKey>)> {
    Ok((Timestamp::now(), gateways.clone()))
}

/// There is one server.
#[expect(clippy::unused_async, reason = "a shared database has a lock to take")]
pub(super) async fn only_one(_: &mut Connection, _: Chore) -> Result<bool> {
    Ok(true)
}

/// One server has the file: whatever another one said, it lives no more.
pub(super) const fn silent_before(_: Timestamp, _: Duration) -> Timestamp {
    Timestamp::from_micros(i64::MAX)
}

/// One server has the file, so that every other node is a dead one.
pub(super) async fn left_by_dead_nodes(
    connection: &mut Connection,
    _: (Timestamp, Timestamp),
    node: NodeId,
) -> Result<Vec<Left>> {
    Ok(query_as!(
        Left,
        r#"
        select c.id as "id!: ConnectionId", c.gateway as "gateway!: GatewayKey",
            g.id as "gateway_id!: GatewayId"
        from connections c join gateways g using (gateway)
        where c.closed_at is null and c.node <> $1
        order by c.gateway limit $2
        "#,
        node as _,
        REAPED
    )
    .fetch_all(connection)
    .await?)
}
