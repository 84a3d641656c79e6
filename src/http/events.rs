//! `POST /events` and `GET /events/{id}`. An event is accepted once it is committed;
//! the events of a batch are accepted or refused one by one.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::{Publisher, Reader};
use super::bodies;
use super::content_mode::ContentMode;
use super::extract::{self, Path};
use super::idempotency;
use super::observability;
use super::openapi::{
    Append, Body, Compute, Long, Missing, Problems, Publishing, Scoped, Waiting, Write,
};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::publish;
use super::query::Query;
use super::rollouts::Rollouts;
use crate::api::{
    Accepted, AcceptedBatch, AcceptedDelivery, BatchItem, CloudEvent, Code, EventWithDeliveries,
    NewEvent, PublishBody, WaitQuery, Warning,
};
use crate::clock::Timestamp;
use crate::event::{Event, EventId};
use crate::ingest;
use crate::ingest::body::Items;
use crate::metric;
use crate::store::{
    Appended, Idempotency, Ledger, Log, Publish, Published, Refusal, RolloutOf, Validated,
};

/// The response to a request that publishes: a single event's, or a batch's.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum PublishResponse {
    One(Accepted),
    Batch(AcceptedBatch),
}

/// Publish one event or a batch.
///
/// The response is 202 once all events are committed: a crash does not lose them. The
/// events of a batch are accepted or refused one by one; if some are refused, the response
/// is 207. A repeated `Idempotency-Key`, or a repeated event id with the same content,
/// gets the first response.
///
/// CloudEvents 1.0 are accepted in structured, batched and binary content mode: their attributes become
/// the members of an event. The responses are the same.
#[utoipa::path(
    post, path = "/events", tag = "events", operation_id = "publishEvents",
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
            description = "Identifies the request: a repeat with the same body gets the first response."),
        ("traceparent" = Option<String>, Header,
            description = "The publisher's W3C trace context, for events without one of their own."),
        ("ce-specversion" = Option<String>, Header, description = "`1.0`: the request is a CloudEvent in \
            binary mode. Each of its attributes is a header of this prefix (`ce-id`, `ce-type`, \
            `ce-source` and so on), percent-encoded, and its data is the body."),
    ),
    request_body(content(
        (PublishBody = "application/json"),
        (CloudEvent = "application/cloudevents+json"),
        (Vec<CloudEvent> = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 202, description = "All events are committed.", body = PublishResponse),
        (status = 207, description = "Some events of the batch were refused.", body = AcceptedBatch),
        Problems<(Scoped, Body, Publishing, Compute, Write, Append)>,
    ),
    security(("access_token" = ["publish"])),
)]
pub(super) async fn publish(
    State(publishing): State<Arc<publish::Publishing>>,
    State(memory): State<Arc<bodies::Memory>>,
    Part(log): Part<dyn Log>,
    Publisher { organisation, source }: Publisher,
    _: Query<()>,
    request: Request,
) -> HandlerResult<(StatusCode, Json<PublishResponse>)> {
    let mode = ContentMode::of(request.headers())?;
    extract::refuse_encoded(request.headers())?;
    let key = idempotency::key(request.headers())?;
    let traceparent = observability::traceparent(request.headers());
    let body = memory.read(source, request).await?;
    // The share of the memory is held until the response is sent.
    let bodies::Body { bytes, share } = body;
    let (length, now) = (bytes.len(), Timestamp::now());
    let shown = key.clone();
    let read = move || {
        let idempotency = key.map(|key| Idempotency { key, digest: mode.digest(&bytes) });
        (idempotency, mode.read(&bytes, now, traceparent))
    };
    let (idempotency, items) = publishing.rules.compute(share.source(), length, read).await?;
    let Items { drafts, is_single } = items?;
    let mut events = publishing.validate(organisation, share.source(), length, drafts, now).await?;
    publishing.suggest_types(organisation, &mut events).await;
    let valid = events.iter().map(|item| item.as_ref().ok().map(|new| Arc::clone(&new.event)));
    let valid: Vec<Option<Arc<Event>>> = valid.collect();
    let publish = Publish { organisation, events, idempotency };
    let results = match append(log.as_ref(), publish).await? {
        Published::Done(results) => results,
        Published::KeyReused => return Err(idempotency::key_reused(&shown.unwrap_or_default())),
        Published::TooMany { deliveries, most } => return Err(too_many(deliveries, most)),
    };
    for (event, result) in valid.iter().zip(&results) {
        if let (Some(event), Ok(_)) = (event, result) {
            publishing.rules.count_published(&event.event_type);
        }
    }
    response(results, is_single)
}

/// Validates an event as [`publish()`] does, and stores nothing.
pub(super) async fn check(
    publishing: &publish::Publishing,
    publisher: Publisher,
    event: &NewEvent,
) -> HandlerResult<()> {
    let Publisher { organisation, source } = publisher;
    let body = serde_json::to_vec(event).map_err(|_| Problem::internal())?;
    let (length, now) = (body.len(), Timestamp::now());
    let read = move || ingest::body::read(&body, now, None);
    let items = publishing.rules.compute(&source, length, read).await??;
    let mut checked = publishing.validate(organisation, &source, length, items.drafts, now).await?;
    publishing.suggest_types(organisation, &mut checked).await;
    for item in checked {
        item.map_err(|invalid| Problem::from(invalid.error))?;
    }
    Ok(())
}

/// Appends the events, or finds the first response to a repeat. Invalid events are looked
/// up in the store, too, unless the whole request is certain to be unknown there.
async fn append(log: &dyn Log, publish: Publish) -> HandlerResult<Published> {
    let unknown = |item: &Validated| matches!(item, Err(invalid) if invalid.identity.is_none());
    if publish.idempotency.is_none() && publish.events.iter().all(unknown) {
        let invalid = publish.events.into_iter().filter_map(Result::err);
        return Ok(Published::Done(invalid.map(|it| Err(Refusal::Invalid(it.error))).collect()));
    }
    Ok(log.append(publish).await?)
}

/// Show an event with its state at each gateway.
///
/// With `wait`, the response is delayed until enough gateways have come far enough, until that is
/// impossible, or until the time is up.
#[utoipa::path(
    get, path = "/events/{id}", tag = "events", operation_id = "showEvent",
    params(("id" = EventId, Path, description = "The event."), WaitQuery),
    responses(
        (status = 200, description = "The event.", body = EventWithDeliveries),
        Problems<(Scoped, Missing, Long, Waiting)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn show(
    State(rollouts): State<Arc<Rollouts>>,
    Part(ledger): Part<dyn Ledger>,
    Reader(organisation): Reader,
    Path(id): Path<EventId>,
    Query(wait): Query<WaitQuery>,
) -> HandlerResult<Json<EventWithDeliveries>> {
    let rollout = match wait.wait()? {
        None => None,
        wait => {
            let of = RolloutOf::Event(id.clone());
            Some(rollouts.of_events(organisation, &of, wait).await?.rollout)
        }
    };
    // Read afterwards, so that the deliveries are at least as far as the rollout.
    let history = ledger.event_history(organisation, &id).await?;
    let history = history.ok_or_else(|| Problem::not_found("event"))?;
    let event = Event::clone(&history.event);
    let verdict = history.verdict().into();
    Ok(Json(EventWithDeliveries {
        id: event.id,
        event_type: event.event_type,
        payload: event.payload,
        correlation_id: event.correlation_id,
        user_id: event.user_id,
        occurred_at: event.occurred_at,
        appended_at: history.appended_at,
        expires_at: event.expires_at,
        collapse_key: history.collapse_key,
        traceparent: event.traceparent,
        attributes: event.attributes.map(|attributes| *attributes),
        target: history.target.map(Into::into),
        gateway_count: history.matched,
        verdict,
        rollout,
        deliveries: history.deliveries.into_iter().map(Into::into).collect(),
        purged: history.purged.map(Into::into),
    }))
}

fn too_many(deliveries: usize, most: usize) -> Problem {
    Problem::new(
        Code::TooManyDeliveries,
        format!(
            "These events times their gateways are {deliveries} deliveries, and one request may \
             come to {most}; nothing was stored. Send them in smaller batches."
        ),
    )
}

/// The result of one accepted event. An event that no gateway will receive is accepted with a
/// warning: its target may be meant for future gateways, or misspelt. A repeat has the same
/// deliveries and so the same warning.
fn accepted(appended: Appended) -> Accepted {
    let mut warnings = Vec::new();
    if appended.deliveries.is_empty() {
        metrics::counter!(metric::UNMATCHED_EVENTS, "source" => "http").increment(1);
        warnings.push(Warning {
            code: Warning::NO_GATEWAYS_MATCHED.to_owned(),
            message: "The event is stored, but no gateway matched its target: no gateway will receive it.".to_owned(),
        });
    }
    let deliveries = appended.deliveries.into_iter();
    let deliveries = deliveries.map(|delivery| AcceptedDelivery {
        gateway_id: delivery.gateway_id,
        sequence: delivery.sequence,
    });
    Accepted { id: appended.id, deliveries: deliveries.collect(), warnings, status: None }
}

fn response(
    mut results: Vec<Result<Appended, Refusal>>,
    is_single: bool,
) -> HandlerResult<(StatusCode, Json<PublishResponse>)> {
    if is_single {
        let result = results.pop().ok_or_else(Problem::internal)?;
        let accepted = accepted(result?);
        return Ok((StatusCode::ACCEPTED, Json(PublishResponse::One(accepted))));
    }
    let all_accepted = results.iter().all(Result::is_ok);
    let results = results
        .into_iter()
        .map(|result| match result {
            Ok(appended) => {
                let status = (!all_accepted).then_some(202);
                BatchItem::Accepted(Accepted { status, ..accepted(appended) })
            }
            Err(refusal) => BatchItem::Refused(Problem::from(refusal).into_document()),
        })
        .collect();
    let status = if all_accepted { StatusCode::ACCEPTED } else { StatusCode::MULTI_STATUS };
    Ok((status, Json(PublishResponse::Batch(AcceptedBatch { results }))))
}
