//! What Postgres says in its own words. Several nodes write at once, each
//! statement sees what was committed before it began (read committed), and a
//! row that is about to be changed is locked first, in the order that `sql`
//! lays down.

use std::collections::BTreeSet;
use std::time::Duration;

use super::sql::Chore;
use super::sql::nodes::{Left, REAPED};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, GatewayKey, NodeId};
use crate::store::Result;

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

pub(super) type Connection = sqlx::PgConnection;

macro_rules! query {
    ($text:tt $($rest:tt)*) => { sqlx::query!($text + " -- postgres" $($rest)*) };
}
macro_rules! query_as {
    ($row:path, $text:tt $($rest:tt)*) => { sqlx::query_as!($row, $text + " -- postgres" $($rest)*) };
}
macro_rules! query_scalar {
    ($text:tt $($rest:tt)*) => { sqlx::query_scalar!($text + " -- postgres" $($rest)*) };
}
pub(super) use {query, query_as, query_scalar};

/// Tells our advisory locks from those of others in the same database.
pub(super) const LOCKS: i32 = 0x6765_7673;

fn keys<'a>(gateways: impl IntoIterator<Item = &'a GatewayKey>) -> Vec<i64> {
    gateways.into_iter().map(|key| key.0).collect()
}

/// The database's clock: nodes' own clocks differ. It is asked when the locks
/// are held, so that in each log later numbers have later instants.
pub(super) async fn clock(connection: &mut Connection) -> Result<Timestamp> {
    Ok(query_scalar!(r#"select clock_timestamp() as "now!: Timestamp""#)
        .fetch_one(connection)
        .await?)
}

/// When something happened that this node's clock saw at `at`, by the database's
/// clock. If the clocks differ by more than a few seconds, only its age is known.
pub(super) fn instant(now: Timestamp, at: Timestamp) -> Timestamp {
    const CLOSE: Duration = Duration::from_secs(5);
    if at <= now && now.since(at) < CLOSE { at } else { now.minus(Timestamp::now().since(at)) }
}

/// Locks streams by rising key. Answers whether what was read before has to be
/// read again: others may have held the locks until now.
pub(super) async fn lock_streams(
    connection: &mut Connection,
    gateways: &BTreeSet<GatewayKey>,
) -> Result<bool> {
    if gateways.is_empty() {
        return Ok(false);
    }
    let keys = keys(gateways);
    query!(
        r#"select gateway from streams where gateway = any($1) order by gateway for no key update"#,
        &keys
    )
    .fetch_all(connection)
    .await?;
    Ok(true)
}

/// The clock, and which of these gateways were not deleted before their streams
/// were locked.
pub(super) async fn still_there(
    connection: &mut Connection,
    gateways: &BTreeSet<GatewayKey>,
) -> Result<(Timestamp, BTreeSet<GatewayKey>)> {
    let keys = keys(gateways);
    let row = query!(
        r#"
        select clock_timestamp() as "now!: Timestamp", array(
            select gateway from gateways where gateway = any($1) and deleted_at is null
        ) as "there!: Vec<i64>"
        "#,
        &keys
    )
    .fetch_one(connection)
    .await?;
    Ok((row.now, row.there.into_iter().map(GatewayKey).collect()))
}

/// Takes a chore's lock until the transaction ends; false if another node has it.
pub(super) async fn only_one(connection: &mut Connection, chore: Chore) -> Result<bool> {
    let chore = match chore {
        Chore::Retention => 1,
        Chore::Reaping => 2,
        Chore::Expiry => 3,
    };
    Ok(query_scalar!(r#"select pg_try_advisory_xact_lock($1, $2) as "taken!: bool""#, LOCKS, chore)
        .fetch_one(connection)
        .await?)
}

/// A node that was last heard of before this is dead. It says that it lives
/// every few seconds, so that a pause of its own does not kill it.
pub(super) fn silent_before(now: Timestamp, timeout: Duration) -> Timestamp {
    now.minus(timeout)
}

/// Connections whose node has stopped, has been silent for too long, or is unknown.
pub(super) async fn left_by_dead_nodes(
    connection: &mut Connection,
    (before, after): (Timestamp, Timestamp),
    node: NodeId,
) -> Result<Vec<Left>> {
    Ok(query_as!(
        Left,
        r#"
        select c.id as "id!: ConnectionId", c.gateway as "gateway!: GatewayKey",
            g.id as "gateway_id!: GatewayId"
        from connections c join gateways g using (gateway)
        where c.closed_at is null and c.node <> $1 and not exists (
            select 1 from nodes n
            where n.id = c.node and n.stopped_at is null and n.heartbeat_at between $2 and $4
        )
        order by c.gateway limit $3
        "#,
        node as _,
        before as _,
        REAPED,
        after as _
    )
    .fetch_all(connection)
    .await?)
}
