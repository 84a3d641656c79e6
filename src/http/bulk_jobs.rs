//! Jobs of the API: redrives and replays of many deliveries. They are listed, shown and aborted here;
//! [`deliveries`](super::deliveries) and [`replay`](super::replay) start them. The background jobs of
//! a node are [something else](crate::jobs).

use axum::Json;

use super::auth::Admin;
use super::cursor;
use super::extract::{self, Path};
use super::openapi::{Body, Long, Missing, Problems, Scoped, Write};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::{FromQuery, Parameters, Query, documented};
use crate::api::{
    AbortRequest, Aborted, AuditPrincipal, Job, JobKind, JobParameters, JobProgress, JobSkips,
    JobState, JobsQuery, Object, Page, PageQuery,
};
use crate::event::JobId;
use crate::store::{self, Bulk, BulkCounts, BulkJob, BulkJobState, BulkTask};

impl FromQuery for JobsQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        let words = [JobState::Running, JobState::Done, JobState::Aborted, JobState::Failed]
            .map(|state| (state.as_str(), state));
        Ok(Self { state: parameters.one_of("state", &words)? })
    }
}

/// List jobs, newest first.
///
/// Redrives and replays that were too large for one request. The record of a job is kept as long as
/// the audit log, `retention.audit`.
#[utoipa::path(
    get, path = "/jobs", tag = "jobs", operation_id = "listJobs",
    params(JobsQuery, PageQuery),
    responses(
        (status = 200, description = "A page of jobs.", body = Page<Job>),
        Problems<(Scoped, Long)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn list(
    Part(bulk): Part<dyn Bulk>,
    Admin(actor): Admin,
    Query((asked, page)): Query<(JobsQuery, PageQuery)>,
) -> HandlerResult<Json<Page<Job>>> {
    let filters = ("jobs", &asked);
    let (limit, after) = (page.size(), page.position::<i64>(&filters)?);
    let JobsQuery { state } = &asked;
    let state = state.map(BulkJobState::from);
    let mut jobs = bulk.bulk_jobs(actor.organisation, state, after, limit + 1).await?;
    let more = jobs.len() > limit;
    jobs.truncate(limit);
    let next = jobs.last().filter(|_| more).map(|last| cursor::encode(&last.key, &filters));
    Ok(Json(Page::new(jobs.into_iter().map(Into::into).collect(), limit, next)))
}

/// Show a job.
#[utoipa::path(
    get, path = "/jobs/{id}", tag = "jobs", operation_id = "showJob",
    params(("id" = JobId, Path, description = "The job.")),
    responses(
        (status = 200, description = "The job.", body = Job),
        Problems<(Scoped, Missing, Long)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn show(
    Part(bulk): Part<dyn Bulk>,
    Admin(actor): Admin,
    Path(id): Path<JobId>,
    _: Query<()>,
) -> HandlerResult<Json<Job>> {
    let job = bulk.bulk_job(actor.organisation, id).await?;
    Ok(Json(job.ok_or_else(|| Problem::not_found("job"))?.into()))
}

/// Abort a job.
///
/// What it has appended stays; `appended` says how much, and `left` what it has not done. A job that
/// has ended is returned as it is.
#[utoipa::path(
    post, path = "/jobs/{id}/abort", tag = "jobs", operation_id = "abortJob",
    params(("id" = JobId, Path, description = "The job.")),
    request_body(
        content = Option<AbortRequest>,
        examples(("dry run" = (summary = "Only report", value = json!({"dryRun": true})))),
    ),
    responses(
        (status = 200, description = "The job, which has ended unless this was a dry run.", body = Aborted),
        Problems<(Scoped, Missing, Body, Write, Long)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn abort(
    Part(bulk): Part<dyn Bulk>,
    Admin(actor): Admin,
    Path(id): Path<JobId>,
    _: Query<()>,
    extract::OptionalJson(request): extract::OptionalJson<AbortRequest>,
) -> HandlerResult<Json<Aborted>> {
    let AbortRequest { dry_run } = request;
    let job = if dry_run {
        let job = bulk.bulk_job(actor.organisation, id).await?;
        job.ok_or_else(|| Problem::not_found("job"))?
    } else {
        bulk.abort_bulk_job(&actor, id).await?
    };
    let job = Job::from(job);
    let left = job.progress.total.map(|total| total - job.progress.done);
    Ok(Json(Aborted { job, dry_run, left }))
}

impl From<JobState> for BulkJobState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Running => Self::Running,
            JobState::Done => Self::Done,
            JobState::Aborted => Self::Aborted,
            JobState::Failed => Self::Failed,
        }
    }
}

impl From<BulkJobState> for JobState {
    fn from(state: BulkJobState) -> Self {
        match state {
            BulkJobState::Running => Self::Running,
            BulkJobState::Done => Self::Done,
            BulkJobState::Aborted => Self::Aborted,
            BulkJobState::Failed => Self::Failed,
        }
    }
}

impl From<BulkJob> for Job {
    fn from(job: BulkJob) -> Self {
        let total = job.total.filter(|_| !job.is_counting());
        let (kind, parameters) = described(job.task);
        let store::Principal { id, name, .. } = job.principal;
        Self {
            id: job.id,
            kind,
            parameters,
            state: job.state.into(),
            failure: job.failure,
            progress: JobProgress { done: job.done, total },
            appended: job.counts.appended,
            skipped: job.counts.into(),
            started_by: AuditPrincipal { id, name },
            started_at: job.created_at,
            updated_at: job.updated_at,
            ended_at: job.ended_at,
            node: job.node,
        }
    }
}

fn described(task: BulkTask) -> (JobKind, JobParameters) {
    let none = JobParameters::default();
    match task {
        BulkTask::Redrive(filter) => {
            (JobKind::Redrive, JobParameters { filter: Some(Object(filter.into())), ..none })
        }
        BulkTask::Replay(gateway, range) => {
            let parameters = JobParameters {
                gateway_id: Some(gateway),
                from_sequence: Some(range.first),
                to_sequence: Some(range.last),
                ..none
            };
            (JobKind::Replay, parameters)
        }
        BulkTask::Unreadable => (JobKind::Unknown, none),
    }
}

impl From<BulkCounts> for JobSkips {
    fn from(counts: BulkCounts) -> Self {
        Self {
            pending: counts.pending,
            delivered: counts.delivered,
            already_redriven: counts.already_redriven,
            gateway_deleted: counts.gateway_deleted,
            repeated: counts.repeated,
            event_removed: counts.event_removed,
            payload_purged: counts.payload_purged,
            expired: counts.expired,
        }
    }
}
