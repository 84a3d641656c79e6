//! Gateways: register, list, show, change, delete.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::auth::{Admin, Reader};
use super::cursor;
use super::extract::{self, Path};
use super::openapi::{Bodiless, Body, Long, Missing, Problems, Scoped, Taken, Write};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::{FromQuery, Parameters, Query, documented};
use crate::api::{self, FieldError, GatewayChange, GatewaysQuery, NewGateway, Page, PageQuery};
use crate::dispatch::Dispatcher;
use crate::event::{GatewayId, Reason};
use crate::names;
use crate::store::{self, GatewayFilter, Gateways, MAX_LABELS};

/// The maximum number of replicas that can be declared for a gateway.
const MAX_REPLICAS: i64 = 1000;
/// The most characters of a gateway's name.
const MAX_NAME_CHARS: usize = 128;

/// Register a gateway.
#[utoipa::path(
    post, path = "/gateways", tag = "gateways", operation_id = "registerGateway",
    request_body = NewGateway,
    responses(
        (status = 201, description = "It is registered.", body = api::Gateway),
        Problems<(Scoped, Body, Taken, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn create(
    State(dispatcher): State<Arc<Dispatcher>>,
    Part(gateways): Part<dyn Gateways>,
    Admin(actor): Admin,
    _: Query<()>,
    extract::Json(new): extract::Json<NewGateway>,
) -> HandlerResult<(StatusCode, Json<api::Gateway>)> {
    check(Some(&new.name), new.labels.iter(), new.replicas)?;
    if new.labels.len() > MAX_LABELS {
        return Err(Problem::invalid("labels", format!("at most {MAX_LABELS} labels")));
    }
    let (id, replicas) = (new.id.unwrap_or_default(), new.replicas.unwrap_or(1));
    let gateway = gateways.create_gateway(&actor, id, &new.name, &new.labels, replicas).await?;
    Ok((StatusCode::CREATED, Json(shown(&dispatcher, gateway))))
}

impl FromQuery for GatewaysQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        let name = parameters.text("name").map(str::to_owned);
        Ok(Self { name, id_prefix: parameters.get("idPrefix")? })
    }
}

/// List gateways by name.
///
/// All of them, or those that match.
#[utoipa::path(
    get, path = "/gateways", tag = "gateways", operation_id = "listGateways",
    params(GatewaysQuery, PageQuery),
    responses(
        (status = 200, description = "A page of gateways.", body = Page<api::Gateway>),
        Problems<(Scoped, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn list(
    State(dispatcher): State<Arc<Dispatcher>>,
    Part(gateways): Part<dyn Gateways>,
    Reader(organisation): Reader,
    Query((which, page)): Query<(GatewaysQuery, PageQuery)>,
) -> HandlerResult<Json<Page<api::Gateway>>> {
    let filters = ("gateways", &which);
    let (limit, after) = (page.size(), page.position::<String>(&filters)?);
    let GatewaysQuery { name, id_prefix } = which.clone();
    let filter = GatewayFilter { name, id_prefix };
    let mut gateways =
        gateways.gateways(organisation, &filter, after.as_deref(), limit + 1).await?;
    let more = gateways.len() > limit;
    gateways.truncate(limit);
    let next = gateways.last().filter(|_| more).map(|last| cursor::encode(&last.name, &filters));
    let list = gateways.into_iter().map(|gateway| shown(&dispatcher, gateway)).collect();
    Ok(Json(Page::new(list, limit, next)))
}

/// Show a gateway.
#[utoipa::path(
    get, path = "/gateways/{id}", tag = "gateways", operation_id = "showGateway",
    params(("id" = GatewayId, Path, description = "The gateway.")),
    responses(
        (status = 200, description = "The gateway.", body = api::Gateway),
        Problems<(Scoped, Missing, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn show(
    State(dispatcher): State<Arc<Dispatcher>>,
    Part(gateways): Part<dyn Gateways>,
    Reader(organisation): Reader,
    Path(id): Path<GatewayId>,
    _: Query<()>,
) -> HandlerResult<Json<api::Gateway>> {
    let gateway = gateways.gateway(organisation, id).await?;
    let gateway = gateway.ok_or_else(|| Problem::not_found("gateway"))?;
    Ok(Json(shown(&dispatcher, gateway)))
}

/// Change a gateway.
///
/// The body is a JSON merge patch (RFC 7396). Disabling a gateway closes its
/// connections.
#[utoipa::path(
    patch, path = "/gateways/{id}", tag = "gateways", operation_id = "changeGateway",
    params(("id" = GatewayId, Path, description = "The gateway.")),
    request_body(
        content(
            (GatewayChange = "application/merge-patch+json"),
            (GatewayChange = "application/json"),
        ),
    ),
    responses(
        (status = 200, description = "The changed gateway.", body = api::Gateway),
        Problems<(Scoped, Missing, Body, Taken, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn change(
    State(dispatcher): State<Arc<Dispatcher>>,
    Part(gateways): Part<dyn Gateways>,
    Admin(actor): Admin,
    Path(id): Path<GatewayId>,
    _: Query<()>,
    extract::MergePatch(change): extract::MergePatch<GatewayChange>,
) -> HandlerResult<Json<api::Gateway>> {
    let labels = match &change.labels {
        Some(api::LabelChange::Merge(changes)) => Some(changes),
        Some(api::LabelChange::Clear) | None => None,
    };
    let set = labels.into_iter().flatten();
    let set = set.filter_map(|(name, value)| Some((name, value.as_ref()?)));
    check(change.name.as_deref(), set, change.replicas)?;
    let gateway = gateways.update_gateway(&actor, id, change.into()).await?;
    if gateway.disabled_at.is_some() {
        dispatcher.close_gateway(gateway.key, Reason::GatewayDisabled);
    }
    Ok(Json(shown(&dispatcher, gateway)))
}

/// Delete a gateway.
///
/// Closes its connections. What it has not received is recorded as failed, with the
/// reason `gateway_deleted`.
#[utoipa::path(
    delete, path = "/gateways/{id}", tag = "gateways", operation_id = "deleteGateway",
    params(("id" = GatewayId, Path, description = "The gateway.")),
    responses(
        (status = 204, description = "It is deleted."),
        Problems<(Scoped, Missing, Write, Bodiless)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn remove(
    State(dispatcher): State<Arc<Dispatcher>>,
    Part(gateways): Part<dyn Gateways>,
    Admin(actor): Admin,
    Path(id): Path<GatewayId>,
    _: Query<()>,
) -> HandlerResult<StatusCode> {
    let deleted = gateways.delete_gateway(&actor, id).await?;
    dispatcher.close_deleted(&deleted);
    Ok(StatusCode::NO_CONTENT)
}

fn check<'a>(
    name: Option<&str>,
    labels: impl Iterator<Item = (&'a String, &'a String)>,
    replicas: Option<i64>,
) -> HandlerResult<()> {
    let mut errors = Vec::new();
    let mut wrong = |field: String, message: &str| {
        errors.push(FieldError { field, message: message.to_owned() });
    };
    if let Some(name) = name {
        if !names::is_name(name, MAX_NAME_CHARS) {
            wrong(
                "name".to_owned(),
                "must be 1 to 128 characters, not only dots, none of them a control or format character or a filler, and without whitespace at either end",
            );
        } else if name.parse::<GatewayId>().is_ok() {
            wrong("name".to_owned(), "must not be a UUID, which would be taken for an id");
        }
    }
    for (key, value) in labels {
        if !names::is_name(key, 64) || !names::is_plain(value, 256) {
            let shown: String = key.chars().filter(|c| !names::is_invisible(*c)).take(64).collect();
            wrong(
                format!("labels.{shown}"),
                "a label's name has 1 to 64 characters, not only dots, without whitespace at either end, and its value at most 256; none of them is a control or format character",
            );
        }
    }
    if replicas.is_some_and(|replicas| !(1..=MAX_REPLICAS).contains(&replicas)) {
        wrong("replicas".to_owned(), "must be 1 to 1000");
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Problem::invalid_fields(errors))
}

/// A gateway as the API returns it. Includes connections to this node that are not recorded yet.
pub(super) fn shown(dispatcher: &Dispatcher, gateway: store::Gateway) -> api::Gateway {
    let here = i64::try_from(dispatcher.connected(gateway.key)).unwrap_or(i64::MAX);
    let connections = gateway.live_connections.max(here);
    let lag = gateway.oldest_pending_at.map_or(0, |at| gateway.as_of.since(at).as_secs());
    let verdict = verdict(gateway.verdict(), gateway.summary());
    let (manifest, manifest_at) = gateway.manifest.unzip();
    api::Gateway {
        id: gateway.id,
        name: gateway.name,
        labels: gateway.labels,
        replicas: gateway.replicas,
        confirmation: gateway.confirmation.into(),
        created_at: gateway.created_at,
        disabled: gateway.disabled_at.is_some(),
        disabled_at: gateway.disabled_at,
        paused: gateway.paused.map(Into::into),
        connected: connections > 0,
        connections,
        connected_since: gateway.connected_since,
        disconnected_at: gateway.left.map(|(at, _)| at),
        head: gateway.head,
        confirmed: gateway.confirmed,
        lag: api::Lag { events: gateway.pending, seconds: lag },
        verdict,
        epoch: gateway.epoch,
        floor: gateway.floor,
        last_refusal: gateway.last_refusal.map(Into::into),
        manifest,
        manifest_at,
    }
}

/// A verdict and its sentence as the API returns them.
pub(super) fn verdict(verdict: store::Verdict, summary: String) -> api::Verdict {
    api::Verdict {
        state: match verdict.state {
            store::VerdictState::Deleted => api::VerdictState::Deleted,
            store::VerdictState::Disabled => api::VerdictState::Disabled,
            store::VerdictState::Paused => api::VerdictState::Paused,
            store::VerdictState::Failing => api::VerdictState::Failing,
            store::VerdictState::Away => api::VerdictState::Away,
            store::VerdictState::Behind => api::VerdictState::Behind,
            store::VerdictState::Ok => api::VerdictState::Ok,
        },
        since: verdict.since,
        reason: verdict.reason.map(Cow::into_owned),
        failures: verdict.failures,
        summary,
    }
}

impl From<store::LastRefusal> for api::LastRefusal {
    fn from(refusal: store::LastRefusal) -> Self {
        let store::LastRefusal { at, code, cause, address } = refusal;
        let cause = cause.map(|cause| cause.as_str().to_owned());
        Self { at, code, cause, address }
    }
}

impl From<store::Confirmation> for api::Confirmation {
    fn from(confirmation: store::Confirmation) -> Self {
        match confirmation {
            store::Confirmation::Any => Self::Any,
            store::Confirmation::All => Self::All,
        }
    }
}

impl From<api::Confirmation> for store::Confirmation {
    fn from(confirmation: api::Confirmation) -> Self {
        match confirmation {
            api::Confirmation::Any => Self::Any,
            api::Confirmation::All => Self::All,
        }
    }
}

impl From<GatewayChange> for store::GatewayChange {
    fn from(change: GatewayChange) -> Self {
        let GatewayChange { name, labels, replicas, confirmation, disabled } = change;
        let confirmation = confirmation.map(Into::into);
        let labels = labels.map(|labels| match labels {
            api::LabelChange::Clear => store::LabelChange::Clear,
            api::LabelChange::Merge(changes) => store::LabelChange::Merge(changes),
        });
        Self { name, labels, replicas, confirmation, disabled }
    }
}
