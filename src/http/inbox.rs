//! Rows of the inbox that could not be published: listed with their reasons,
//! put back once the reason is gone, or removed. Nothing is inserted here;
//! whoever speaks HTTP publishes with `POST /events`.

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
use super::problem::{Answer, Problem};
use crate::store::{RejectedFilter, Retried, RetrySelection};

/// As much of a payload as is shown.
const SHOWN_CHARS: usize = 64 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    reason: Option<String>,
    from: Option<String>,
    to: Option<String>,
    retried: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

impl Ask {
    fn filter(&self) -> Answer<RejectedFilter> {
        fn read<'a, T, E: std::fmt::Display>(
            field: &str,
            text: Option<&'a str>,
            parse: impl FnOnce(&'a str) -> Result<T, E>,
        ) -> Answer<Option<T>> {
            text.map(parse).transpose().map_err(|why| Problem::invalid(field, why.to_string()))
        }
        Ok(RejectedFilter {
            reason: read("reason", self.reason.as_deref(), str::parse)?,
            from: read("from", self.from.as_deref(), extract::instant)?,
            to: read("to", self.to.as_deref(), extract::instant)?,
            retried: match self.retried.as_deref() {
                None | Some("false") => false,
                Some("true") => true,
                Some(other) => return Err(cursor::not_allowed("retried", other, "true or false")),
            },
        })
    }
}

/// `GET /inbox/rejected`: newest first, those that wait for somebody to act;
/// with `retried=true` the others, too.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    Query(ask): Query<Ask>,
) -> Answer<Json<Value>> {
    let limit = cursor::limit(ask.limit.as_deref())?;
    let filter = ask.filter()?;
    let before =
        ask.cursor.as_deref().map(|text| cursor::decode::<i64>(text, &filter)).transpose()?;
    let mut rows = app.store.rejected(organisation, &filter, before, limit + 1).await?;
    let is_last = rows.len() <= limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| !is_last).map(|row| cursor::encode(&row.id, &filter));
    let list: Vec<Value> = rows.iter().map(|row| json!(row)).collect();
    Ok(Json(cursor::page(&list, limit, next.as_deref())))
}

/// `GET /inbox/rejected/{id}`: with the beginning of its payload, as a text:
/// it may be no JSON.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    Path(id): Path<i64>,
) -> Answer<Json<Value>> {
    let found = app.store.rejected_row(organisation, id, SHOWN_CHARS).await?;
    let (row, payload) = found.ok_or_else(|| Problem::not_found("rejected row"))?;
    let mut shown = json!(row);
    shown["payload"] = payload.into();
    Ok(Json(shown))
}

/// `POST /inbox/rejected/{id}/retry`.
pub(super) async fn retry_one(
    State(app): State<Arc<App>>,
    Admin(organisation): Admin,
    Path(id): Path<i64>,
) -> Answer<(StatusCode, Json<Retried>)> {
    let retried = app.store.retry_rejected(organisation, RetrySelection::One(id)).await?;
    Ok((StatusCode::ACCEPTED, Json(retried)))
}

/// `POST /inbox/rejected/retry`: all that fit the filter in the body (`{}`: all).
pub(super) async fn retry(
    State(app): State<Arc<App>>,
    Admin(organisation): Admin,
    extract::Json(filter): extract::Json<RejectedFilter>,
) -> Answer<(StatusCode, Json<Retried>)> {
    let retried = app.store.retry_rejected(organisation, RetrySelection::Filter(filter)).await?;
    Ok((StatusCode::ACCEPTED, Json(retried)))
}

/// `DELETE /inbox/rejected/{id}`.
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Admin(organisation): Admin,
    Path(id): Path<i64>,
) -> Answer<StatusCode> {
    app.store.delete_rejected(organisation, id).await?;
    tracing::info!(rejected_id = id, "a rejected row was removed by an admin");
    Ok(StatusCode::NO_CONTENT)
}
