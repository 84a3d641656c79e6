//! Lists, shows and registers event types.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};

use super::App;
use super::auth::{self, Admin, Reader};
use super::extract::{self, Path};
use super::openapi::{Body, Compute, Missing, Problems, Scoped, Write};
use super::problem::{Answer, Problem};
use super::query::Query;
use crate::api::{EventTypeDefinition, EventTypeInfo, Page};
use crate::event::EventType;
use crate::ingest::SchemaCheckError;
use crate::store;

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
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    _: Query<()>,
) -> Answer<Json<Page<EventTypeInfo>>> {
    let types = app.store.event_types(organisation).await?;
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
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    Path(name): Path<String>,
    _: Query<()>,
) -> Answer<Json<EventTypeInfo>> {
    let name = named(&name)?;
    let info = app.store.event_type(organisation, &name).await?;
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
    State(app): State<Arc<App>>,
    Admin(actor): Admin,
    Path(name): Path<String>,
    _: Query<()>,
    headers: HeaderMap,
    extract::Json(definition): extract::Json<EventTypeDefinition>,
) -> Answer<(StatusCode, Json<EventTypeInfo>)> {
    let name = named(&name)?;
    if definition.description.chars().count() > 1000 {
        return Err(Problem::invalid("description", "must be at most 1000 characters"));
    }
    if let Some(schema) = &definition.schema {
        app.rules.check_schema(&auth::source(&headers), schema.clone()).await.map_err(|error| {
            match error {
                SchemaCheckError::Invalid(why) => Problem::invalid("schema", why),
                SchemaCheckError::Compute(error) => error.into(),
            }
        })?;
    }
    let info = store::EventTypeInfo {
        name: name.as_str().to_owned(),
        description: definition.description,
        schema: definition.schema,
    };
    let put = app.store.put_event_type(&actor, &info).await;
    // Even if it is unknown whether that was stored.
    app.types.remove(&(actor.organisation, name));
    let status = if put? { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(info.into())))
}

fn named(name: &str) -> Answer<EventType> {
    EventType::new(name).map_err(|error| Problem::invalid("name", error.to_string()))
}

impl From<store::EventTypeInfo> for EventTypeInfo {
    fn from(info: store::EventTypeInfo) -> Self {
        let (name, description) = (info.name.clone(), info.description.clone());
        let (schema, built_in_schema) = info.into_schemas();
        Self { name, description, schema, built_in_schema }
    }
}
