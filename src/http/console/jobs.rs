//! Jobs: redrives and replays of many deliveries.

use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};

use super::super::bulk_jobs;
use super::super::extract::{OptionalJson, Path};
use super::super::problem::HandlerResult;
use super::super::query::{FromQuery as _, Query};
use super::components::{Filters, empty, hidden, live, numeric, paging, shortened, table, text};
use super::form::{Submission, TOKEN};
use super::layout::{Call, Section};
use super::states::job_state;
use super::text::{number, said, when, when_any};
use super::visit::{Key, View, Visit};
use crate::api::{AbortRequest, Job, JobState, JobsQuery, PageQuery};
use crate::event::JobId;

type ListQuery = (JobsQuery, PageQuery);

pub(super) async fn page(visit: Visit) -> Response {
    let view = content(&visit).await;
    visit.respond(Section::Jobs, view)
}

async fn content(visit: &Visit) -> HandlerResult<View> {
    let query = visit.query.with("limit", "50");
    let asked: ListQuery = query.query()?;
    let page = bulk_jobs::list(visit.part(), visit.session.admin()?, Query(asked)).await?.0;
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
    let calls = vec![Call::get("/jobs", &query.known(&ListQuery::names()))];
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
                abort_button(visit, job),
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
        text("Action"),
    ];
    table("Jobs, newest first", &columns, &rows)
}

fn abort_button(visit: &Visit, job: &Job) -> Markup {
    html! {
        @if job.state == JobState::Running {
            form method="post" action=(format!("/console/jobs/{}/abort", job.id)) {
                (hidden(TOKEN, &visit.session.id.form_token()))
                button.danger type="submit" aria-label=(format!("Abort job {}", job.id)) { "Abort" }
            }
        }
    }
}

/// Aborts a job. What it has appended stays.
pub(super) async fn abort(Key(id): Key<JobId>, submission: Submission) -> Response {
    let done = async {
        let visit = &submission.visit;
        let (admin, request) = (visit.session.admin()?, OptionalJson(AbortRequest::default()));
        bulk_jobs::abort(visit.part(), admin, Path(id), Query(()), request).await
    };
    match done.await {
        Ok(_) => Redirect::to("/console/jobs").into_response(),
        Err(problem) => submission.refused(&problem),
    }
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
