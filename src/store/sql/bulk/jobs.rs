//! Rows of jobs.

use super::super::dialect::{BulkStatements, Connection, NodeStatements, query, query_as};
use crate::clock::Timestamp;
use crate::event::{JobId, NodeId, OrganisationKey};
use crate::store::audit::{Audited, entries};
use crate::store::bulk::stored::{from_json, to_json};
use crate::store::limits::{JOB_LEASE, JOBS_IN_TURN, RUNNING_JOBS};
use crate::store::{
    BulkCounts, BulkJob, BulkJobState, BulkPosition, BulkTask, Conflict, Principal, Result,
    StoreError, WorkableJobs,
};

/// A row of `bulk_jobs`.
struct Row {
    job: i64,
    id: JobId,
    organisation: OrganisationKey,
    kind: String,
    parameters: String,
    principal: String,
    principal_name: String,
    source: String,
    request_id: String,
    state: String,
    failure: Option<String>,
    position: String,
    done: i64,
    total: Option<i64>,
    counts: String,
    node: Option<NodeId>,
    created_at: Timestamp,
    updated_at: Timestamp,
    ended_at: Option<Timestamp>,
}

impl Row {
    /// The job. What only a newer version can read becomes [`BulkTask::Unreadable`].
    fn job(self) -> BulkJob {
        let (task, position, counts) = self.work().unwrap_or_else(|error| {
            tracing::debug!(job = %self.id, %error, "this version can't read a job");
            (BulkTask::Unreadable, BulkPosition::Counted(None), BulkCounts::default())
        });
        BulkJob {
            key: self.job,
            id: self.id,
            organisation: self.organisation,
            task,
            principal: Principal {
                id: self.principal,
                name: self.principal_name,
                source: self.source,
                request_id: self.request_id,
            },
            state: BulkJobState::stored(&self.state, self.ended_at.is_some()),
            failure: self.failure,
            position,
            done: self.done,
            total: self.total,
            counts,
            node: self.node,
            created_at: self.created_at,
            updated_at: self.updated_at,
            ended_at: self.ended_at,
        }
    }

    fn work(&self) -> Result<(BulkTask, BulkPosition, BulkCounts)> {
        let task = BulkTask::stored(&self.kind, &self.parameters)?;
        Ok((task, from_json(&self.position)?, from_json(&self.counts)?))
    }
}

/// Selects rows. The condition begins with a line break, because the name of the database, a
/// comment, precedes it.
macro_rules! rows {
    ($condition:literal $(, $value:expr)*) => {
        query_as!(
            Row,
            r#"
            select job as "job!: i64", id as "id!: JobId", organisation as "organisation!: OrganisationKey",
                kind as "kind!: String", parameters as "parameters!: String",
                principal as "principal!: String", principal_name as "principal_name!: String",
                source as "source!: String", request_id as "request_id!: String",
                state as "state!: String", failure as "failure?: String",
                position as "position!: String", done as "done!: i64", total as "total?: i64",
                counts as "counts!: String", node as "node?: NodeId",
                created_at as "created_at!: Timestamp", updated_at as "updated_at!: Timestamp",
                ended_at as "ended_at?: Timestamp"
            from bulk_jobs"# + $condition
            $(, $value)*
        )
    };
}

/// Stores a new job, unless too many are running.
pub(super) async fn start(conn: &mut Connection, mut job: BulkJob) -> Result<Audited<BulkJob>> {
    conn.lock_new_jobs().await?;
    let running = query!(
        r#"
        select count(*) as "running!: i64" from bulk_jobs where organisation = $1 and state = 'running'
        "#,
        job.organisation.0
    )
    .fetch_one(&mut *conn)
    .await?
    .running;
    if running >= RUNNING_JOBS {
        return Err(Conflict::RunningJobs { running }.into());
    }
    let (parameters, position) = (job.task.to_stored()?, to_json(&job.position)?);
    let (kind, counts) = (job.task.kind(), to_json(&job.counts)?);
    job.key = query!(
        r#"
        insert into bulk_jobs (id, organisation, kind, parameters, principal, principal_name, source,
            request_id, state, position, done, total, counts, created_at, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, 'running', $9, $10, $11, $12, $13, $13)
        returning job as "job!: i64"
        "#,
        job.id as _,
        job.organisation.0,
        kind,
        parameters,
        job.principal.id,
        job.principal.name,
        job.principal.source,
        job.principal.request_id,
        position,
        job.done,
        job.total,
        counts,
        job.created_at as _
    )
    .fetch_one(conn)
    .await?
    .job;
    let entry = entries::job_started(&job);
    Ok(Audited::new(job, [entry]))
}

pub(super) async fn list(
    conn: &mut Connection,
    organisation: OrganisationKey,
    state: Option<BulkJobState>,
    after: Option<i64>,
    limit: usize,
) -> Result<Vec<BulkJob>> {
    let (state, before) = (state.map_or("", BulkJobState::as_str), after.unwrap_or(i64::MAX));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = rows!(
        r#"
            where organisation = $1 and job < $2 and ($3 = '' or state = $3)
            order by job desc limit $4
            "#,
        organisation.0,
        before,
        state,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Row::job).collect())
}

pub(super) async fn one(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: JobId,
) -> Result<Option<BulkJob>> {
    let row = rows!(
        r#"
            where organisation = $1 and id = $2
            "#,
        organisation.0,
        id as _
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Row::job))
}

/// Running jobs that this node may work on. It skips those that only a newer version can read.
pub(super) async fn workable(conn: &mut Connection, node: NodeId) -> Result<WorkableJobs> {
    let rows = rows!(
        r#"
            where state = 'running' order by updated_at, job limit $1
            "#,
        JOBS_IN_TURN
    )
    .fetch_all(&mut *conn)
    .await?;
    let running = rows.len();
    if running == 0 {
        return Ok(WorkableJobs::default());
    }
    let paused_before = Connection::dead_before(conn.now().await?, JOB_LEASE);
    let is_free =
        |row: &Row| row.node.is_none_or(|owner| owner == node) || row.updated_at < paused_before;
    let jobs = rows.into_iter().filter(is_free).map(Row::job);
    let jobs = jobs.filter(|job| job.task != BulkTask::Unreadable);
    Ok(WorkableJobs { jobs: jobs.collect(), running })
}

/// Locks a job; false if another node works on it, or it has moved since it was read.
pub(super) async fn lock(conn: &mut Connection, job: &BulkJob) -> Result<bool> {
    let Some(locked) = conn.lock_job(job.key).await? else { return Ok(false) };
    let is_running = locked.state == BulkJobState::Running.as_str();
    Ok(is_running && locked.position == to_json(&job.position)?)
}

/// Stores what has changed.
pub(super) async fn save(conn: &mut Connection, job: &BulkJob) -> Result<()> {
    let (position, counts) = (to_json(&job.position)?, to_json(&job.counts)?);
    let state = job.state.as_str();
    query!(
        r#"
        update bulk_jobs set state = $2, failure = $3, position = $4, done = $5, total = $6,
            counts = $7, node = $8, updated_at = $9, ended_at = $10
        where job = $1
        "#,
        job.key,
        state,
        job.failure,
        position,
        job.done,
        job.total,
        counts,
        job.node as _,
        job.updated_at as _,
        job.ended_at as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends a running job; one that has ended stays as it is. Waits for a chunk that is being worked on.
pub(super) async fn end(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: JobId,
    state: BulkJobState,
    failure: Option<&str>,
) -> Result<Audited<BulkJob>> {
    let ended = query!(
        r#"
        update bulk_jobs set state = $3, failure = $4, updated_at = $5, ended_at = $5
        where organisation = $1 and id = $2 and state = 'running'
        "#,
        organisation.0,
        id as _,
        state.as_str(),
        failure,
        now as _
    )
    .execute(&mut *conn)
    .await?
    .rows_affected();
    let job = one(conn, organisation, id).await?.ok_or(StoreError::NotFound("job"))?;
    let entry = (ended > 0).then(|| entries::job_ended(&job));
    Ok(Audited::new(job, entry))
}

/// Deletes a batch of the jobs that ended before an instant; returns how many.
pub(in super::super) async fn forget(
    conn: &mut Connection,
    before: Timestamp,
    batch: i64,
) -> Result<u64> {
    let done = query!(
        r#"
        delete from bulk_jobs where job in (
            select job from bulk_jobs where ended_at < $1 order by ended_at limit $2
        )
        "#,
        before as _,
        batch
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
