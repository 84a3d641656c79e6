//! Connections of gateways, live and past, with the reasons why they ended.

use axum::Json;
use serde::{Deserialize, Serialize};

use super::auth::Reader;
use super::cursor;
use super::extract::Path;
use super::openapi::{Long, Missing, Problems, Scoped};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::{FromQuery, Parameters, Query, documented};
use crate::api::{
    Connection, ConnectionStatus, ConnectionsQuery, ConnectionsStatus, Page, PageQuery,
};
use crate::event::{ConnectionId, GatewayId, OrganisationKey};
use crate::store::{ConnectionCursor, ConnectionInfo, Connections, Gateways};

impl FromQuery for ConnectionsQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        let words = [("connected", ConnectionsStatus::Connected), ("all", ConnectionsStatus::All)];
        Ok(Self { status: parameters.one_of("status", &words)? })
    }
}

/// List connections of all gateways, newest first.
///
/// Live ones, unless `status` is `all`.
#[utoipa::path(
    get, path = "/connections", tag = "connections", operation_id = "listConnections",
    params(ConnectionsQuery, PageQuery),
    responses(
        (status = 200, description = "A page of connections.", body = Page<Connection>),
        Problems<(Scoped, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn list(
    Part(connections): Part<dyn Connections>,
    Reader(organisation): Reader,
    Query((which, page)): Query<(ConnectionsQuery, PageQuery)>,
) -> HandlerResult<Json<Page<Connection>>> {
    let status = which.status.unwrap_or(ConnectionsStatus::Connected);
    answer(connections.as_ref(), organisation, None, status, &page).await
}

/// List a gateway's connections, newest first.
///
/// Live and past ones, unless `status` is `connected`.
#[utoipa::path(
    get, path = "/gateways/{id}/connections", tag = "connections",
    operation_id = "listGatewayConnections",
    params(("id" = GatewayId, Path, description = "The gateway."), ConnectionsQuery, PageQuery),
    responses(
        (status = 200, description = "A page of connections.", body = Page<Connection>),
        Problems<(Scoped, Missing, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn of_gateway(
    Part(gateways): Part<dyn Gateways>,
    Part(connections): Part<dyn Connections>,
    Reader(organisation): Reader,
    Path(id): Path<GatewayId>,
    Query((which, page)): Query<(ConnectionsQuery, PageQuery)>,
) -> HandlerResult<Json<Page<Connection>>> {
    if gateways.gateway(organisation, id).await?.is_none() {
        return Err(Problem::not_found("gateway"));
    }
    let status = which.status.unwrap_or(ConnectionsStatus::All);
    answer(connections.as_ref(), organisation, Some(id), status, &page).await
}

/// A [`ConnectionCursor`] inside a cursor of the API.
#[derive(Serialize, Deserialize)]
struct Position {
    connected_at: i64,
    id: ConnectionId,
}

impl From<ConnectionCursor> for Position {
    fn from(ConnectionCursor { connected_at, id }: ConnectionCursor) -> Self {
        Self { connected_at, id }
    }
}

impl From<Position> for ConnectionCursor {
    fn from(Position { connected_at, id }: Position) -> Self {
        Self { connected_at, id }
    }
}

async fn answer(
    connections: &dyn Connections,
    organisation: OrganisationKey,
    gateway: Option<GatewayId>,
    status: ConnectionsStatus,
    page: &PageQuery,
) -> HandlerResult<Json<Page<Connection>>> {
    let live_only = status == ConnectionsStatus::Connected;
    let filters = ("connections", gateway, live_only);
    let after = page.position::<Position>(&filters)?.map(ConnectionCursor::from);
    let limit = page.size();
    let found = connections.connections(organisation, gateway, live_only, after, limit).await?;
    let next = found.next.map(|at| cursor::encode(&Position::from(at), &filters));
    let list = found.rows.into_iter().map(Into::into).collect();
    Ok(Json(Page::new(list, limit, next)))
}

impl From<ConnectionInfo> for Connection {
    fn from(info: ConnectionInfo) -> Self {
        Self {
            connection_id: info.connection_id,
            gateway_id: info.gateway_id,
            gateway_name: info.gateway_name,
            transport: info.transport,
            node: info.node,
            remote_address: info.remote_address,
            connected_at: info.connected_at,
            last_heartbeat: info.last_heartbeat,
            status: match info.status {
                "connected" => ConnectionStatus::Connected,
                _ => ConnectionStatus::Closed,
            },
            confirmed: info.confirmed,
            closed_at: info.closed_at,
            close_reason: info.close_reason,
        }
    }
}
