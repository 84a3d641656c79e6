//! Jobs: redrives and replays of many deliveries.

use axum::response::Response;
use maud::{Markup, html};

use super::super::bulk_jobs;
use super::super::problem::Answer;
use super::super::query::{FromQuery as _, Query};
use super::components::{Filters, empty, live, numeric, paging, shortened, table, text};
use super::layout::{Call, Section};
use super::states::job_state;
use super::text::{number, said, when, when_any};
use super::visit::{View, Visit};
use crate::api::{Job, JobsQuery, PageQuery};

type Asked = (JobsQuery, PageQuery);

pub(super) async fn page(visit: Visit) -> Response {
    let view = content(&visit).await;
    visit.respond(Section::Jobs, view)
}

async fn content(visit: &Visit) -> Answer<View> {
    let query = visit.query.with("limit", "50");
    let asked: Asked = query.query()?;
    let page = bulk_jobs::list(visit.state(), visit.session.admin()?, Query(asked)).await?.0;
    let filters = Filters::of(visit)
        .choice(
            "state",
            "State",
            &[
                ("", "any"),
                ("running", "running"),
                ("done", "done"),
                ("aborted", "aborted"),
                ("failed", "failed"),
            ],
        )
        .form();
    let list = html! {
        @if page.list.is_empty() {
            (empty(&html! {
                p { "No job is on record, or none in this state." }
                p { "A redrive or a replay becomes a job when it concerns more deliveries than one request may append. Start one from the list of " a href="/console/failures" { "failures" } "." }
            }))
        } @else { (rows(visit, &page.list)) }
        (paging(visit, page.pagination.next.as_deref(), &query))
    };
    let body = html! { h1 { "Jobs" } (filters) (live(visit, 2000, &list)) };
    let calls = vec![Call::get("/jobs", &query.known(&Asked::names()))];
    Ok(View { title: "Jobs".to_owned(), calls, body })
}

fn rows(visit: &Visit, jobs: &[Job]) -> Markup {
    let rows: Vec<Vec<Markup>> = jobs
        .iter()
        .map(|job| {
            vec![
                html! { code.id title=(job.id) { (shortened(&job.id.to_string())) } },
                html! { (job.kind.as_str()) },
                html! { (job_state(job.state)) @if let Some(failure) = &job.failure { " " (said(failure)) } },
                progress(job),
                html! { (number(job.appended)) },
                html! { (number(skipped(job))) },
                said(&job.started_by.name),
                when(job.started_at, visit.now),
                when_any(job.ended_at, visit.now),
            ]
        })
        .collect();
    let columns = [
        text("Job"),
        text("Kind"),
        text("State"),
        text("Progress"),
        numeric("Appended"),
        numeric("Skipped"),
        text("Started by"),
        text("Started"),
        text("Ended"),
    ];
    table("Jobs, newest first", &columns, &rows)
}

fn progress(job: &Job) -> Markup {
    html! {
        @match job.progress.total {
            Some(total) => {
                progress max=(total.max(1)) value=(job.progress.done.min(total)) aria-label="Progress" {}
                " " (number(job.progress.done)) " of " (number(total))
            }
            None => "counting",
        }
    }
}

const fn skipped(job: &Job) -> i64 {
    let of = &job.skipped;
    of.pending
        + of.delivered
        + of.already_redriven
        + of.gateway_deleted
        + of.repeated
        + of.event_removed
        + of.payload_purged
        + of.expired
}
