//! Replays, resends, and jobs that redrive or replay many deliveries. A chunk of a job is one
//! transaction of the writer. It locks the job's row before the streams, as the inbox's rows are,
//! and the head of the audit log last.

use async_trait::async_trait;

use super::Backend;
use super::access::{Access as _, run};
use super::audit::audited;
use super::dialect::Connection;
use super::redrive;
use crate::clock::Timestamp;
use crate::event::{EventId, GatewayId, GatewayKey, JobId, OrganisationKey, Sequence};
use crate::store::audit::{Audited, entries};
use crate::store::limits::REPLAYED;
use crate::store::{
    Actor, Bulk, BulkCounts, BulkJob, BulkJobState, BulkPosition, BulkTask, DeliveryFilter,
    EarlierResult, KeptResult, Range, Refusable, ReplaySelection, Replayed, Resent, Result,
    StoreError, Target, WorkableJobs,
};
use crate::wake::{Hint, Wake};

pub(super) mod jobs;
mod redriven;
mod replay;
mod resend;
pub(super) mod results;

use redriven::{Counted, Found};

/// The failure of a job whose gateway was deleted.
const GATEWAY_DELETED: &str = "the gateway was deleted";

#[async_trait]
impl Bulk for Backend {
    async fn start_redrive(
        &self,
        actor: &Actor,
        id: JobId,
        filter: DeliveryFilter,
    ) -> Result<BulkJob> {
        self.start(actor, id, BulkTask::Redrive(filter), KeptResult::RedriveStarted(id)).await
    }

    async fn replay(
        &self,
        actor: &Actor,
        id: JobId,
        gateway: GatewayId,
        selection: ReplaySelection,
        dry_run: bool,
    ) -> Result<Replayed> {
        let organisation = actor.organisation;
        let (log, range) = self
            .query(move |conn| {
                Box::pin(async move {
                    let log = replay::log(conn, organisation, gateway).await?;
                    let range = replay::resolve(conn, &log, selection).await?;
                    Ok((log, range))
                })
            })
            .await?;
        let nothing = Replayed { range, counts: BulkCounts::default(), appended: None, job: None };
        let Some(range) = range else { return Ok(nothing) };
        if dry_run {
            let counts = self.count_replay(log.gateway, range).await?;
            return Ok(Replayed { counts, ..nothing });
        }
        self.check_space()?;
        if range.last.0 - range.first.0 >= REPLAYED {
            let (counts, appended) = (nothing.counts, None);
            let kept = KeptResult::Replayed { range: Some(range), counts, appended, job: Some(id) };
            let job = self.start(actor, id, BulkTask::Replay(gateway, range), kept).await?;
            return Ok(Replayed { job: Some(job), ..nothing });
        }
        let (key, wake, owner) = (log.gateway, self.wake.clone(), actor.clone());
        self.audited_tx_then(
            actor,
            move |conn, now| {
                Box::pin(async move {
                    let part = replay::append(conn, key, range.first.previous(), range.last)
                        .await?
                        .ok_or(StoreError::NotFound("gateway"))?;
                    let (counts, appended) = (part.counts, part.appended);
                    let replayed = Replayed { counts, appended, ..nothing };
                    results::keep(conn, now, &owner, &KeptResult::from(&replayed)).await?;
                    let entry = appended
                        .map(|appended| entries::replayed(gateway, &log.name, range, appended));
                    Ok(Audited::new(replayed, entry))
                })
            },
            move |done| wake_lanes(&wake, done.appended.map(|range| (key, range.last))),
        )
        .await
    }

    async fn resend(
        &self,
        actor: &Actor,
        event: &EventId,
        target: Target,
        force: bool,
        dry_run: bool,
    ) -> Result<Refusable<Resent>> {
        let (organisation, event, wake) = (actor.organisation, event.clone(), self.wake.clone());
        if dry_run {
            let done = run!(self.query, |conn| resend::resend(
                conn,
                organisation,
                &event,
                &target,
                force,
                true
            ))?;
            return Ok(done.value.0);
        }
        self.check_space()?;
        let owner = actor.clone();
        let (resent, _) = self
            .audited_tx_then(
                actor,
                move |conn, now| {
                    Box::pin(async move {
                        let done =
                            resend::resend(conn, organisation, &event, &target, force, false)
                                .await?;
                        if let Ok(resent) = &done.value.0 {
                            let kept = KeptResult::Resent(resent.clone());
                            results::keep(conn, now, &owner, &kept).await?;
                        }
                        Ok(done)
                    })
                },
                move |(_, heads)| wake_lanes(&wake, heads.iter().copied()),
            )
            .await?;
        Ok(resent)
    }

    async fn earlier_result(&self, actor: &Actor) -> Result<Option<EarlierResult>> {
        if actor.request_key.is_none() {
            return Ok(None);
        }
        let actor = actor.clone();
        run!(self.query, |conn| results::earlier(conn, &actor))
    }

    async fn bulk_jobs(
        &self,
        organisation: OrganisationKey,
        state: Option<BulkJobState>,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<BulkJob>> {
        run!(self.query, |conn| jobs::list(conn, organisation, state, after, limit))
    }

    async fn bulk_job(&self, organisation: OrganisationKey, id: JobId) -> Result<Option<BulkJob>> {
        run!(self.query, |conn| jobs::one(conn, organisation, id))
    }

    async fn abort_bulk_job(&self, actor: &Actor, id: JobId) -> Result<BulkJob> {
        let organisation = actor.organisation;
        audited!(self, actor, |conn, now| jobs::end(
            conn,
            now,
            organisation,
            id,
            BulkJobState::Aborted,
            None
        ))
    }

    async fn workable_bulk_jobs(&self) -> Result<WorkableJobs> {
        let node = self.node;
        run!(self.snapshot, |conn| jobs::workable(conn, node))
    }

    async fn work_on_bulk_job(&self, job: &BulkJob) -> Result<Option<BulkJob>> {
        self.check_space()?;
        let before = job.clone();
        let found = run!(self.query, |conn| find(conn, &before))?;
        let (job, actor, node) = (job.clone(), job.actor(), self.node);
        let wake = self.wake.clone();
        let moved = self
            .audited_tx_then(
                &actor,
                move |conn, now| {
                    Box::pin(async move {
                        if !jobs::lock(conn, &job).await? {
                            return Ok(Audited::new(None, []));
                        }
                        let (mut job, heads) = apply(conn, now, job, found).await?;
                        (job.node, job.updated_at) = (Some(node), now);
                        jobs::save(conn, &job).await?;
                        let entry = job.ended_at.map(|_| entries::job_ended(&job));
                        Ok(Audited::new(Some((job, heads)), entry))
                    })
                },
                move |moved| {
                    if let Some((_, heads)) = moved {
                        wake_lanes(&wake, heads.iter().copied());
                    }
                },
            )
            .await?;
        Ok(moved.map(|(job, _)| job))
    }

    async fn fail_bulk_job(&self, job: &BulkJob, why: &str) -> Result<()> {
        let (actor, organisation, id, why) =
            (job.actor(), job.organisation, job.id, why.to_owned());
        audited!(self, &actor, |conn, now| jobs::end(
            conn,
            now,
            organisation,
            id,
            BulkJobState::Failed,
            Some(&why)
        ))
        .map(drop)
    }
}

impl Backend {
    async fn start(
        &self,
        actor: &Actor,
        id: JobId,
        task: BulkTask,
        kept: KeptResult,
    ) -> Result<BulkJob> {
        let (starter, wake) = (actor.clone(), self.wake.clone());
        self.audited_tx_then(
            actor,
            move |conn, now| {
                Box::pin(async move {
                    let job = jobs::start(conn, BulkJob::new(id, &starter, task, now)).await?;
                    results::keep(conn, now, &starter, &kept).await?;
                    Ok(job)
                })
            },
            move |_| wake.request_bulk_work(),
        )
        .await
    }

    /// Counts what a replay would append and skip, a bounded part at a time.
    async fn count_replay(&self, gateway: GatewayKey, range: Range) -> Result<BulkCounts> {
        let (mut all, mut after) = (BulkCounts::default(), range.first.previous());
        while after < range.last {
            let (counts, reached) =
                run!(self.query, |conn| replay::count(conn, gateway, after, range.last))?;
            all.add_replayed(&counts);
            after = reached;
        }
        Ok(all)
    }
}

/// What the next chunk of a job does, found before its transaction.
enum Step {
    Count(Counted),
    Redrive(Found),
    Replay { gateway: GatewayKey, after: Sequence, range: Range },
    GatewayDeleted,
}

/// Searches for what the next chunk does. Blocks no writes.
async fn find(conn: &mut Connection, job: &BulkJob) -> Result<Step> {
    let organisation = job.organisation;
    Ok(match (&job.task, job.position) {
        (BulkTask::Redrive(filter), BulkPosition::Counted(at)) => {
            Step::Count(redriven::count(conn, organisation, filter, at).await?)
        }
        (BulkTask::Redrive(filter), BulkPosition::Redriven(after)) => {
            Step::Redrive(redriven::dead_letters(conn, organisation, filter, after.into()).await?)
        }
        (BulkTask::Replay(gateway, range), BulkPosition::Replayed(after)) => {
            match replay::log(conn, organisation, *gateway).await {
                Ok(log) => Step::Replay { gateway: log.gateway, after, range: *range },
                Err(StoreError::NotFound(_)) => Step::GatewayDeleted,
                Err(error) => return Err(error),
            }
        }
        (task, position) => {
            let kind = task.kind();
            return Err(StoreError::Corrupt(format!("a job: a {kind} can't be at {position:?}")));
        }
    })
}

/// Does it, on a locked job. Returns the job as it is then, and the new heads of logs.
async fn apply(
    conn: &mut Connection,
    now: Timestamp,
    mut job: BulkJob,
    step: Step,
) -> Result<(BulkJob, Vec<(GatewayKey, Sequence)>)> {
    let mut heads = Vec::new();
    match step {
        Step::Count(Counted { skipped, open, next }) => job.counted(&skipped, open, next),
        Step::Redrive(found) => {
            let mut part = found.skipped;
            if !found.chosen.is_empty() {
                // The job's own records cover its deliveries.
                let (appended, grown) = redrive::append(conn, now, found.chosen).await?.value;
                part.add(appended);
                heads = grown;
            }
            job.redriven(&part, found.next, now);
        }
        Step::Replay { gateway, after, range } => {
            match replay::append(conn, gateway, after, range.last).await? {
                Some(part) => {
                    heads.extend(part.appended.map(|appended| (gateway, appended.last)));
                    job.replayed(&part.counts, part.reached, range, now);
                }
                None => job.end(BulkJobState::Failed, Some(GATEWAY_DELETED), now),
            }
        }
        Step::GatewayDeleted => job.end(BulkJobState::Failed, Some(GATEWAY_DELETED), now),
    }
    Ok((job, heads))
}

/// Without rows, so that each lane reads them from the log.
fn wake_lanes(wake: &Wake, heads: impl IntoIterator<Item = (GatewayKey, Sequence)>) {
    for (gateway, head) in heads {
        wake.appended(gateway, Hint::new(head, []));
    }
}
