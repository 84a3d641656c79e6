//! `POST /gateways/{id}/replay`: part of a gateway's log is appended again.

use axum::Json;
use axum::http::StatusCode;

use super::auth::Admin;
use super::extract::Path;
use super::idempotency::Keyed;
use super::openapi::{Body, Idempotent, Long, Missing, Problems, Scoped, Storing, Taken};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::Query;
use crate::api::{ReplayRequest, Replayed};
use crate::clock::{TimeWindow, Timestamp};
use crate::event::{GatewayId, JobId, Sequence};
use crate::store::{self, Bulk, EarlierResult, Gateways, ReplaySelection};

/// Replay part of a gateway's log.
///
/// Appends the events of a range of sequences, or of a time window, again, delivered ones included:
/// for a gateway that was rebuilt. The order, the event ids and the correlation ids stay the same,
/// the sequences are new. The range is fixed when the replay is requested. An event that occurs
/// several times in the range is appended once, at its last place. Unless the range ends at the head
/// of the log, older events follow newer ones. A disabled gateway gets them when it is enabled. At
/// most 500 sequences are replayed at once; more become a job. A repeat appends everything once more,
/// unless it has the `Idempotency-Key` of the first request.
#[utoipa::path(
    post, path = "/gateways/{id}/replay", tag = "gateways", operation_id = "replayGateway",
    params(
        ("id" = GatewayId, Path, description = "The gateway."),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
            description = "Identifies the request: a repeat with the same body appends nothing again, and gets the first response."),
    ),
    request_body(
        content = ReplayRequest,
        examples(
            ("everything" = (summary = "The whole log", value = json!({"fromSequence": 1}))),
            ("range" = (summary = "A range", value = json!({"fromSequence": 120, "toSequence": 180}))),
            ("window" = (summary = "What a window contains", value = json!({
                "from": "2026-01-31T00:00:00+01:00", "dryRun": true,
            }))),
        ),
    ),
    responses(
        (status = 200, description = "The result, or in a dry run what it would be.", body = Replayed),
        (status = 202, description = "A job replays it.", body = Replayed),
        Problems<(Scoped, Missing, Body, Taken, Storing, Long, Idempotent)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn replay(
    Part(bulk): Part<dyn Bulk>,
    Part(gateways): Part<dyn Gateways>,
    Admin(actor): Admin,
    Path(id): Path<GatewayId>,
    _: Query<()>,
    Keyed(key, asked): Keyed<ReplayRequest>,
) -> HandlerResult<(StatusCode, Json<Replayed>)> {
    let actor = actor.with_request_key(key.filter(|_| !asked.dry_run));
    if let Some(EarlierResult::Replayed(done)) = bulk.earlier_result(&actor).await? {
        return Ok(response(id, done));
    }
    let selection = selection(&asked)?;
    let gateway = gateways.gateway(actor.organisation, id).await?;
    let head = gateway.ok_or_else(|| Problem::not_found("gateway"))?.head;
    if let ReplaySelection::Range(first, last) = selection {
        for (field, sequence) in [("fromSequence", Some(first)), ("toSequence", last)] {
            if sequence.is_some_and(|sequence| sequence > head) {
                let why = format!("is beyond the head of the log, {head}");
                return Err(Problem::invalid(field, why));
            }
        }
    }
    let done = bulk.replay(&actor, JobId::new(), id, selection, asked.dry_run).await?;
    Ok(response(id, done))
}

fn response(gateway_id: GatewayId, done: store::Replayed) -> (StatusCode, Json<Replayed>) {
    let status = if done.job.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
    let replayed = Replayed {
        gateway_id,
        from_sequence: done.range.map(|range| range.first),
        to_sequence: done.range.map(|range| range.last),
        replayed: done.counts.appended,
        repeated: done.counts.repeated,
        expired: done.counts.expired,
        event_removed: done.counts.event_removed,
        payload_purged: done.counts.payload_purged,
        first_new_sequence: done.appended.map(|range| range.first),
        last_new_sequence: done.appended.map(|range| range.last),
        job: done.job.map(Into::into),
    };
    (status, Json(replayed))
}

fn selection(asked: &ReplayRequest) -> HandlerResult<ReplaySelection> {
    match (asked.from_sequence, asked.to_sequence, asked.from, asked.to) {
        (Some(first), last, None, None) => {
            for (field, sequence) in [("fromSequence", Some(first)), ("toSequence", last)] {
                if sequence.is_some_and(|it| !(1..=Sequence::MAX.0).contains(&it.0)) {
                    return Err(Problem::invalid(field, "must be 1 to 9007199254740991"));
                }
            }
            if last.is_some_and(|last| last < first) {
                let why = format!("must not be below fromSequence, {first}");
                return Err(Problem::invalid("toSequence", why));
            }
            Ok(ReplaySelection::Range(first, last))
        }
        (None, None, Some(from), to) => {
            // Without an end up to the head of the log, whatever this node's clock shows.
            let window = TimeWindow::new(from, to.unwrap_or(Timestamp::LAST))?;
            Ok(ReplaySelection::Window(window))
        }
        _ => Err(Problem::invalid(
            "body",
            "give fromSequence, with or without toSequence, or from, with or without to",
        )),
    }
}
