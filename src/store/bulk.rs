//! Corrective actions over many deliveries: replays, resends, and the jobs that redrive or replay
//! more than one request may append.
//!
//! # Jobs
//!
//! A *job* here is what the API calls a job: a row in the database, stored by a request of an admin, which is
//! worked on until it has ended. It is not a [background job](crate::jobs) of this process. One
//! background job, the [worker](crate::bulk), works on the jobs of this module.
//!
//! A job is worked on in chunks. A chunk is one transaction: it locks the job's row, checks that the
//! job has not moved since it was read, appends deliveries, and moves the job's position and counts.
//! So each delivery is appended exactly once, whichever nodes work on the job and wherever one of
//! them is killed. The node that worked on a job last has it to itself for
//! [`JOB_LEASE`](super::limits::JOB_LEASE); that saves work, and correctness does not depend on it.
//!
//! # Replays
//!
//! A replay appends the events of a range of a gateway's log again, delivered ones included, in
//! their old order. The range is fixed when the replay is requested, so it does not contain what the
//! replay appends. An event that occurs several times in the range, because it was redriven,
//! replayed or resent, is appended once, at its last place: the gateway ends in the same state. A
//! pending delivery is appended again, too: left out, it would reach the gateway before the older
//! events of the range. An open dead letter in the range counts as redriven afterwards.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub(crate) mod stored;

use super::{
    Actor, AppendedDelivery, DeliveryCursor, DeliveryFilter, DeliveryKey, EarlierResult, Principal,
    Range, Redriven, Refusable, Result, Target,
};
use crate::clock::{TimeWindow, Timestamp};
use crate::event::{EventId, GatewayId, GatewayKey, JobId, NodeId, OrganisationKey, Sequence};

/// Corrective actions over many deliveries.
#[async_trait]
pub trait Bulk: Send + Sync + 'static {
    /// Stores a job that redrives all dead letters that match. Recorded in the audit log when it
    /// starts and when it ends. A conflict if the organisation has too many running jobs.
    async fn start_redrive(
        &self,
        actor: &Actor,
        id: JobId,
        filter: DeliveryFilter,
    ) -> Result<BulkJob>;
    /// Replays part of a gateway's log: at once if it has at most
    /// [`REPLAYED`](super::limits::REPLAYED) sequences, otherwise by a job with this id. A dry run
    /// only counts.
    async fn replay(
        &self,
        actor: &Actor,
        id: JobId,
        gateway: GatewayId,
        selection: ReplaySelection,
        dry_run: bool,
    ) -> Result<Replayed>;
    /// Appends an existing event to the logs of more gateways. Gateways that have it in their log
    /// are left out unless `force`. A dry run only reports. A conflict if the event has expired.
    async fn resend(
        &self,
        actor: &Actor,
        event: &EventId,
        target: Target,
        force: bool,
        dry_run: bool,
    ) -> Result<Refusable<Resent>>;

    /// The result of an earlier redrive, replay or resend with the actor's
    /// [`request_key`](Actor::request_key); `None` if there is none or the actor has no key.
    /// `Conflict` if that request was another one. The operations themselves return
    /// `Unavailable`, without having done anything, if a concurrent request with the key was faster.
    async fn earlier_result(&self, actor: &Actor) -> Result<Option<EarlierResult>>;

    /// Jobs of an organisation, newest first, after the one with this key.
    async fn bulk_jobs(
        &self,
        organisation: OrganisationKey,
        state: Option<BulkJobState>,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<BulkJob>>;
    /// One job.
    async fn bulk_job(&self, organisation: OrganisationKey, id: JobId) -> Result<Option<BulkJob>>;
    /// Ends a running job; what it has appended stays. Returns a job that has ended as it is.
    async fn abort_bulk_job(&self, actor: &Actor, id: JobId) -> Result<BulkJob>;

    /// The running jobs of all organisations that this node may work on: its own, and those whose
    /// node has stopped or paused. With them, the number of all running jobs.
    async fn workable_bulk_jobs(&self) -> Result<WorkableJobs>;
    /// Works on one chunk of a job. `None` if nothing was done, because another node works on it or
    /// it has moved since it was read.
    async fn work_on_bulk_job(&self, job: &BulkJob) -> Result<Option<BulkJob>>;
    /// Ends a running job as failed.
    async fn fail_bulk_job(&self, job: &BulkJob, why: &str) -> Result<()>;
}

/// Which part of a gateway's log to replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaySelection {
    /// The sequences from the first to the last, or to the head of the log if there is no last.
    /// Sequences beyond the head are ignored.
    Range(Sequence, Option<Sequence>),
    /// The sequences that were appended in this window: from the first one that was appended at or
    /// after its start to the last one before its end. Sequences that retention has removed, so that
    /// their time is not known, belong to a window that starts before the oldest one that is known.
    Window(TimeWindow),
}

/// What a replay did or, in a dry run, would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The replayed part of the log. `None` if it is empty.
    pub range: Option<Range>,
    /// What was appended and skipped; nothing yet if there is a job.
    pub counts: BulkCounts,
    /// The new sequences. `None` in a dry run, or if nothing was appended yet.
    pub appended: Option<Range>,
    /// The job that replays it, unless it was done at once.
    pub job: Option<BulkJob>,
}

/// What a resend did or, in a dry run, would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resent {
    /// Gateways that the event was appended for, with its sequence; without one in a dry run.
    pub deliveries: Vec<(GatewayId, Option<Sequence>)>,
    /// Gateways that were left out because the event is in their log, with its last sequence there.
    pub present: Vec<AppendedDelivery>,
}

/// The running jobs, as the worker of a node sees them.
#[derive(Clone, Debug, Default)]
pub struct WorkableJobs {
    /// Those that this node may work on, oldest first.
    pub jobs: Vec<BulkJob>,
    /// All running jobs, up to [`JOBS_IN_TURN`](super::limits::JOBS_IN_TURN).
    pub running: usize,
}

/// A redrive or a replay of many deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkJob {
    /// The key by which the store refers to it. Later jobs have larger ones.
    pub key: i64,
    /// Its id in the API.
    pub id: JobId,
    /// The organisation that it belongs to.
    pub organisation: OrganisationKey,
    /// What it does.
    pub task: BulkTask,
    /// Who started it.
    pub principal: Principal,
    /// Whether it has ended, and how.
    pub state: BulkJobState,
    /// Why it failed, for people; only of a failed job.
    pub failure: Option<String>,
    /// Where the next chunk begins.
    pub position: BulkPosition,
    /// How much of the total is done.
    pub done: i64,
    /// For a redrive, the open dead letters that match, as far as they were counted. For a replay,
    /// the sequences of its range.
    pub total: Option<i64>,
    /// What was appended and skipped so far.
    pub counts: BulkCounts,
    /// The node that worked on it last.
    pub node: Option<NodeId>,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When its last chunk, or the job itself, ended.
    pub updated_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// The task of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BulkTask {
    /// Redrives all dead letters that match.
    Redrive(DeliveryFilter),
    /// Replays a range of a gateway's log.
    Replay(GatewayId, Range),
    /// This version can't read what it does or where it is: a newer version stored it. It is listed
    /// and can be aborted, and nodes of that version work on it.
    Unreadable,
}

/// The state of a job. The names are those of the column `bulk_jobs.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkJobState {
    /// It is worked on.
    Running,
    /// It is complete.
    Done,
    /// An admin ended it.
    Aborted,
    /// It could not be continued.
    Failed,
}

impl BulkJobState {
    /// Its name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
        }
    }

    /// The state with a name from the database. One that only a newer version knows counts as
    /// running until the job has ended, and then as failed.
    pub fn stored(name: &str, has_ended: bool) -> Self {
        let known = [Self::Running, Self::Done, Self::Aborted, Self::Failed];
        let unknown = if has_ended { Self::Failed } else { Self::Running };
        known.into_iter().find(|state| state.as_str() == name).unwrap_or(unknown)
    }
}

/// Where the next chunk of a job begins. A redrive first counts everything that matches, and then
/// appends.
///
/// The serialized names are those in the column `bulk_jobs.position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BulkPosition {
    /// Counts matching deliveries, newest failure first, after this one.
    Counted(Option<DeliveryCursor>),
    /// Appends dead letters, after this one.
    Redriven(StoredKey),
    /// Appends deliveries of the replayed range, after this one.
    Replayed(Sequence),
}

/// A [`DeliveryKey`] as it is stored with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredKey {
    gateway: i64,
    sequence: Sequence,
}

impl From<DeliveryKey> for StoredKey {
    fn from(key: DeliveryKey) -> Self {
        Self { gateway: key.gateway.0, sequence: key.sequence }
    }
}

impl From<StoredKey> for DeliveryKey {
    fn from(key: StoredKey) -> Self {
        Self { gateway: GatewayKey(key.gateway), sequence: key.sequence }
    }
}

/// What was appended and what was skipped, in deliveries.
///
/// The serialized names are those in the column `bulk_jobs.counts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BulkCounts {
    /// Appended again.
    pub appended: i64,
    /// Skipped: still pending.
    pub pending: i64,
    /// Skipped: delivered, filtered or superseded since.
    pub delivered: i64,
    /// Skipped: already redriven, or not to be redriven any more when the job reached it, because
    /// another request redrove it or its gateway was deleted.
    pub already_redriven: i64,
    /// Skipped: retention has removed the event.
    pub event_removed: i64,
    /// Skipped: the event's payload was purged.
    pub payload_purged: i64,
    /// Skipped: the event has expired.
    pub expired: i64,
    /// Skipped: the gateway is deleted.
    pub gateway_deleted: i64,
    /// Skipped: the event occurs again later in the range.
    pub repeated: i64,
}

impl BulkCounts {
    /// Adds what a part of a redrive appended and skipped.
    pub fn add(&mut self, part: &Redriven) {
        let appended = part.redriven.iter().filter(|one| one.new_sequence.is_some()).count();
        self.appended += i64::try_from(appended).unwrap_or(i64::MAX);
        self.pending += part.pending;
        self.delivered += part.delivered;
        self.already_redriven += part.already_redriven;
        self.event_removed += part.event_removed;
        self.payload_purged += part.payload_purged;
        self.expired += part.expired;
        self.gateway_deleted += part.gateway_deleted;
    }

    /// Adds what a part of a replay appended and skipped.
    pub const fn add_replayed(&mut self, part: &Self) {
        self.appended += part.appended;
        self.event_removed += part.event_removed;
        self.payload_purged += part.payload_purged;
        self.expired += part.expired;
        self.repeated += part.repeated;
    }
}

impl BulkJob {
    /// A new job, before it is stored.
    pub fn new(id: JobId, actor: &Actor, task: BulkTask, now: Timestamp) -> Self {
        let (position, total) = match &task {
            BulkTask::Redrive(_) | BulkTask::Unreadable => (BulkPosition::Counted(None), None),
            BulkTask::Replay(_, range) => (
                BulkPosition::Replayed(range.first.previous()),
                Some(range.last.0 - range.first.0 + 1),
            ),
        };
        Self {
            key: 0,
            id,
            organisation: actor.organisation,
            task,
            principal: actor.principal.clone(),
            state: BulkJobState::Running,
            failure: None,
            position,
            done: 0,
            total,
            counts: BulkCounts::default(),
            node: None,
            created_at: now,
            updated_at: now,
            ended_at: None,
        }
    }

    /// Who started it, as the actor of what it does.
    pub fn actor(&self) -> Actor {
        self.principal.clone().in_organisation(self.organisation)
    }

    /// Moves the job to a final state; `failure` is the reason, for admins.
    pub fn end(&mut self, state: BulkJobState, failure: Option<&str>, now: Timestamp) {
        self.state = state;
        self.failure = failure.map(str::to_owned);
        self.updated_at = now;
        self.ended_at = Some(now);
    }

    /// Whether a redrive still counts, so that its total is not complete.
    pub const fn is_counting(&self) -> bool {
        matches!(self.position, BulkPosition::Counted(_))
            && !matches!(self.task, BulkTask::Unreadable)
    }

    /// Moves it past a page of matching deliveries: `page` counts those that need no redrive, and
    /// `open` is the number of the others.
    pub fn counted(&mut self, page: &Redriven, open: i64, next: Option<DeliveryCursor>) {
        self.counts.add(page);
        self.total = Some(self.total.unwrap_or_default() + open);
        self.position = match next {
            Some(next) => BulkPosition::Counted(Some(next)),
            None => BulkPosition::Redriven(DeliveryKey::new(0, 0).into()),
        };
    }

    /// Moves it past dead letters that were appended or skipped, as `part` says, and ends it if
    /// there are no more.
    pub fn redriven(&mut self, part: &Redriven, next: Option<DeliveryKey>, now: Timestamp) {
        let before = self.counts.appended;
        self.counts.add(part);
        self.done += self.counts.appended - before;
        self.done += part.already_redriven + part.event_removed;
        self.done += part.payload_purged + part.expired;
        self.done += part.pending + part.delivered + part.gateway_deleted;
        let Some(next) = next else {
            // Those that another request redrove before the search reached them.
            let lost = (self.total.unwrap_or_default() - self.done).max(0);
            self.counts.already_redriven += lost;
            self.done += lost;
            self.total = self.total.max(Some(self.done));
            return self.end(BulkJobState::Done, None, now);
        };
        self.position = BulkPosition::Redriven(next.into());
    }

    /// Moves it past a part of the replayed range, and ends it at the end of the range.
    pub fn replayed(&mut self, part: &BulkCounts, reached: Sequence, range: Range, now: Timestamp) {
        self.counts.add_replayed(part);
        self.position = BulkPosition::Replayed(reached);
        self.done = reached.0 - range.first.0 + 1;
        if reached >= range.last {
            self.end(BulkJobState::Done, None, now);
        }
    }
}
