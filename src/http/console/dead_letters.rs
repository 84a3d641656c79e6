//! Dead letters: deliveries that were given up and have not been redriven, whatever their age. The API
//! lists them among the failed deliveries; this page leaves all others out.

use axum::response::Response;
use maud::{Markup, html};

use super::super::deliveries;
use super::super::problem::HandlerResult;
use super::super::query::{FromQuery as _, Query};
use super::components::{Filters, Refresh, empty, following, paging};
use super::delivery_list::DEAD_LETTERS;
use super::events::in_window;
use super::failures::rows;
use super::layout::{Call, Section};
use super::lookup;
use super::pairs::Pairs;
use super::visit::{View, Visit};
use super::{delivery_list, failure_selection, redrive};
use crate::api::{
    DeliveriesQuery, Delivery, DeliveryFilter, DeliveryState, Object, PageQuery, RedriveRequest,
};

/// Rows that a page is filled with. It may have as many again, less one: the rows of the last page of
/// the API that was read.
const ROWS: usize = failure_selection::MAX_DELIVERIES / 2;
/// Failed deliveries that are read for one page, at most.
const READ: usize = 1000;
/// The begin of a list without a window.
const BEGINNING: &str = "1970-01-01T00:00:00Z";
/// The choices of a time window, by the value of `last`.
const WINDOWS: [(&str, &str); 5] = [
    ("", "at any time"),
    ("1h", "last hour"),
    ("24h", "last 24 hours"),
    ("7d", "last 7 days"),
    ("30d", "last 30 days"),
];

/// The parameters of the API's list.
type ListQuery = (DeliveriesQuery, DeliveryFilter, PageQuery);

pub(super) async fn page(visit: Visit) -> Response {
    match content(&visit).await {
        Err(problem) if problem.code() == "invalid" => {
            let filters = filters(&visit, lookup::typed(&visit.query));
            visit.refiltered(Section::DeadLetters, DEAD_LETTERS.title, &filters, &problem)
        }
        view => visit.respond(Section::DeadLetters, view),
    }
}

async fn content(visit: &Visit) -> HandlerResult<View> {
    let mut query = in_window(visit)?.with("limit", ROWS.to_string()).with("status", "");
    if query.get("from").is_empty() {
        query = query.with("from", BEGINNING);
    }
    let (query, gateway) = lookup::filter(visit, &query).await?;
    let (found, next) = matching(visit, &query).await?;
    let filter: DeliveryFilter = query.query()?;
    let is_admin = visit.session.is_admin();
    let list = html! {
        @if found.is_empty() { (nothing(visit, next.is_some())) }
        @else { (rows(visit, &found, "Dead letters, newest failure first", is_admin)) }
        (paging(visit, next.as_deref(), &query))
    };
    let body = html! {
        h1 { (DEAD_LETTERS.title) }
        p.hint {
            "Deliveries that were given up: the gateway rejected the event or failed to apply it too often, it expired, or it was skipped or purged. "
            "They stay here until they are redriven or retention removes them."
        }
        (filters(visit, &gateway))
        @if is_admin && !found.is_empty() { (redrive::offer(visit, &DEAD_LETTERS, &query)) }
        @if is_admin { (failure_selection::form(visit, &DEAD_LETTERS)) }
        (following(visit, Refresh::SELDOM, None, &list))
    };
    let filter = Some(Object(filter));
    let planned = RedriveRequest { filter, dry_run: true, ..RedriveRequest::default() };
    let calls = vec![
        Call::get("/deliveries", &query.known(&ListQuery::names())),
        Call::post("/deliveries/redrive", &planned),
    ];
    Ok(View { title: DEAD_LETTERS.title.to_owned(), calls, body })
}

const fn is_dead_letter(delivery: &Delivery) -> bool {
    matches!(delivery.state, DeliveryState::Failed) && !delivery.redriven
}

/// The next dead letters, and the cursor of the next page.
async fn matching(visit: &Visit, query: &Pairs) -> HandlerResult<(Vec<Delivery>, Option<String>)> {
    let (mut found, mut read): (Vec<Delivery>, usize) = (Vec::new(), 0);
    let mut query = query.clone();
    loop {
        let asked: ListQuery = query.query()?;
        let reader = visit.session.reader()?;
        let page = deliveries::list(visit.part(), reader, Query(asked)).await?.0;
        read += page.list.len().max(1);
        found.extend(page.list.into_iter().filter(is_dead_letter));
        match page.pagination.next {
            Some(next) if found.len() < ROWS && read < READ => query = query.with("cursor", next),
            next => return Ok((found, next)),
        }
    }
}

/// The filters. `gateway` is what the one by gateway shows.
fn filters(visit: &Visit, gateway: &str) -> Markup {
    let filters = Filters::of(visit).choice("last", "Window", &WINDOWS);
    delivery_list::conditions(filters, gateway).form()
}

fn nothing(visit: &Visit, more: bool) -> Markup {
    let mut names =
        ["last", lookup::NAME].map(str::to_owned).into_iter().chain(DeliveryFilter::names());
    let is_filtered = names.any(|name| !visit.query.get(&name).is_empty());
    empty(&html! {
        @if more {
            p { "None of the failed deliveries that were read is a dead letter. The next page continues." }
        } @else if is_filtered {
            p { "No dead letter matches. Remove a filter, or choose a longer window." }
        } @else {
            p { "There are no dead letters: every delivery that was given up has been redriven." }
            p { a href="/console/failures" { "Failed attempts" } " that are still being retried are in the list of failures." }
        }
    })
}
