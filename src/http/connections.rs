//! Sockets, live and past, with the reasons why they ended.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::auth::Reader;
use super::cursor;
use super::extract::{Path, Query};
use super::problem::{Answer, Problem};
use crate::event::{GatewayId, OrganisationKey};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Which {
    status: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

/// `GET /connections`: the live ones, unless `status=all`.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    Query(which): Query<Which>,
) -> Answer<Json<Value>> {
    answer(&app, organisation, None, &which, "connected").await
}

/// `GET /gateways/{id}/connections`: live and past, unless `status=connected`.
pub(super) async fn of_gateway(
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    Path(id): Path<GatewayId>,
    Query(which): Query<Which>,
) -> Answer<Json<Value>> {
    if app.store.gateway(organisation, id).await?.is_none() {
        return Err(Problem::not_found("gateway"));
    }
    answer(&app, organisation, Some(id), &which, "all").await
}

async fn answer(
    app: &App,
    organisation: OrganisationKey,
    gateway: Option<GatewayId>,
    which: &Which,
    default: &str,
) -> Answer<Json<Value>> {
    let limit = cursor::limit(which.limit.as_deref())?;
    let live_only = match which.status.as_deref().unwrap_or(default) {
        "connected" => true,
        "all" => false,
        other => return Err(cursor::not_allowed("status", other, "connected or all")),
    };
    let question = ("connections", gateway, live_only);
    let after = which.cursor.as_deref().map(|text| cursor::decode(text, &question)).transpose()?;
    let page = app.store.connections(organisation, gateway, live_only, after, limit).await?;
    let next = page.next.map(|at| cursor::encode(&at, &question));
    let list: Vec<Value> = page.rows.iter().map(|one| json!(one)).collect();
    Ok(Json(cursor::page(&list, limit, next.as_deref())))
}
