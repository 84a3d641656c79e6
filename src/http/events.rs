//! `POST /events` and `GET /events/{id}`. A 202 is given only for what has
//! been committed; a batch is judged event by event.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::App;
use super::auth::{Publisher, Reader};
use super::extract::{self, Body, Path};
use super::problem::{Answer, Problem};
use super::publish;
use crate::clock::Timestamp;
use crate::event::{CorrelationId, Event, EventId, EventType};
use crate::store::{Appended, Delivery, Judged, Publish, Published, Refusal};

const MAX_BATCH: usize = 1000;

/// What was sent: one event, or many.
enum Items {
    One(Box<RawValue>),
    Many(Vec<Box<RawValue>>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    events: Vec<Box<RawValue>>,
}

/// `POST /events`.
pub(super) async fn publish(
    State(app): State<Arc<App>>,
    Publisher(organisation): Publisher,
    headers: HeaderMap,
    Body(body): Body,
) -> Answer<(StatusCode, Json<Value>)> {
    let idempotency = idempotency(&headers, &body)?;
    let (items, is_single) = match items(&body)? {
        Items::One(item) => (vec![item], true),
        Items::Many(items) => (items, false),
    };
    let mut events = Vec::with_capacity(items.len());
    for item in &items {
        events.push(publish::judge(&app, organisation, item).await?);
    }
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
        deliveries: history.deliveries,
    }))
}

fn items(body: &[u8]) -> Answer<Items> {
    let whole: Box<RawValue> = extract::parse(body)?;
    let text = whole.get();
    let many = if text.starts_with('[') {
        extract::parse::<Vec<Box<RawValue>>>(text.as_bytes())?
    } else if !text.starts_with('{') {
        return Err(Problem::invalid(
            "body",
            "must be an event, a list of events or {\"events\": […]}",
        ));
    } else if is_batch(text) {
        extract::parse::<Batch>(text.as_bytes())?.events
    } else {
        return Ok(Items::One(whole));
    };
    if (1..=MAX_BATCH).contains(&many.len()) {
        return Ok(Items::Many(many));
    }
    Err(Problem::invalid("events", format!("a batch has 1 to {MAX_BATCH} events")))
}

fn is_batch(text: &str) -> bool {
    serde_json::from_str::<std::collections::BTreeMap<String, &RawValue>>(text)
        .is_ok_and(|fields| fields.contains_key("events") && !fields.contains_key("type"))
}

fn idempotency(headers: &HeaderMap, body: &Bytes) -> Answer<Option<(String, [u8; 32])>> {
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
    Ok(Some((key.to_owned(), Sha256::digest(body).into())))
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
