//! The worker of bulk jobs: a [background job](crate::jobs) of each node that works on the redrives
//! and replays that admins have started ([`store::Bulk`](crate::store::Bulk)), which the API calls
//! jobs. Each run works on one chunk of each of them, so that a large one delays no other, and then
//! pauses, so that publishers and live deliveries don't wait.
//!
//! A node looks for work at once when one of its requests has stored a job, and now and then for jobs
//! of other nodes that have stopped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::JobId;
use crate::jobs::{Job, Next, Supervisor};
use crate::metric;
use crate::store::{Bulk, BulkJob, Result, StoreError};
use crate::wake::Wake;

/// After each run, the worker pauses for this many times as long as the run took.
const SHARE: u32 = 3;
const MIN_PAUSE: Duration = Duration::from_millis(5);
/// A run that took longer was itself waiting for other transactions.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How often a node looks for jobs of other nodes.
const POLL_INTERVAL_SHARED: Duration = Duration::from_secs(5);
/// Without other nodes, this only shows that the worker is alive.
const POLL_INTERVAL_ALONE: Duration = Duration::from_mins(1);
/// A chunk that failed this often in a row, with an error that a retry does not cure, ends its job.
const MAX_FAILURES: u32 = 5;
/// A chunk that failed this often in a row with another error, while other statements succeed, ends its
/// job, after about an hour and a half. An example is a statement that always exceeds its timeout.
const MAX_INTERRUPTIONS: u32 = 100;
/// The pauses after failures of a job's chunk.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_mins(1);

/// Starts the worker of this node as a housekeeping job of the supervisor. `is_shared`: other nodes
/// use the same database, so new jobs are polled for at a shorter interval.
pub fn start(store: Arc<dyn Bulk>, wake: Wake, is_shared: bool, jobs: &Supervisor) {
    let interval = if is_shared { POLL_INTERVAL_SHARED } else { POLL_INTERVAL_ALONE };
    let worker = Worker { store, wake, failures: HashMap::new() };
    jobs.start_housekeeping("bulk_jobs", interval, worker);
}

struct Worker {
    store: Arc<dyn Bulk>,
    wake: Wake,
    failures: HashMap<JobId, Failures>,
}

/// Failures of a job's chunk in a row.
#[derive(Clone, Copy)]
struct Failures {
    /// With an error that a retry does not cure.
    refused: u32,
    /// With any other error.
    interrupted: u32,
    /// When the chunk is tried again.
    retry_at: Instant,
}

impl Worker {
    /// Whether all of these have failed.
    fn all_wait(&self, jobs: &[&BulkJob]) -> bool {
        jobs.iter().all(|job| self.failures.contains_key(&job.id))
    }

    /// Works on one chunk of a job.
    async fn work(&mut self, job: &BulkJob) -> Result<()> {
        let error = match self.store.work_on_bulk_job(job).await {
            Ok(worked) => {
                self.failures.remove(&job.id);
                if let Some(ended) = worked.filter(|job| job.ended_at.is_some()) {
                    tracing::info!(
                        job = %ended.id,
                        kind = ended.task.kind(),
                        state = ended.state.as_str(),
                        appended = ended.counts.appended,
                        "a job has ended"
                    );
                }
                return Ok(());
            }
            Err(error) => error,
        };
        let mut failures =
            self.failures.get(&job.id).copied().unwrap_or_else(|| Failures::new(Instant::now()));
        if matches!(error, StoreError::StatementFailed(_) | StoreError::Corrupt(_)) {
            failures.refused += 1;
        } else {
            failures.interrupted += 1;
        }
        if failures.refused < MAX_FAILURES && failures.interrupted < MAX_INTERRUPTIONS {
            failures.retry_at = Instant::now() + failures.pause();
            tracing::warn!(job = %job.id, %error, "a chunk of a job failed and is tried again");
            self.failures.insert(job.id, failures);
            return Err(error);
        }
        self.failures.remove(&job.id);
        tracing::warn!(job = %job.id, kind = job.task.kind(), %error, "a job failed");
        let why = "the database refused a chunk repeatedly; the service's log has the reason";
        self.store.fail_bulk_job(job, why).await
    }
}

impl Failures {
    const fn new(now: Instant) -> Self {
        Self { refused: 0, interrupted: 0, retry_at: now }
    }

    fn pause(self) -> Duration {
        let doublings = (self.refused + self.interrupted).saturating_sub(1).min(16);
        FIRST_RETRY.saturating_mul(1 << doublings).min(LAST_RETRY)
    }
}

impl Job for Worker {
    type Error = StoreError;

    async fn wait(&mut self) {
        self.wake.bulk_work_requested().await;
    }

    async fn run_once(&mut self) -> Result<Next> {
        let workable = self.store.workable_bulk_jobs().await?;
        #[expect(clippy::cast_precision_loss, reason = "a gauge need not be exact")]
        metrics::gauge!(metric::BULK_JOBS_RUNNING).set(workable.running as f64);
        if workable.jobs.is_empty() {
            self.failures.clear();
            return Ok(Next::Wait);
        }
        let begun = Instant::now();
        // A failing job waits for its own retry, and delays no other.
        let waits =
            |job: &BulkJob| self.failures.get(&job.id).is_some_and(|it| it.retry_at > begun);
        let (waiting, due): (Vec<_>, Vec<_>) = workable.jobs.iter().partition(|job| waits(job));
        let mut failed = None;
        for job in &due {
            if let Err(error) = self.work(job).await {
                failed = failed.or(Some(error));
            }
        }
        match failed {
            // All that could be tried have failed: the database may be unavailable.
            Some(error) if self.all_wait(&due) => Err(error),
            _ if due.is_empty() && !waiting.is_empty() => Ok(Next::After(MAX_PAUSE)),
            _ => Ok(Next::After((begun.elapsed() * SHARE).clamp(MIN_PAUSE, MAX_PAUSE))),
        }
    }
}
