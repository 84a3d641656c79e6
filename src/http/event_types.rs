//! Event types: listed, shown, registered while running.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::App;
use super::auth::{self, Admin, Reader};
use super::cursor;
use super::extract::{self, Path};
use super::problem::{Answer, Problem};
use crate::event::EventType;
use crate::store::EventTypeInfo;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Definition {
    #[serde(default)]
    description: String,
    schema: Option<Box<RawValue>>,
}

/// `GET /event-types`.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
) -> Answer<Json<Value>> {
    let types = app.store.event_types(organisation).await?;
    let list: Vec<Value> = types.iter().map(|info| json!(info)).collect();
    Ok(Json(cursor::page(&list, types.len(), None)))
}

/// `GET /event-types/{name}`.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    Path(name): Path<String>,
) -> Answer<Json<EventTypeInfo>> {
    let name = named(&name)?;
    let info = app.store.event_type(organisation, &name).await?;
    info.map(Json).ok_or_else(|| Problem::not_found("event type"))
}

/// `PUT /event-types/{name}`: 201 if it is new, 200 if it was replaced.
pub(super) async fn put(
    State(app): State<Arc<App>>,
    Admin(organisation): Admin,
    Path(name): Path<String>,
    headers: HeaderMap,
    extract::Json(definition): extract::Json<Definition>,
) -> Answer<(StatusCode, Json<EventTypeInfo>)> {
    let name = named(&name)?;
    if definition.description.chars().count() > 1000 {
        return Err(Problem::invalid("description", "must be at most 1000 characters"));
    }
    if let Some(schema) = &definition.schema {
        let checked = app.rules.check_schema(&auth::source(&headers), schema.clone()).await?;
        checked.map_err(|why| Problem::invalid("schema", why))?;
    }
    let info = EventTypeInfo {
        name: name.as_str().to_owned(),
        description: definition.description,
        schema: definition.schema,
    };
    let put = app.store.put_event_type(organisation, &info).await;
    // Also if nobody knows whether it was done.
    app.types.forget(&(organisation, name));
    let is_new = put?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(info)))
}

fn named(name: &str) -> Answer<EventType> {
    EventType::new(name).map_err(|error| Problem::invalid("name", error.to_string()))
}
