//! Failed deliveries of a time window, and those that are pending or delivered.

use std::time::Duration;

use axum::response::Response;
use maud::{Markup, html};

use super::super::deliveries;
use super::super::problem::HandlerResult;
use super::super::query::{FromQuery as _, Query};
use super::components::{
    Column, Filters, Refresh, choice, empty, event_link, following, gateway_link, numeric, paging,
    table, text,
};
use super::delivery_list::FAILURES;
use super::events::{WINDOWS, in_window};
use super::layout::{Call, Section};
use super::lookup;
use super::pairs::Pairs;
use super::redrive;
use super::states::delivery_state;
use super::text::{none, number, when_any};
use super::visit::{View, Visit};
use super::{chart, delivery_list, failure_selection};
use crate::api::{
    DeliveriesQuery, DeliveriesStatus, Delivery, DeliveryFilter, PageQuery, SummaryBy,
    SummaryQuery, Window,
};

/// The parameters of the list.
type ListQuery = (DeliveriesQuery, DeliveryFilter, PageQuery);

pub(super) async fn page(visit: Visit) -> Response {
    match content(&visit).await {
        Err(problem) if problem.code() == "invalid" => {
            let filters = filters(&visit, lookup::typed(&visit.query));
            visit.refiltered(Section::Failures, "Deliveries", &filters, &problem)
        }
        view => visit.respond(Section::Failures, view),
    }
}

async fn content(visit: &Visit) -> HandlerResult<View> {
    let (query, gateway) = lookup::filter(visit, &in_window(visit)?).await?;
    let asked: ListQuery = query.query()?;
    let status = asked.0.status.unwrap_or_default();
    let is_failed = status == DeliveriesStatus::Failed;
    let page = deliveries::list(visit.part(), visit.session.reader()?, Query(asked)).await?.0;
    let list = html! {
        @if page.list.is_empty() { (nothing(status)) } @else { (rows(visit, &page.list, caption(status), is_failed && visit.session.is_admin())) }
        (paging(visit, page.pagination.next.as_deref(), &query))
    };
    let mut calls = vec![Call::get("/deliveries", &query.known(&ListQuery::names()))];
    let histogram =
        if is_failed { Some(histogram(visit, &query, &mut calls).await?) } else { None };
    let body = html! {
        h1 { (title(status)) }
        (filters(visit, &gateway))
        @if let Some(histogram) = &histogram { (histogram) }
        @if is_failed && visit.session.is_admin() && !page.list.is_empty() {
            (redrive::offer(visit, &FAILURES, &query))
        }
        @if is_failed && visit.session.is_admin() { (failure_selection::form(visit, &FAILURES)) }
        (following(visit, Refresh::SELDOM, None, &list))
    };
    Ok(View { title: title(status).to_owned(), calls, body })
}

const fn title(status: DeliveriesStatus) -> &'static str {
    match status {
        DeliveriesStatus::Failed => "Failures",
        DeliveriesStatus::Pending => "Pending deliveries",
        DeliveriesStatus::Delivered => "Delivered",
        DeliveriesStatus::Filtered => "Filtered deliveries",
        DeliveriesStatus::Superseded => "Superseded deliveries",
        DeliveriesStatus::All => "Deliveries",
    }
}

/// The filters. `gateway` is what the one by gateway shows.
fn filters(visit: &Visit, gateway: &str) -> Markup {
    let filters = Filters::of(visit)
        .choice(
            "status",
            "Deliveries",
            &[
                ("", "failed"),
                ("pending", "pending"),
                ("delivered", "delivered"),
                ("filtered", "filtered"),
                ("superseded", "superseded"),
                ("all", "all"),
            ],
        )
        .choice("last", "Window", &WINDOWS);
    delivery_list::conditions(filters, gateway)
        .choice("by", "Chart by", &[("", "reason"), ("gateway", "gateway"), ("type", "type")])
        .form()
}

/// The buckets of windows up to a length in seconds: a few dozen of them, and never more than the API allows.
const BUCKETS: [(u64, &str); 6] = [
    (1800, "30s"),
    (2 * 3600, "1m"),
    (2 * 24 * 3600, "30m"),
    (10 * 24 * 3600, "3h"),
    (60 * 24 * 3600, "12h"),
    (1999 * 24 * 3600, "1d"),
];

fn bucket_of(window: Duration) -> &'static str {
    let fits = |(longest, _): &&(u64, &'static str)| window.as_secs() <= *longest;
    BUCKETS.iter().find(fits).map_or("366d", |(_, bucket)| bucket)
}

/// How many attempts failed when. Concerns the window alone: the API counts all failures of it.
async fn histogram(visit: &Visit, query: &Pairs, calls: &mut Vec<Call>) -> HandlerResult<Markup> {
    let query = query.known(&<(Window, SummaryQuery)>::names());
    let (window, _): (Window, SummaryQuery) = query.query()?;
    let to = window.to.unwrap_or(visit.now);
    let length = to.since(window.from.unwrap_or_else(|| to.minus(Duration::from_hours(24))));
    let query = query.with("bucket", bucket_of(length));
    let asked: (Window, SummaryQuery) = query.query()?;
    let by = match asked.1.by {
        Some(SummaryBy::Gateway) => "Gateway",
        Some(SummaryBy::Type) => "Type",
        _ => "Reason",
    };
    let summary = deliveries::summary(visit.part(), visit.session.reader()?, Query(asked)).await?;
    calls.push(Call::get("/deliveries/summary", &query));
    Ok(html! {
        section aria-labelledby="over-time" {
            h2 #over-time { "Failed attempts of the window, by " (by.to_lowercase()) }
            (chart::failures(&summary.0, by))
        }
    })
}

/// Deliveries in a table, with a checkbox each if they can be selected.
pub(super) fn rows(
    visit: &Visit,
    deliveries: &[Delivery],
    caption: &str,
    can_select: bool,
) -> Markup {
    let rows: Vec<Vec<Markup>> = deliveries
        .iter()
        .map(|it| {
            let checkbox = can_select.then(|| failure_selection::checkbox(it));
            let cells = vec![
                gateway_link(it.gateway_id, &it.gateway_name),
                html! { (number(it.sequence.0)) },
                it.event_id.as_ref().map_or_else(none, |id| event_link(id.as_str())),
                it.event_type.as_ref().map_or_else(none, |of| html! { code { (of.as_str()) } }),
                html! {
                    (delivery_state(it.state))
                    @if it.redriven { span.hint { " redriven" } }
                    @if it.delivered_since { span.hint { " delivered since" } }
                },
                match it.reason {
                    Some(reason) => html! { code { (reason.as_str()) } },
                    None => none(),
                },
                html! { (number(it.failures)) },
                when_any(it.last_failure_at, visit.now),
                when_any(it.appended_at, visit.now),
            ];
            checkbox.into_iter().chain(cells).collect()
        })
        .collect();
    let columns = [
        text("Gateway"),
        numeric("Sequence"),
        text("Event"),
        text("Type"),
        text("State"),
        text("Last reason"),
        numeric("Failed attempts"),
        text("Last failure"),
        text("Appended"),
    ];
    let select = can_select.then(|| choice("Select"));
    let columns: Vec<Column> = select.into_iter().chain(columns).collect();
    table(caption, &columns, &rows)
}

const fn caption(status: DeliveriesStatus) -> &'static str {
    match status {
        DeliveriesStatus::Failed => "Deliveries with a failed attempt, newest failure first",
        DeliveriesStatus::Pending => "Pending deliveries, by gateway and newest first",
        DeliveriesStatus::Delivered => "Confirmed deliveries, by gateway and newest first",
        DeliveriesStatus::Filtered => {
            "Deliveries of types that the gateway does not subscribe to, by gateway and newest first"
        }
        DeliveriesStatus::Superseded => {
            "Deliveries replaced by a newer event of the same key, by gateway and newest first"
        }
        DeliveriesStatus::All => "Deliveries of any state, by gateway and newest first",
    }
}

fn nothing(status: DeliveriesStatus) -> Markup {
    empty(&match status {
        DeliveriesStatus::Failed => html! {
            p { "No delivery failed in this window, or none that matches the filters." }
            p { "Choose a longer window to look further back." }
        },
        DeliveriesStatus::Pending => {
            html! { p { "Nothing is pending: every delivery is confirmed or was given up." } }
        }
        DeliveriesStatus::Delivered => {
            html! { p { "Nothing was delivered in this window. Choose a longer one." } }
        }
        DeliveriesStatus::Filtered => html! {
            p { "No event was left out because its gateway does not subscribe to the type." }
        },
        DeliveriesStatus::Superseded => html! {
            p { "No event was replaced by a newer one of the same key in this window." }
        },
        DeliveriesStatus::All => {
            html! { p { "Nothing was appended in this window. Choose a longer one." } }
        }
    })
}
