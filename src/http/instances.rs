//! Named instances of gateways: listing and forgetting them.

use axum::Json;
use axum::http::StatusCode;

use super::auth::{Admin, Reader};
use super::extract::Path;
use super::openapi::{Bodiless, Long, Missing, Problems, Scoped, Taken, Write};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::Query;
use crate::api::{ExpiredInstance, Instance, InstanceConnection, Instances, Level, Resync};
use crate::event::GatewayId;
use crate::store;

/// List a gateway's named instances.
///
/// Replicas that state a name when they connect (subprotocol `gateway-events.v1`), with their
/// positions, those that have expired, and the resyncs that were requested of the gateway.
#[utoipa::path(
    get, path = "/gateways/{id}/instances", tag = "gateways", operation_id = "listInstances",
    params(("id" = GatewayId, Path, description = "The gateway.")),
    responses(
        (status = 200, description = "Its instances.", body = Instances),
        Problems<(Scoped, Missing, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn list(
    Part(instances): Part<dyn store::Instances>,
    Reader(organisation): Reader,
    Path(id): Path<GatewayId>,
    _: Query<()>,
) -> HandlerResult<Json<Instances>> {
    let found = instances.instances(organisation, id).await?;
    let found = found.ok_or_else(|| Problem::not_found("gateway"))?;
    let mut list: Vec<Instance> = found.instances.into_iter().map(Into::into).collect();
    let expired = found.expired.into_iter().map(Into::into).collect();
    let resyncs: Vec<Resync> = found.resyncs.into_iter().map(Into::into).collect();
    for one in &mut list {
        let of_it = |it: &&Resync| it.ended_at.is_none() && it.instance.as_ref() == Some(&one.name);
        one.resync = resyncs.iter().find(of_it).cloned();
    }
    Ok(Json(Instances { count: list.len(), list, expired, resyncs }))
}

/// Forget a named instance.
///
/// Removes its position. If all instances must confirm, deliveries no longer wait for it. It must
/// not be connected. If it connects again, it starts like a new one.
#[utoipa::path(
    delete, path = "/gateways/{id}/instances/{name}", tag = "gateways",
    operation_id = "forgetInstance",
    params(
        ("id" = GatewayId, Path, description = "The gateway."),
        ("name" = String, Path, description = "The instance."),
    ),
    responses(
        (status = 204, description = "It is forgotten."),
        Problems<(Scoped, Missing, Taken, Write, Bodiless)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn forget(
    Part(instances): Part<dyn store::Instances>,
    Admin(actor): Admin,
    Path((id, name)): Path<(GatewayId, String)>,
    _: Query<()>,
) -> HandlerResult<StatusCode> {
    instances.forget_instance(&actor, id, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<store::Level> for Level {
    fn from(level: store::Level) -> Self {
        match level {
            store::Level::Received => Self::Received,
            store::Level::Applied => Self::Applied,
        }
    }
}

impl From<store::InstanceInfo> for Instance {
    fn from(info: store::InstanceInfo) -> Self {
        Self {
            name: info.name,
            confirm: info.confirm.into(),
            received: info.received,
            applied: info.applied,
            lag: info.lag,
            connected: info.connection.is_some(),
            connection: info.connection.map(|it| InstanceConnection {
                connection_id: it.id,
                transport: it.transport,
                node: it.node.to_string(),
                connected_at: it.connected_at,
            }),
            resync: None,
            last_seen_at: info.last_seen_at,
        }
    }
}

impl From<store::ExpiredInstance> for ExpiredInstance {
    fn from(expired: store::ExpiredInstance) -> Self {
        Self {
            name: expired.name,
            confirm: expired.confirm.into(),
            received: expired.received,
            applied: expired.applied,
            last_seen_at: expired.last_seen_at,
            expired_at: expired.expired_at,
        }
    }
}
