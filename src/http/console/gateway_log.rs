//! A gateway's log with the state of each delivery, newest first.

use axum::response::Response;
use maud::{Markup, html};

use super::super::extract::Path;
use super::super::log;
use super::super::problem::HandlerResult;
use super::super::query::Query;
use super::components::{Refresh, empty, event_link, following, numeric, table, text};
use super::layout::{Call, Section};
use super::pairs::Pairs;
use super::states::{Tone, delivery_state, state};
use super::text::{number, short, when};
use super::visit::{Key, View, Visit};
use crate::api::{LogPage, LogQuery};
use crate::event::{GatewayId, Sequence};

const ROWS: usize = 50;

pub(super) async fn page(visit: Visit, Key(id): Key<GatewayId>) -> Response {
    let view = content(&visit, id).await;
    visit.respond(Section::Gateways, view)
}

/// Reads the entries after a sequence.
async fn read(visit: &Visit, id: GatewayId, after: Sequence) -> HandlerResult<LogPage> {
    let query = LogQuery { after: Some(after), limit: Some(ROWS), wait: None };
    Ok(log::show(
        visit.state(),
        visit.state(),
        visit.state(),
        visit.part(),
        visit.session.reader()?,
        Path(id),
        Query(query),
    )
    .await?
    .0)
}

async fn content(visit: &Visit, id: GatewayId) -> HandlerResult<View> {
    let asked: LogQuery = visit.query.query()?;
    let rows = i64::try_from(ROWS).unwrap_or(i64::MAX);
    let log = if let Some(after) = asked.after {
        read(visit, id, after).await?
    } else {
        // A page beyond the end is empty and has the head of the log.
        let head = read(visit, id, Sequence::MAX).await?.head;
        read(visit, id, Sequence((head.0 - rows).max(0))).await?
    };
    let after = asked.after.map_or((log.head.0 - rows).max(0), |after| after.0);
    let name = short(&log.gateway_name, 64);
    let list = html! { (entries(visit, &log)) (pages(visit, &log, after)) };
    let body = html! {
        p.up { a href=(format!("/console/gateways/{id}")) { "Gateway " bdi { (name) } } }
        h1 { "Log of " bdi { (name) } }
        p.hint {
            @if log.head > log.floor {
                "Sequences " (number(log.floor.0 + 1)) " to " (number(log.head.0)) " are kept. "
            }
            "Everything up to " (number(log.confirmed.0)) " is confirmed or a dead letter. Reading confirms nothing."
        }
        (following(visit, Refresh::OFTEN, Some(id), &list))
    };
    let query = Pairs::default().with("after", after.to_string()).with("limit", ROWS.to_string());
    let calls = vec![Call::get(format!("/gateways/{id}/log"), &query)];
    Ok(View { title: format!("Log of {name}"), calls, body })
}

fn entries(visit: &Visit, log: &LogPage) -> Markup {
    if log.list.is_empty() {
        return empty(
            &html! { p { "The log has no entries here. An event that is published for this gateway appears in it." } },
        );
    }
    let rows: Vec<Vec<Markup>> = log
        .list
        .iter()
        .rev()
        .map(|entry| {
            vec![
                html! { (number(entry.sequence.0)) },
                event_link(entry.event_id.as_str()),
                html! { code { (entry.event_type.as_str()) } },
                html! { (delivery_state(entry.state)) @if entry.purged { " " (state("purged", Tone::Quiet)) } },
                when(entry.appended_at, visit.now),
            ]
        })
        .collect();
    let columns =
        [numeric("Sequence"), text("Event"), text("Type"), text("State"), text("Appended")];
    table("Entries of the log, newest first", &columns, &rows)
}

fn pages(visit: &Visit, log: &LogPage, after: i64) -> Markup {
    let rows = i64::try_from(ROWS).unwrap_or(i64::MAX);
    let older = (after - rows).max(log.floor.0);
    html! {
        nav.paging aria-label="Pages" {
            @if log.pagination.next.is_some() && after + rows < log.head.0 {
                a href=(visit.link_with("after", (after + rows).to_string())) { "Newer entries" }
            }
            @if after > log.floor.0 {
                a href=(visit.link_with("after", older.to_string())) { "Older entries" }
            }
            a href=(visit.path) { "Newest entries" }
        }
    }
}
