//! Gateways: register, list, show, change, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::auth::{Admin, Reader};
use super::cursor;
use super::extract::{self, Path, Query};
use super::problem::{Answer, FieldError, Problem};
use crate::event::{GatewayId, Reason};
use crate::intake::object;
use crate::store::{Gateway, GatewayChange, LabelChange, Labels, MOST_LABELS};

/// The most replicas that can be declared for a gateway.
const MOST_REPLICAS: i64 = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewGateway {
    name: String,
    id: Option<GatewayId>,
    #[serde(default, deserialize_with = "object::labels")]
    labels: Labels,
    replicas: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Change {
    #[serde(default, deserialize_with = "object::not_null")]
    name: Option<String>,
    #[serde(default, deserialize_with = "object::label_change")]
    labels: Option<LabelChange>,
    #[serde(default, deserialize_with = "object::not_null")]
    replicas: Option<i64>,
    #[serde(default, deserialize_with = "object::not_null")]
    disabled: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    limit: Option<String>,
    cursor: Option<String>,
}

/// `POST /gateways`.
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Admin(organisation): Admin,
    extract::Json(new): extract::Json<NewGateway>,
) -> Answer<(StatusCode, Json<Value>)> {
    check(Some(&new.name), new.labels.iter(), new.replicas)?;
    if new.labels.len() > MOST_LABELS {
        return Err(Problem::invalid("labels", format!("at most {MOST_LABELS} labels")));
    }
    let (id, replicas) = (new.id.unwrap_or_default(), new.replicas.unwrap_or(1));
    let gateway =
        app.store.create_gateway(organisation, id, &new.name, &new.labels, replicas).await?;
    Ok((StatusCode::CREATED, Json(shown(&app, &gateway))))
}

/// `GET /gateways`.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    Query(page): Query<Page>,
) -> Answer<Json<Value>> {
    let limit = cursor::limit(page.limit.as_deref())?;
    let after = page.cursor.map(|text| cursor::decode::<String>(&text, &"gateways")).transpose()?;
    let mut gateways = app.store.gateways(organisation, after.as_deref(), limit + 1).await?;
    let more = gateways.len() > limit;
    gateways.truncate(limit);
    let next = gateways.last().filter(|_| more).map(|last| cursor::encode(&last.name, &"gateways"));
    let list: Vec<Value> = gateways.iter().map(|gateway| shown(&app, gateway)).collect();
    Ok(Json(cursor::page(&list, limit, next.as_deref())))
}

/// `GET /gateways/{id}`.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    Path(id): Path<GatewayId>,
) -> Answer<Json<Value>> {
    let gateway = app.store.gateway(organisation, id).await?;
    let gateway = gateway.ok_or_else(|| Problem::not_found("gateway"))?;
    Ok(Json(shown(&app, &gateway)))
}

/// `PATCH /gateways/{id}`: a JSON merge patch (RFC 7396). Disabling closes the
/// gateway's sockets.
pub(super) async fn change(
    State(app): State<Arc<App>>,
    Admin(organisation): Admin,
    Path(id): Path<GatewayId>,
    extract::MergePatch(change): extract::MergePatch<Change>,
) -> Answer<Json<Value>> {
    let labels = match &change.labels {
        Some(LabelChange::Merge(changes)) => Some(changes),
        Some(LabelChange::Clear) | None => None,
    };
    let set = labels.into_iter().flatten();
    let set = set.filter_map(|(name, value)| Some((name, value.as_ref()?)));
    check(change.name.as_deref(), set, change.replicas)?;
    let Change { name, labels, replicas, disabled } = change;
    let change = GatewayChange { name, labels, replicas, disabled };
    let gateway = app.store.update_gateway(organisation, id, change).await?;
    if gateway.disabled_at.is_some() {
        app.dispatcher.close_gateway(gateway.key, Reason::GatewayDisabled);
    }
    Ok(Json(shown(&app, &gateway)))
}

/// `DELETE /gateways/{id}`. Closes its sockets.
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Admin(organisation): Admin,
    Path(id): Path<GatewayId>,
) -> Answer<StatusCode> {
    let deleted = app.store.delete_gateway(organisation, id).await?;
    app.dispatcher.close_deleted(&deleted);
    Ok(StatusCode::NO_CONTENT)
}

fn check<'a>(
    name: Option<&str>,
    labels: impl Iterator<Item = (&'a String, &'a String)>,
    replicas: Option<i64>,
) -> Answer<()> {
    let mut errors = Vec::new();
    let mut wrong = |field: String, message: &str| {
        errors.push(FieldError { field, message: message.to_owned() });
    };
    let is_plain = |text: &str, most: usize| {
        text.chars().count() <= most && !text.chars().any(char::is_control)
    };
    if let Some(name) = name
        && (name.trim().is_empty() || !is_plain(name, 128))
    {
        wrong("name".to_owned(), "must be 1 to 128 characters, none of them a control character");
    }
    for (key, value) in labels {
        if key.is_empty() || !is_plain(key, 64) || !is_plain(value, 256) {
            let shown: String = key.chars().filter(|c| !c.is_control()).take(64).collect();
            wrong(
                format!("labels.{shown}"),
                "a label's name has 1 to 64 characters, its value at most 256, none of them a control character",
            );
        }
    }
    if replicas.is_some_and(|replicas| !(1..=MOST_REPLICAS).contains(&replicas)) {
        wrong("replicas".to_owned(), "must be 1 to 1000");
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Problem::invalid_fields(errors))
}

fn shown(app: &App, gateway: &Gateway) -> Value {
    let here = i64::try_from(app.dispatcher.connected(gateway.key)).unwrap_or(i64::MAX);
    let connections = gateway.live_connections.max(here);
    let lag = gateway.oldest_pending_at.map_or(0, |at| gateway.as_of.since(at).as_secs());
    let mut shown = json!({
        "id": gateway.id,
        "name": gateway.name,
        "labels": gateway.labels,
        "replicas": gateway.replicas,
        "createdAt": gateway.created_at,
        "disabled": gateway.disabled_at.is_some(),
        "connected": connections > 0,
        "connections": connections,
        "head": gateway.head,
        "confirmed": gateway.confirmed,
        "lag": { "events": gateway.pending, "seconds": lag },
        "verdict": gateway.verdict(),
        "epoch": gateway.epoch,
        "floor": gateway.floor,
    });
    if let Some(at) = gateway.disabled_at {
        shown["disabledAt"] = json!(at);
    }
    if let Some(refusal) = &gateway.last_refusal {
        shown["lastRefusal"] = json!(refusal);
    }
    if let Some((manifest, at)) = &gateway.manifest {
        shown["manifest"] = serde_json::from_str(manifest.get()).unwrap_or_default();
        shown["manifestAt"] = json!(at);
    }
    shown
}
