//! `GET /events`: the events of a time window.

use axum::Json;
use serde::{Deserialize, Serialize};

use super::auth::Reader;
use super::cursor;
use super::deliveries::open_window;
use super::openapi::{Long, Missing, Problems, Scoped};
use super::part::Part;
use super::problem::HandlerResult;
use super::query::{FromQuery, Parameters, Query, documented};
use crate::api::{self, EventFilter, EventSummary, Page, PageQuery};
use crate::clock::{TimeWindow, Timestamp};
use crate::event::Sequence;
use crate::store::{self, EventCursor, Log, TimedKey};

/// The longest user id that an event may have.
const MAX_USER_ID_BYTES: usize = 256;

impl FromQuery for EventFilter {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        Ok(Self {
            from: parameters.instant("from")?,
            to: parameters.instant("to")?,
            event_type: parameters.get("type")?,
            gateway_id: parameters.gateway_id("gatewayId")?,
            correlation_id: parameters.get("correlationId")?,
            user_id: parameters.parse("userId", user_id)?,
            artifact_id: parameters.parse("artifactId", not_empty)?,
            deployment_id: parameters.parse("deploymentId", not_empty)?,
            id_prefix: parameters.get("idPrefix")?,
        })
    }
}

fn user_id(text: &str) -> Result<String, &'static str> {
    if text.len() > MAX_USER_ID_BYTES || text.chars().any(char::is_control) {
        return Err("must be at most 256 bytes, none of them a control character");
    }
    not_empty(text)
}

fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("must not be empty") } else { Ok(text.to_owned()) }
}

/// Where a page begins, and the window of the first page: "until now" means the same
/// instant on every page.
#[derive(Serialize, Deserialize)]
struct PagePosition {
    at: EventPosition,
    window: TimeWindow,
}

/// List events, newest first.
///
/// Without payloads, which `GET /events/{id}` returns. With `gatewayId`, events are in the
/// order of that gateway's log, newest first, unless `correlationId`, `artifactId` or
/// `deploymentId` is given, too. With `idPrefix`, they are ordered by id, descending.
#[utoipa::path(
    get, path = "/events", tag = "events", operation_id = "listEvents",
    params(EventFilter, PageQuery),
    responses(
        (status = 200, description = "A page of events.", body = Page<EventSummary>),
        Problems<(Scoped, Missing, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn events(
    Part(log): Part<dyn Log>,
    Reader(organisation): Reader,
    Query((asked, page)): Query<(EventFilter, PageQuery)>,
) -> HandlerResult<Json<Page<EventSummary>>> {
    let filters = ("events", &asked);
    let position = page.position::<PagePosition>(&filters)?;
    let window = match &position {
        Some(position) => position.window,
        None => open_window(asked.from, asked.to)?,
    };
    let filter = in_window(asked.clone(), window);
    let limit = page.size();
    let after = position.map(|position| position.at.into());
    let found = log.events(organisation, &filter, after, limit).await?;
    let next =
        found.next.map(|at| cursor::encode(&PagePosition { at: at.into(), window }, &filters));
    let list = found.rows.into_iter().map(Into::into).collect();
    Ok(Json(Page::new(list, limit, next)))
}

fn in_window(filter: EventFilter, window: TimeWindow) -> store::EventFilter {
    let EventFilter {
        from: _,
        to: _,
        gateway_id,
        event_type,
        correlation_id,
        user_id,
        artifact_id,
        deployment_id,
        id_prefix,
    } = filter;
    store::EventFilter {
        window,
        gateway_id,
        event_type,
        correlation_id,
        user_id,
        artifact_id,
        deployment_id,
        id_prefix,
    }
}

/// An [`EventCursor`] inside a cursor of the API.
#[derive(Serialize, Deserialize)]
enum EventPosition {
    Age { at: i64, key: i64 },
    Log { sequence: Sequence },
    Id { id: String },
}

impl From<EventCursor> for EventPosition {
    fn from(at: EventCursor) -> Self {
        match at {
            EventCursor::Age(TimedKey { at, key }) => Self::Age { at: at.micros(), key },
            EventCursor::Log(sequence) => Self::Log { sequence },
            EventCursor::Id(id) => Self::Id { id },
        }
    }
}

impl From<EventPosition> for EventCursor {
    fn from(at: EventPosition) -> Self {
        match at {
            EventPosition::Age { at, key } => {
                Self::Age(TimedKey { at: Timestamp::from_micros(at), key })
            }
            EventPosition::Log { sequence } => Self::Log(sequence),
            EventPosition::Id { id } => Self::Id(id),
        }
    }
}

impl From<store::EventSummary> for EventSummary {
    fn from(event: store::EventSummary) -> Self {
        Self {
            id: event.id,
            event_type: event.event_type,
            correlation_id: event.correlation_id,
            user_id: event.user_id,
            occurred_at: event.occurred_at,
            appended_at: event.appended_at,
            expires_at: event.expires_at,
            artifact_id: event.artifact_id,
            deployment_id: event.deployment_id,
            target: event.target.map(Into::into),
            gateway_count: event.matched,
        }
    }
}

impl From<store::PublishedTarget> for api::PublishedTarget {
    fn from(target: store::PublishedTarget) -> Self {
        let none = Self::default();
        match target {
            store::PublishedTarget::Gateways(ids) => Self { gateway_ids: Some(ids), ..none },
            store::PublishedTarget::All => Self { all: Some(true), ..none },
            store::PublishedTarget::Labels(labels) => Self { labels: Some(labels), ..none },
        }
    }
}
