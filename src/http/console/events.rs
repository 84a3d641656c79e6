//! The list of events.

use std::time::Duration;

use axum::response::Response;
use maud::{Markup, html};

use super::super::browse;
use super::super::problem::{HandlerResult, Problem};
use super::super::query::{FromQuery as _, Query};
use super::components::{
    Filters, Refresh, empty, event_link, following, labels, numeric, paging, table, text,
};
use super::layout::{Call, Section};
use super::lookup;
use super::pairs::Pairs;
use super::text::{none, number, said, when};
use super::visit::{View, Visit};
use crate::api::{EventFilter, EventSummary, PageQuery, PublishedTarget};
use crate::clock::Timestamp;

/// Rows of a page, unless the address says otherwise.
const ROWS: &str = "50";

/// The choices of a time window, by the value of `last`.
pub(super) const WINDOWS: [(&str, &str); 5] = [
    ("", "last 24 hours"),
    ("15m", "last 15 minutes"),
    ("1h", "last hour"),
    ("7d", "last 7 days"),
    ("30d", "last 30 days"),
];

/// The length of the window that a value of `last` chooses; `None` for the page's own.
fn length(last: &str) -> HandlerResult<Option<Duration>> {
    let hours = match last {
        "" => return Ok(None),
        "15m" => return Ok(Some(Duration::from_mins(15))),
        "1h" => 1,
        "24h" => 24,
        "7d" => 7 * 24,
        "30d" => 30 * 24,
        _ => {
            let why = "must be 15m, 1h, 24h, 7d or 30d; give another window as from and to, such as from=2026-01-31T09:30:00Z";
            return Err(Problem::invalid("last", why));
        }
    };
    Ok(Some(Duration::from_hours(hours)))
}

/// The query of a list: with a `limit`, and with the chosen window as `from`.
pub(super) fn in_window(visit: &Visit) -> HandlerResult<Pairs> {
    let length = length(visit.query.get("last"))?;
    let mut query = visit.query.clone();
    if query.get("limit").is_empty() {
        query = query.with("limit", ROWS);
    }
    Ok(match length.filter(|_| query.get("from").is_empty()) {
        Some(length) => {
            let second = visit.now.minus(length).micros() / 1_000_000 * 1_000_000;
            query.with("from", Timestamp::from_micros(second).to_string())
        }
        None => query,
    })
}

pub(super) async fn page(visit: Visit) -> Response {
    match content(&visit).await {
        Err(problem) if problem.code() == "invalid" => {
            let filters = filters(&visit, lookup::typed(&visit.query));
            visit.refiltered(Section::Events, "Events", &filters, &problem)
        }
        view => visit.respond(Section::Events, view),
    }
}

async fn content(visit: &Visit) -> HandlerResult<View> {
    let (query, gateway) = lookup::filter(visit, &in_window(visit)?).await?;
    let asked: (EventFilter, PageQuery) = query.query()?;
    let page = browse::events(visit.part(), visit.session.reader()?, Query(asked)).await?.0;
    let list = html! {
        @if page.list.is_empty() { (nothing()) } @else { (rows(visit, &page.list)) }
        (paging(visit, page.pagination.next.as_deref(), &query))
    };
    let body = html! { h1 { "Events" } (filters(visit, &gateway)) (following(visit, Refresh::OFTEN, None, &list)) };
    let calls = vec![Call::get("/events", &query.known(&<(EventFilter, PageQuery)>::names()))];
    Ok(View { title: "Events".to_owned(), calls, body })
}

/// The filters. `gateway` is what the one by gateway shows.
fn filters(visit: &Visit, gateway: &str) -> Markup {
    Filters::of(visit)
        .choice("last", "Published in the", &WINDOWS)
        .text("type", "Type", "api.deployed")
        .text("correlationId", "Correlation id", "")
        .gateway(gateway)
        .text("artifactId", "Artifact", "")
        .text("deploymentId", "Deployment", "")
        .text("userId", "User", "")
        .text("idPrefix", "Id begins with", "")
        .form()
}

fn rows(visit: &Visit, events: &[EventSummary]) -> Markup {
    let rows: Vec<Vec<Markup>> = events
        .iter()
        .map(|event| {
            vec![
                event_link(event.id.as_str()),
                html! { code { (event.event_type.as_str()) } },
                when(event.appended_at, visit.now),
                target(event.target.as_ref()),
                html! { (number(event.gateway_count)) },
                event.artifact_id.as_deref().map_or_else(none, said),
                event.user_id.as_deref().map_or_else(none, said),
            ]
        })
        .collect();
    let columns = [
        text("Event"),
        text("Type"),
        text("Published"),
        text("For"),
        numeric("Gateways"),
        text("Artifact"),
        text("User"),
    ];
    table("Events, newest first", &columns, &rows)
}

/// What an event was published for.
pub(super) fn target(target: Option<&PublishedTarget>) -> Markup {
    match target {
        Some(PublishedTarget { all: Some(_), .. }) => html! { "all gateways" },
        Some(PublishedTarget { labels: Some(of), .. }) => labels(of),
        Some(PublishedTarget { gateway_ids: Some(ids), .. }) => html! {
            @for (nth, id) in ids.iter().enumerate() {
                @if nth > 0 { ", " }
                a.id href=(format!("/console/gateways/{id}")) { (super::text::short(&id.to_string(), 13)) }
            }
        },
        _ => none(),
    }
}

fn nothing() -> Markup {
    empty(&html! {
        p { "No event matches in this window. Choose a longer one, or remove a filter." }
        p { "Publish an event: " code { "gateway-events event publish TYPE PAYLOAD --gateway NAME" } }
    })
}
