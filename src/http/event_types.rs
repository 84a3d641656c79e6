//! Lists, shows, registers and deletes event types.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};

use super::auth::{self, Admin, Reader};
use super::deliveries::open_window;
use super::extract::{self, Path};
use super::openapi::{
    Bodiless, Body, Compute, InUse, Long, Missing, Problems, Scoped, Taken, Write,
};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::publish::Publishing;
use super::query::{FromQuery, Parameters, Query, documented};
use crate::api::{Code, EventTypeDefinition, EventTypeDeletion, EventTypeInfo, Page};
use crate::compute::Source;
use crate::event::{EventType, OrganisationKey};
use crate::event_types::built_in;
use crate::ingest::{MAX_TTL_SECS, SchemaCheckError};
use crate::store::{self, Actor, EventTypes, Log};

/// List event types.
#[utoipa::path(
    get, path = "/event-types", tag = "event types", operation_id = "listEventTypes",
    responses(
        (status = 200, description = "All types, built-in ones included.", body = Page<EventTypeInfo>),
        Problems<(Scoped,)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn list(
    Part(event_types): Part<dyn EventTypes>,
    Reader(organisation): Reader,
    _: Query<()>,
) -> HandlerResult<Json<Page<EventTypeInfo>>> {
    let types = event_types.event_types(organisation).await?;
    Ok(Json(Page::whole(types.into_iter().map(Into::into).collect())))
}

/// Show an event type.
#[utoipa::path(
    get, path = "/event-types/{name}", tag = "event types", operation_id = "showEventType",
    params(("name" = EventType, Path, description = "The type's name.")),
    responses(
        (status = 200, description = "The type.", body = EventTypeInfo),
        Problems<(Scoped, Missing)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn show(
    Part(event_types): Part<dyn EventTypes>,
    Reader(organisation): Reader,
    Path(name): Path<String>,
    _: Query<()>,
) -> HandlerResult<Json<EventTypeInfo>> {
    let name = named(&name)?;
    let info = event_types.event_type(organisation, &name).await?;
    info.map(|info| Json(info.into())).ok_or_else(|| Problem::not_found("event type"))
}

/// Register or replace an event type.
///
/// Events of this type can be published at once on this node, and within a second on other nodes.
/// Payloads of a built-in type must always satisfy its built-in schema; a registered one is checked
/// in addition.
#[utoipa::path(
    put, path = "/event-types/{name}", tag = "event types", operation_id = "putEventType",
    params(("name" = EventType, Path, description = "The type's name.")),
    request_body = EventTypeDefinition,
    responses(
        (status = 200, description = "It is replaced.", body = EventTypeInfo),
        (status = 201, description = "It is registered.", body = EventTypeInfo),
        Problems<(Scoped, Missing, Body, Compute, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn put(
    State(publishing): State<Arc<Publishing>>,
    Admin(actor): Admin,
    Path(name): Path<String>,
    _: Query<()>,
    headers: HeaderMap,
    extract::Json(definition): extract::Json<EventTypeDefinition>,
) -> HandlerResult<(StatusCode, Json<EventTypeInfo>)> {
    let source = auth::source(&headers);
    let (status, info) = define(&publishing, &actor, &source, &name, definition).await?;
    Ok((status, Json(info)))
}

/// Registers or replaces a type, for a client whose computations count for this source.
pub(super) async fn define(
    publishing: &Publishing,
    actor: &Actor,
    source: &Source,
    name: &str,
    definition: EventTypeDefinition,
) -> HandlerResult<(StatusCode, EventTypeInfo)> {
    let name = named(name)?;
    if definition.description.chars().count() > 1000 {
        return Err(Problem::invalid("description", "must be at most 1000 characters"));
    }
    if definition.ttl_seconds.is_some_and(|secs| !(1..=MAX_TTL_SECS).contains(&secs)) {
        return Err(Problem::invalid("ttlSeconds", format!("must be 1 to {MAX_TTL_SECS}")));
    }
    if let Some(schema) = &definition.schema {
        publishing.rules.check_schema(source, schema.clone()).await.map_err(
            |error| match error {
                SchemaCheckError::Invalid(why) => Problem::invalid("schema", why),
                SchemaCheckError::Compute(error) => error.into(),
            },
        )?;
    }
    let info = store::EventTypeInfo {
        name: name.as_str().to_owned(),
        description: definition.description,
        schema: definition.schema,
        ttl_secs: definition.ttl_seconds,
        barrier: definition.barrier,
    };
    let put = publishing.event_types.put_event_type(actor, &info).await;
    // Even if it is unknown whether that was stored.
    publishing.forget(actor.organisation, name);
    let status = if put? { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, info.into()))
}

/// Delete a registered event type.
///
/// Events of this type can't be published any more; those in the logs are delivered. A type that
/// events of the last 24 hours have is only deleted with `force`. If the name is that of a built-in
/// type, the built-in one is in force again; built-in types can't be deleted.
#[utoipa::path(
    delete, path = "/event-types/{name}", tag = "event types", operation_id = "deleteEventType",
    params(("name" = EventType, Path, description = "The type's name."), EventTypeDeletion),
    responses(
        (status = 204, description = "It is deleted."),
        Problems<(Scoped, Missing, Taken, InUse, Long, Write, Bodiless)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn remove(
    State(publishing): State<Arc<Publishing>>,
    Part(event_types): Part<dyn EventTypes>,
    Part(log): Part<dyn Log>,
    Admin(actor): Admin,
    Path(name): Path<String>,
    Query(EventTypeDeletion { force }): Query<EventTypeDeletion>,
) -> HandlerResult<StatusCode> {
    let name = named(&name)?;
    let exists = event_types.event_type(actor.organisation, &name).await?;
    if exists.is_none() {
        return Err(Problem::not_found("event type"));
    }
    let is_built_in = built_in(name.as_str()).is_some();
    if !force && !is_built_in && is_used(log.as_ref(), actor.organisation, &name).await? {
        return Err(Problem::new(
            Code::EventTypeInUse,
            format!(
                "Events of the type {name} were published in the last 24 hours. If no more will be published, delete it with force=true (on the command line: --force)."
            ),
        ));
    }
    let deleted = event_types.delete_event_type(&actor, &name).await;
    publishing.forget(actor.organisation, name);
    deleted?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whether there are events of this type from the last 24 hours. Also true if that can't be found
/// out with bounded work, among many other events.
async fn is_used(
    log: &dyn Log,
    organisation: OrganisationKey,
    name: &EventType,
) -> HandlerResult<bool> {
    const MAX_PAGES: usize = 20;
    let filter = store::EventFilter {
        window: open_window(None, None)?,
        event_type: Some(name.clone()),
        ..store::EventFilter::default()
    };
    let mut cursor = None;
    for _ in 0..MAX_PAGES {
        let page = log.events(organisation, &filter, cursor, 1).await?;
        if !page.rows.is_empty() {
            return Ok(true);
        }
        cursor = page.next;
        if cursor.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

impl FromQuery for EventTypeDeletion {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        let force = parameters.one_of("force", &[("true", true), ("false", false)])?;
        Ok(Self { force: force.unwrap_or_default() })
    }
}

fn named(name: &str) -> HandlerResult<EventType> {
    EventType::new(name).map_err(|error| Problem::invalid("name", error.to_string()))
}

impl From<store::EventTypeInfo> for EventTypeInfo {
    fn from(info: store::EventTypeInfo) -> Self {
        let (name, description) = (info.name.clone(), info.description.clone());
        let (ttl_seconds, barrier) = (info.ttl_secs, info.barrier);
        let (schema, built_in_schema) = info.into_schemas();
        Self { name, description, schema, built_in_schema, ttl_seconds, barrier }
    }
}
