//! `POST /events` and `GET /events/{id}`. A 202 is given only for what has
//! been committed; a batch is judged event by event.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::App;
use super::auth::{self, Publisher, Reader};
use super::bodies::Body;
use super::extract::{self, Path};
use super::fields::{self, Items};
use super::observability;
use super::problem::{Answer, Problem};
use super::publish;
use crate::clock::Timestamp;
use crate::event::{CorrelationId, Event, EventId, EventType};
use crate::store::{Appended, Delivery, Judged, Publish, Published, Refusal};
use crate::trace_context::TraceParent;

/// `POST /events`.
pub(super) async fn publish(
    State(app): State<Arc<App>>,
    Publisher(organisation): Publisher,
    request: Request,
) -> Answer<(StatusCode, Json<Value>)> {
    extract::require_json(request.headers())?;
    extract::refuse_encoded(request.headers())?;
    let source = auth::source(request.headers());
    let key = idempotency_key(request.headers())?;
    let traceparent = observability::traceparent(request.headers());
    let body = app.bodies.read(source, request).await?;
    // The share of the memory is held until the answer.
    let Body { bytes, share } = body;
    let (length, now) = (bytes.len(), Timestamp::now());
    let read = move || {
        let idempotency = key.map(|key| (key, Sha256::digest(&bytes).into()));
        (idempotency, fields::read(&bytes, now, traceparent))
    };
    let (idempotency, items) = app.rules.compute(share.source(), length, read).await?;
    let Items { drafts, is_single } = items?;
    let events = publish::judge(&app, organisation, share.source(), length, drafts, now).await?;
    let publish = Publish { organisation, events, idempotency };
    let answers = match decide(&app, publish).await? {
        Published::Done(answers) => answers,
        Published::KeyReused => return Err(key_reused()),
        Published::TooMany { deliveries, most } => return Err(too_many(deliveries, most)),
    };
    answer(answers.into_iter().map(|answer| answer.map_err(refusal)).collect(), is_single)
}

/// Appends, or finds what a repeat was answered first. The store is asked about
/// unfit events too, unless nothing of the request can be known to it.
async fn decide(app: &App, publish: Publish) -> Answer<Published> {
    let unknown = |item: &Judged| matches!(item, Err(unfit) if unfit.identity.is_none());
    if publish.idempotency.is_none() && publish.events.iter().all(unknown) {
        let unfit = publish.events.into_iter().filter_map(Result::err);
        return Ok(Published::Done(unfit.map(|it| Err(Refusal::Unfit(it.problem))).collect()));
    }
    Ok(app.store.append(publish).await?)
}

/// An event as it is shown; its payload is not read, so that it stays as it is.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shown {
    id: EventId,
    #[serde(rename = "type")]
    event_type: EventType,
    payload: Box<RawValue>,
    correlation_id: CorrelationId,
    user_id: Option<String>,
    occurred_at: Timestamp,
    appended_at: Timestamp,
    expires_at: Option<Timestamp>,
    traceparent: Option<TraceParent>,
    deliveries: Vec<Delivery>,
}

/// `GET /events/{id}`.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    Path(id): Path<EventId>,
) -> Answer<Json<Shown>> {
    let history = app.store.event_history(organisation, &id).await?;
    let history = history.ok_or_else(|| Problem::not_found("event"))?;
    let event = Event::clone(&history.event);
    Ok(Json(Shown {
        id: event.id,
        event_type: event.event_type,
        payload: event.payload,
        correlation_id: event.correlation_id,
        user_id: event.user_id,
        occurred_at: event.occurred_at,
        appended_at: history.appended_at,
        expires_at: event.expires_at,
        traceparent: event.traceparent,
        deliveries: history.deliveries,
    }))
}

fn idempotency_key(headers: &HeaderMap) -> Answer<Option<String>> {
    let mut keys = headers.get_all("idempotency-key").iter();
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    if keys.next().is_some() {
        return Err(Problem::bad_request("There is more than one Idempotency-Key; send one."));
    }
    let key = key.to_str().ok().filter(|key| (1..=255).contains(&key.len())).ok_or_else(|| {
        Problem::invalid("Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    })?;
    Ok(Some(key.to_owned()))
}

fn key_reused() -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "idempotency_key_reused",
        "This Idempotency-Key was used with another body; take a new one.",
    )
}

fn too_many(deliveries: usize, most: usize) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too_many_deliveries",
        format!(
            "These events times their gateways are {deliveries} deliveries, and one request may \
             come to {most}; nothing was stored. Send them in smaller batches."
        ),
    )
}

fn refusal(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::UnknownGateways(ids) => Problem::new(
            StatusCode::NOT_FOUND,
            "unknown_gateways",
            "Some of the gateways are not registered; nothing of this event was stored.",
        )
        .with("gatewayIds", json!(ids)),
        Refusal::IdTaken(id) => Problem::new(
            StatusCode::CONFLICT,
            "event_id_taken",
            format!("The id {id} belongs to an event with another content."),
        ),
        Refusal::Unfit(problem) => {
            serde_json::from_value(problem).unwrap_or_else(|_| Problem::internal())
        }
    }
}

/// The answer for one accepted event. An event that no gateway will receive is
/// accepted with a warning: its target may be meant for gateways to come, or
/// misspelt. A repeat gets the same warning, because its answer has the same
/// deliveries.
fn accepted(appended: &Appended) -> Value {
    let mut shown = json!(appended);
    if appended.deliveries.is_empty() {
        metrics::counter!("gateway_events_unmatched_events_total", "source" => "http").increment(1);
        shown["warnings"] = json!([{
            "code": "no_gateways_matched",
            "message": "The event is stored, but no gateway matched its target: no gateway will receive it.",
        }]);
    }
    shown
}

fn answer(
    mut results: Vec<Answer<Appended>>,
    is_single: bool,
) -> Answer<(StatusCode, Json<Value>)> {
    if is_single {
        let appended = results.pop().unwrap_or_else(|| Err(Problem::internal()))?;
        return Ok((StatusCode::ACCEPTED, Json(accepted(&appended))));
    }
    let all_good = results.iter().all(Result::is_ok);
    let results: Vec<Value> = results
        .into_iter()
        .map(|result| match result {
            Err(problem) => problem.to_value(),
            Ok(appended) if all_good => accepted(&appended),
            Ok(appended) => {
                let mut shown = accepted(&appended);
                shown["status"] = json!(202);
                shown
            }
        })
        .collect();
    let status = if all_good { StatusCode::ACCEPTED } else { StatusCode::MULTI_STATUS };
    Ok((status, Json(json!({ "results": results }))))
}
