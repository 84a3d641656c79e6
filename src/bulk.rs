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
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// A run that took longer was itself waiting for other transactions.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often a node looks for jobs of other nodes.
const SHARED: Duration = Duration::from_secs(5);
/// Without other nodes, this only shows that the worker is alive.
const ALONE: Duration = Duration::from_mins(1);
/// A chunk that failed this often in a row, with an error that a retry does not cure, ends its job.
const MOST_FAILURES: u32 = 5;

/// Starts the worker.
pub fn start(store: Arc<dyn Bulk>, wake: Wake, is_shared: bool, jobs: &Supervisor) {
    let interval = if is_shared { SHARED } else { ALONE };
    let worker = Worker { store, wake, failures: HashMap::new() };
    jobs.start_housekeeping("bulk_jobs", interval, worker);
}

struct Worker {
    store: Arc<dyn Bulk>,
    wake: Wake,
    /// Failures of a job's chunk in a row.
    failures: HashMap<JobId, u32>,
}

impl Worker {
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
        // Anything else passes, and so does a lack of connections or of room.
        if !matches!(error, StoreError::StatementFailed(_) | StoreError::Corrupt(_)) {
            return Err(error);
        }
        let failures = self.failures.entry(job.id).or_default();
        *failures += 1;
        if *failures < MOST_FAILURES {
            return Err(error);
        }
        self.failures.remove(&job.id);
        tracing::warn!(job = %job.id, kind = job.task.kind(), %error, "a job failed");
        let why = "the database refused a chunk repeatedly; the service's log has the reason";
        self.store.fail_bulk_job(job, why).await
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
        let mut failed = None;
        for job in &workable.jobs {
            if let Err(error) = self.work(job).await {
                failed = failed.or(Some(error));
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(Next::After((begun.elapsed() * SHARE).clamp(SHORTEST_PAUSE, LONGEST_PAUSE))),
        }
    }
}
