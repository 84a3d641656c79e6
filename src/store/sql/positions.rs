//! Positions: how far a gateway, and each of its connections, has confirmed.
//! They only move forward. The gateway's own is the farthest of its unnamed
//! connections and is kept under the empty instance.

use super::dialect::{self, Connection, query, query_scalar};

use super::ledger::LONGEST_RANGE;
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayKey, Sequence};
use crate::store::Result;

pub(super) use crate::store::ranges::above;

/// Everything up to `to` is done with on `connection`.
pub(crate) struct Move {
    pub(crate) connection: ConnectionId,
    pub(crate) to: Sequence,
    pub(crate) at: Timestamp,
}

/// Raises the connections' own positions and their gateways'. A position that
/// somebody took over is gone, and stays so; nothing lies beyond a log's head.
pub(super) async fn raise(connection: &mut Connection, moves: &[Move]) -> Result<()> {
    dialect::raise_connections(connection, moves).await?;
    // Before the gateway's position moves: what lies between is newly delivered.
    dialect::count_confirmed(connection, moves, LONGEST_RANGE).await?;
    dialect::raise_gateways(connection, moves).await
}

/// The gateway's own position.
pub(super) async fn confirmed(
    connection: &mut Connection,
    gateway: GatewayKey,
) -> Result<Sequence> {
    let received = query_scalar!(
        r#"select received as "received!: Sequence" from cursors where gateway = $1 and instance = ''"#,
        gateway.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(received.unwrap_or(Sequence::ZERO))
}

/// The position of a connection, if it is still its own.
pub(super) async fn own(connection: &mut Connection, of: ConnectionId) -> Result<Option<Sequence>> {
    let received = query_scalar!(
        r#"
        select u.received as "received!: Sequence" from connections c
        join cursors u on u.gateway = c.gateway
            and u.instance = coalesce(nullif(c.instance, ''), cast(c.id as text))
        where c.id = $1
        "#,
        of as _
    )
    .fetch_optional(connection)
    .await?;
    Ok(received)
}

/// Notes that a single delivery was applied; it moves no other position.
pub(super) async fn applied(
    connection: &mut Connection,
    gateway: GatewayKey,
    on: ConnectionId,
    sequence: Sequence,
) -> Result<()> {
    query!(
        r#"
        update cursors set applied = $3
        where gateway = $1 and applied < $3 and (
            instance in (
                select coalesce(nullif(c.instance, ''), cast(c.id as text)) from connections c where c.id = $2
            )
            or instance = '' and exists (select 1 from connections c where c.id = $2 and c.instance = '')
        )
        "#,
        gateway.0,
        on as _,
        sequence.0
    )
    .execute(connection)
    .await?;
    Ok(())
}
