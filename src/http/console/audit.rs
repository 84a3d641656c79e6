//! The audit log: who changed what.

use axum::response::Response;
use maud::{Markup, html};
use serde_json::{Map, Value};

use super::super::audit;
use super::super::problem::HandlerResult;
use super::super::query::{FromQuery as _, Query};
use super::components::{Filters, empty, paging, table, text};
use super::events::{WINDOWS, in_window};
use super::layout::{Call, Section};
use super::text::{none, said, when};
use super::visit::{View, Visit};
use crate::api::{AuditQuery, AuditRecord, PageQuery};

type ListQuery = (AuditQuery, PageQuery);

pub(super) async fn page(visit: Visit) -> Response {
    match content(&visit).await {
        Err(problem) if problem.code() == "invalid" => {
            visit.refiltered(Section::Audit, "Audit", &filters(&visit), &problem)
        }
        view => visit.respond(Section::Audit, view),
    }
}

fn filters(visit: &Visit) -> Markup {
    Filters::of(visit)
        .choice("last", "Window", &WINDOWS)
        .text("action", "Change", "gateway.disabled")
        .text("principal", "By", "name or id of a token")
        .text("object", "Of", "name or id")
        .form()
}

async fn content(visit: &Visit) -> HandlerResult<View> {
    let query = in_window(visit)?;
    let asked: ListQuery = query.query()?;
    let page = audit::list(visit.part(), visit.session.admin()?, Query(asked)).await?.0;
    let body = html! {
        h1 { "Audit" }
        p.hint { "Every change that an access token or a local command made, except for publishing." }
        (filters(visit))
        @if page.list.is_empty() {
            (empty(&html! { p { "Nothing was changed in this window, or nothing that matches. Choose a longer window." } }))
        } @else { (rows(visit, &page.list)) }
        (paging(visit, page.pagination.next.as_deref(), &query))
    };
    let calls = vec![Call::get("/audit", &query.known(&ListQuery::names()))];
    Ok(View { title: "Audit".to_owned(), calls, body })
}

fn rows(visit: &Visit, records: &[AuditRecord]) -> Markup {
    let rows: Vec<Vec<Markup>> = records
        .iter()
        .map(|record| {
            vec![
                when(record.recorded_at, visit.now),
                html! { code { (record.action) } },
                html! { (said(&record.object.name)) " " span.hint { (record.object.kind.replace('_', " ")) } },
                html! { (said(&record.principal.name)) },
                record.source.as_deref().map_or_else(none, said),
                members(&record.before),
                members(&record.after),
            ]
        })
        .collect();
    let columns = [
        text("When"),
        text("Change"),
        text("Of"),
        text("By"),
        text("From"),
        text("Before"),
        text("After"),
    ];
    table("Changes, newest first", &columns, &rows)
}

/// What changed, member by member.
fn members(members: &Map<String, Value>) -> Markup {
    html! {
        @if members.is_empty() { (none()) }
        @else {
            ul.members {
                @for (name, value) in members {
                    li { span.hint { (name) ": " } @match value { Value::String(text) => (said(text)), other => (said(&other.to_string())) } }
                }
            }
        }
    }
}
