//! Corrective actions on a gateway (pause, resume, skip, resync) and on an event (purge).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::auth::Admin;
use super::extract::{self, Path};
use super::gateways::shown;
use super::openapi::{Body, Missing, Problems, ResyncRefused, Scoped, Taken, Write};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::Query;
use crate::api::{
    self, PauseRequest, PauseResponse, PurgeRequest, PurgeResponse, ResumeRequest, ResyncRequest,
    ResyncResponse, ResyncState, SkipRequest, SkipResponse,
};
use crate::dispatch::Dispatcher;
use crate::event::{EventId, GatewayId, Reason};
use crate::names;
use crate::store::{self, Actions, PauseChange, ResyncOutcome};

/// The most characters of a reason.
const MAX_REASON_CHARS: usize = 500;

/// Pause the delivery to a gateway.
///
/// The gateway stays connected, and is sent no more events by any node, at the latest a second
/// after the response. What was sent before can still be confirmed. Events for it are kept, and are
/// not recorded as failed because of the pause; their expiry is not postponed. A gateway that is
/// paused already stays as it is.
#[utoipa::path(
    post, path = "/gateways/{id}/pause", tag = "gateways", operation_id = "pauseGateway",
    params(("id" = GatewayId, Path, description = "The gateway.")),
    request_body(content = Option<PauseRequest>),
    responses(
        (status = 200, description = "It is paused.", body = PauseResponse),
        Problems<(Scoped, Missing, Body, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn pause(
    State(dispatcher): State<Arc<Dispatcher>>,
    Part(actions): Part<dyn Actions>,
    Admin(actor): Admin,
    Path(id): Path<GatewayId>,
    _: Query<()>,
    extract::OptionalJson(request): extract::OptionalJson<PauseRequest>,
) -> HandlerResult<Json<PauseResponse>> {
    let PauseRequest { reason, dry_run } = request;
    let reason = reason.as_deref().map(reason_of).transpose()?;
    let change = actions.pause_gateway(&actor, id, reason.as_deref(), dry_run).await?;
    Ok(Json(paused(&dispatcher, change, dry_run)))
}

/// Resume the delivery to a paused gateway.
///
/// Delivery resumes in order, on all nodes at the latest a second after the response.
#[utoipa::path(
    post, path = "/gateways/{id}/resume", tag = "gateways", operation_id = "resumeGateway",
    params(("id" = GatewayId, Path, description = "The gateway.")),
    request_body(content = Option<ResumeRequest>),
    responses(
        (status = 200, description = "It is not paused.", body = PauseResponse),
        Problems<(Scoped, Missing, Body, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn resume(
    State(dispatcher): State<Arc<Dispatcher>>,
    Part(actions): Part<dyn Actions>,
    Admin(actor): Admin,
    Path(id): Path<GatewayId>,
    _: Query<()>,
    extract::OptionalJson(request): extract::OptionalJson<ResumeRequest>,
) -> HandlerResult<Json<PauseResponse>> {
    let ResumeRequest { dry_run } = request;
    let change = actions.resume_gateway(&actor, id, dry_run).await?;
    Ok(Json(paused(&dispatcher, change, dry_run)))
}

fn paused(dispatcher: &Dispatcher, change: PauseChange, dry_run: bool) -> PauseResponse {
    let PauseChange { changed, gateway, .. } = change;
    PauseResponse { changed, dry_run, gateway: shown(dispatcher, gateway) }
}

/// Skip a pending delivery.
///
/// It becomes a dead letter with the reason `skipped`, which can be redriven later. Connections
/// that wait for its confirmation go on at once; others pass over it when its turn comes. If it was
/// sent before, the gateway may still handle it. A delivery that is confirmed, or was given up for
/// another reason, is refused with 409.
#[utoipa::path(
    post, path = "/gateways/{id}/skip", tag = "gateways", operation_id = "skipDelivery",
    params(("id" = GatewayId, Path, description = "The gateway.")),
    request_body = SkipRequest,
    responses(
        (status = 200, description = "It is skipped.", body = SkipResponse),
        Problems<(Scoped, Missing, Body, Taken, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn skip(
    State(dispatcher): State<Arc<Dispatcher>>,
    Part(actions): Part<dyn Actions>,
    Admin(actor): Admin,
    Path(id): Path<GatewayId>,
    _: Query<()>,
    extract::Json(request): extract::Json<SkipRequest>,
) -> HandlerResult<Json<SkipResponse>> {
    let SkipRequest { sequence, reason, dry_run } = request;
    let reason = reason_of(&reason)?;
    let done = actions.skip_delivery(&actor, id, sequence, &reason, dry_run).await?;
    let (changed, event) = (done.changed, done.delivery.events.first());
    let event_id = event.map(|event| event.id.clone());
    if changed && !dry_run {
        let detail = store::Skipped::detail(&actor.principal.name, &reason);
        dispatcher.log_given_up(&[done.delivery], Reason::Skipped, &detail);
    }
    Ok(Json(SkipResponse { changed, dry_run, gateway_id: id, sequence, event_id }))
}

/// Request a resync of a gateway.
///
/// Each of its instances, or the one that is named, reads a snapshot: a live connection is asked to
/// reconnect, and the next one begins with a gap for the reason `resync`, which ends when the
/// gateway has applied the snapshot. The request is stored until then, and concerns only instances
/// that have connected before. A repeat changes nothing for instances of which a resync is pending.
/// A gateway that has only used plain mode is refused with 409.
#[utoipa::path(
    post, path = "/gateways/{id}/resync", tag = "gateways", operation_id = "resyncGateway",
    params(("id" = GatewayId, Path, description = "The gateway.")),
    request_body(content = Option<ResyncRequest>),
    responses(
        (status = 200, description = "It is requested.", body = ResyncResponse),
        Problems<(Scoped, Missing, Body, ResyncRefused, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn resync(
    State(dispatcher): State<Arc<Dispatcher>>,
    Part(actions): Part<dyn Actions>,
    Admin(actor): Admin,
    Path(id): Path<GatewayId>,
    _: Query<()>,
    extract::OptionalJson(request): extract::OptionalJson<ResyncRequest>,
) -> HandlerResult<Json<ResyncResponse>> {
    let ResyncRequest { instance, reason, dry_run } = request;
    let reason = reason.as_deref().map(reason_of).transpose()?;
    let request = store::ResyncRequest { instance, reason };
    let done = actions.request_resync(&actor, id, &request, dry_run).await?;
    dispatcher.resync(done.key, &done.connections);
    let pending = done.pending.into_iter().map(Into::into).collect();
    Ok(Json(ResyncResponse { changed: done.changed, dry_run, gateway_id: id, pending }))
}

/// Purge an event's payload.
///
/// The event, its sequences and the history of its deliveries stay; the content is removed, also
/// from rejected rows of the inbox. Pending deliveries become dead letters with the reason `purged`.
/// The event can't be redriven any more. A repeat of the event is still recognised.
#[utoipa::path(
    delete, path = "/events/{id}/payload", tag = "events", operation_id = "purgePayload",
    params(("id" = EventId, Path, description = "The event.")),
    request_body = PurgeRequest,
    responses(
        (status = 200, description = "It is purged.", body = PurgeResponse),
        Problems<(Scoped, Missing, Body, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn purge(
    State(dispatcher): State<Arc<Dispatcher>>,
    Part(actions): Part<dyn Actions>,
    Admin(actor): Admin,
    Path(id): Path<EventId>,
    _: Query<()>,
    extract::Json(request): extract::Json<PurgeRequest>,
) -> HandlerResult<Json<PurgeResponse>> {
    let PurgeRequest { reason, dry_run } = request;
    let reason = reason_of(&reason)?;
    let done = actions.purge_event(&actor, &id, &reason, dry_run).await?;
    if done.changed && !dry_run {
        dispatcher.log_given_up(&done.given_up, Reason::Purged, "the payload was purged");
    }
    Ok(Json(PurgeResponse {
        changed: done.changed,
        dry_run,
        event_id: id,
        purged: done.purge.into(),
        given_up: done.given_up.len(),
    }))
}

/// A reason as it is recorded: without control and format characters, which could change how the
/// text around it is displayed.
fn reason_of(text: &str) -> HandlerResult<String> {
    let reason = names::inert(text.trim());
    if reason.is_empty() || reason.chars().count() > MAX_REASON_CHARS {
        return Err(Problem::invalid("reason", "must be 1 to 500 characters"));
    }
    Ok(reason)
}

impl From<store::Pause> for api::Pause {
    fn from(pause: store::Pause) -> Self {
        let store::Pause { at, by, reason } = pause;
        Self { at, by, reason }
    }
}

impl From<store::Purge> for api::Purge {
    fn from(purge: store::Purge) -> Self {
        let store::Purge { at, by, reason } = purge;
        Self { at, by, reason }
    }
}

impl From<store::Resync> for api::Resync {
    fn from(resync: store::Resync) -> Self {
        let store::Resync { started, ended, .. } = resync;
        let state = match (ended, started) {
            (Some((_, ResyncOutcome::Done)), _) => ResyncState::Done,
            (Some((_, ResyncOutcome::Removed)), _) => ResyncState::Removed,
            (None, Some(_)) => ResyncState::Started,
            (None, None) => ResyncState::Pending,
        };
        Self {
            instance: Some(resync.instance).filter(|name| !name.is_empty()),
            state,
            requested_at: resync.requested_at,
            requested_by: resync.requested_by,
            reason: resync.reason,
            connection_id: started.map(|(id, _)| id),
            started_at: started.map(|(_, at)| at),
            resume_at: resync.resume_at,
            ended_at: ended.map(|(at, _)| at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_bounded_and_inert() {
        assert_eq!(reason_of(" upgrade ").unwrap(), "upgrade");
        assert_eq!(reason_of("a\u{1b}[31mb\u{202e}c\nd").unwrap(), "a\u{fffd}[31mb\u{fffd}c d");
        assert!(reason_of(&"é".repeat(500)).is_ok());
        for bad in ["", " \n", &"x".repeat(501)] {
            assert_eq!(reason_of(bad).unwrap_err().status().as_u16(), 422, "{bad:?}");
        }
    }
}
