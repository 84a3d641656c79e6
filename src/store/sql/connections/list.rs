//! Lists live and past connections, newest first, in pages. There is one statement per combination
//! of filters, each with an index of its own, and one for the details.

use super::super::dialect::connections::ConnectionRow;
use super::super::dialect::{Connection, ConnectionStatements, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, GatewayKey, OrganisationKey};
use crate::store::diagnosis::{COUNTED, LISTED};
use crate::store::{ConnectionCursor, ConnectionInfo, ConnectionPage, Result, TruncatedList};

/// A position in the order of the result.
struct Position {
    id: ConnectionId,
    connected_at: Timestamp,
}

impl Position {
    /// Later than any connection.
    fn newest() -> Self {
        Self { id: ConnectionId::new(), connected_at: Timestamp::from_micros(i64::MAX) }
    }
}

/// Lists connections after a position. The scan skips connections of other organisations, so a page
/// may be short.
pub(crate) async fn list(
    conn: &mut Connection,
    organisation: OrganisationKey,
    gateway: Option<GatewayId>,
    live_only: bool,
    after: Option<ConnectionCursor>,
    limit: usize,
) -> Result<ConnectionPage> {
    let after = match after {
        Some(at) => Position { id: at.id, connected_at: Timestamp::from_micros(at.connected_at) },
        None => Position::newest(),
    };
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let positions = match gateway {
        Some(id) => match key(conn, organisation, id).await? {
            Some(gateway) => of_gateway(conn, gateway, live_only, after, most).await?,
            None => Vec::new(),
        },
        None => of_all(conn, live_only, after, most).await?,
    };
    let next = positions.last().filter(|_| positions.len() == limit);
    let next =
        next.map(|at| ConnectionCursor { connected_at: at.connected_at.micros(), id: at.id });
    let ids: Vec<ConnectionId> = positions.iter().map(|position| position.id).collect();
    let rows = conn.connection_details(organisation, &ids).await?;
    Ok(ConnectionPage { rows: rows.into_iter().map(shown).collect(), next })
}

/// The newest connections of a gateway.
pub(crate) async fn newest_of_gateway(
    conn: &mut Connection,
    organisation: OrganisationKey,
    gateway: GatewayKey,
) -> Result<TruncatedList<ConnectionInfo>> {
    let most = i64::try_from(LISTED + COUNTED).unwrap_or(i64::MAX);
    let positions = of_gateway(conn, gateway.0, false, Position::newest(), most).await?;
    let TruncatedList { list, more } = TruncatedList::of(positions);
    let ids: Vec<ConnectionId> = list.iter().map(|position| position.id).collect();
    let rows = conn.connection_details(organisation, &ids).await?;
    Ok(TruncatedList { list: rows.into_iter().map(shown).collect(), more })
}

/// Includes deleted gateways, whose history is kept.
async fn key(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<Option<i64>> {
    Ok(query_scalar!(
        r#"select gateway as "gateway!: i64" from gateways where id = $1 and organisation = $2"#,
        id as _,
        organisation.0
    )
    .fetch_optional(conn)
    .await?)
}

async fn of_all(
    conn: &mut Connection,
    live_only: bool,
    after: Position,
    most: i64,
) -> Result<Vec<Position>> {
    let positions = if live_only {
        query_as!(
            Position,
            r#"
            select id as "id!: ConnectionId", connected_at as "connected_at!: Timestamp" from connections
            where closed_at is null and (connected_at, id) < ($1, $2)
            order by connected_at desc, id desc limit $3
            "#,
            after.connected_at as _,
            after.id as _,
            most
        )
        .fetch_all(conn)
        .await?
    } else {
        query_as!(
            Position,
            r#"
            select id as "id!: ConnectionId", connected_at as "connected_at!: Timestamp" from connections
            where (connected_at, id) < ($1, $2)
            order by connected_at desc, id desc limit $3
            "#,
            after.connected_at as _,
            after.id as _,
            most
        )
        .fetch_all(conn)
        .await?
    };
    Ok(positions)
}

async fn of_gateway(
    conn: &mut Connection,
    gateway: i64,
    live_only: bool,
    after: Position,
    most: i64,
) -> Result<Vec<Position>> {
    let positions = if live_only {
        query_as!(
            Position,
            r#"
            select id as "id!: ConnectionId", connected_at as "connected_at!: Timestamp" from connections
            where gateway = $1 and closed_at is null and (connected_at, id) < ($2, $3)
            order by connected_at desc, id desc limit $4
            "#,
            gateway,
            after.connected_at as _,
            after.id as _,
            most
        )
        .fetch_all(conn)
        .await?
    } else {
        query_as!(
            Position,
            r#"
            select id as "id!: ConnectionId", connected_at as "connected_at!: Timestamp" from connections
            where gateway = $1 and (connected_at, id) < ($2, $3)
            order by connected_at desc, id desc limit $4
            "#,
            gateway,
            after.connected_at as _,
            after.id as _,
            most
        )
        .fetch_all(conn)
        .await?
    };
    Ok(positions)
}

fn shown(row: ConnectionRow) -> ConnectionInfo {
    ConnectionInfo {
        connection_id: row.id,
        gateway_id: row.gateway_id,
        gateway_name: row.name,
        transport: row.transport,
        node: row.node.to_string(),
        remote_address: row.remote_address,
        connected_at: row.connected_at,
        last_heartbeat: row.last_heartbeat_at,
        status: if row.closed_at.is_some() { "closed" } else { "connected" },
        confirmed: row.confirmed,
        closed_at: row.closed_at,
        close_reason: row.close_reason,
    }
}
