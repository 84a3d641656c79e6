//! Background jobs and their supervisor. A job is one bounded run and an interval; the
//! supervisor has the only loop. A run that fails or panics is logged, counted and retried
//! with backoff. A job that completes no run for [`OVERDUE_INTERVALS`] intervals is overdue.
//! If that is because its run does not end, this is logged and counted, too.
//!
//! # Readiness
//!
//! An unready node is given no gateways, so only a job that delivery or the ledger depends on
//! makes its node unready when it is overdue ([`Supervisor::overdue`]):
//!
//! | job | without it |
//! |---|---|
//! | `recorder` | no outcome is recorded |
//! | `heartbeat` | other nodes declare this one dead |
//! | `listener` | events that other nodes append are not delivered |
//! | `revocation` | connections stay open after their access was revoked |
//! | `inbox_drain` | rows of the inbox are not delivered |
//! | `not_connected_sweep`, `expiry` | failed deliveries are not recorded |
//!
//! All others are housekeeping ([`Supervisor::start_housekeeping`]): the node serves gateways
//! as well without it for a while, or another node does it. These are `retention`,
//! `inbox_depth`, `fleet_metrics`, `feed`, `notifier`, `certificates`, `tidy_up`, `metrics_upkeep`,
//! `high_water`, `bulk_jobs`, `event_counts`, `idle_connections`, `alert_rules` and
//! `alert_notifications`.
//!
//! `bulk_jobs` is the [worker](crate::bulk) of what the API calls jobs: redrives and replays, which
//! are rows in the database and survive this process.

use std::fmt::{self, Display};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::clock::millis;
use crate::metric;

/// Intervals without a completed run after which a job is overdue.
pub const OVERDUE_INTERVALS: u32 = 3;
/// The minimum time until a job is overdue: with a short interval, a brief overload must
/// not make the node unready.
const MIN_OVERDUE: Duration = Duration::from_secs(10);
/// The pause after the first failure.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The minimum time between two log lines about failures of the same job.
const FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(30);

/// When a job runs next; after its interval at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When its [`Job::wait`] returns.
    Wait,
    /// After a pause.
    After(Duration),
    /// Immediately.
    Again,
    /// The job is complete and does not run again.
    Finished,
}

/// Work that is repeated while the service runs.
pub trait Job: Send + 'static {
    /// Why a run failed.
    type Error: Display + Send;

    /// Waits until there is work. Must be cancel safe. By default it never returns, so that
    /// the job runs once per interval.
    fn wait(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending::<()>()
    }

    /// Executes one bounded run. Also called when the wait takes a whole interval, so that
    /// an idle job is distinguished from one that hangs.
    fn run_once(&mut self) -> impl Future<Output = Result<Next, Self::Error>> + Send;

    /// The maximum pause between two attempts while runs fail, before jitter.
    fn max_backoff(&self) -> Duration {
        Duration::from_secs(5)
    }
}

/// A job without a completed run for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// Its name.
    pub job: &'static str,
    /// The time since its last completed run.
    pub age: Duration,
}

#[derive(Debug)]
struct Status {
    name: &'static str,
    /// Whether it never makes the node unready.
    is_housekeeping: bool,
    overdue_after: Duration,
    /// Locked only to read or set the value.
    completed_at: Mutex<Instant>,
    is_finished: AtomicBool,
}

impl Status {
    fn completed(&self) {
        *self.completed_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        metrics::counter!(metric::JOB_RUNS, "task" => self.name).increment(1);
    }

    fn overdue(&self) -> Option<Overdue> {
        let age = self.completed_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        let is_overdue = age > self.overdue_after && !self.is_finished.load(Ordering::Relaxed);
        is_overdue.then_some(Overdue { job: self.name, age })
    }
}

/// Starts, monitors and stops jobs. Clones share their jobs.
#[derive(Clone, Default)]
pub struct Supervisor(Arc<Inner>);

#[derive(Default)]
struct Inner {
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Locked only to add a job or to read their status.
    jobs: Mutex<Vec<Arc<Status>>>,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("tasks", &self.0.tasks.len()).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Creates a supervisor whose jobs also stop when `stop` is cancelled.
    pub fn stopped_by(stop: CancellationToken) -> Self {
        Self(Arc::new(Inner { stop, ..Inner::default() }))
    }

    /// Runs a job until [`Supervisor::stop`], for the first time immediately. `name`
    /// identifies it in logs, metrics and `/readyz`. The node is unready while the job is
    /// overdue; the [module](self#readiness) says which jobs this is for.
    pub fn start(&self, name: &'static str, interval: Duration, job: impl Job) {
        self.spawn(self.supervised(name, interval, false, job));
    }

    /// Like [`Supervisor::start`], for a job that neither delivery nor the ledger depends on.
    /// The node stays ready while it is overdue.
    pub fn start_housekeeping(&self, name: &'static str, interval: Duration, job: impl Job) {
        self.spawn(self.supervised(name, interval, true, job));
    }

    /// Runs a job until it returns [`Next::Finished`]. For a job that receives work from
    /// others and must not be stopped before them.
    pub fn start_until_finished(&self, name: &'static str, interval: Duration, job: impl Job) {
        tokio::spawn(self.supervised(name, interval, false, job));
    }

    fn spawn(&self, supervised: impl Future<Output = ()> + Send + 'static) {
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            stop.run_until_cancelled(supervised).await;
        });
    }

    fn supervised<J: Job>(
        &self,
        name: &'static str,
        interval: Duration,
        is_housekeeping: bool,
        job: J,
    ) -> impl Future<Output = ()> + Send + use<J> {
        let status = Arc::new(Status {
            name,
            is_housekeeping,
            overdue_after: (interval * OVERDUE_INTERVALS).max(MIN_OVERDUE),
            completed_at: Mutex::new(Instant::now()),
            is_finished: AtomicBool::new(false),
        });
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&status));
        // Registers the series, so that an alert sees the first increase.
        metrics::counter!(metric::JOB_RUNS, "task" => name).increment(0);
        metrics::counter!(metric::JOB_FAILURES, "task" => name).increment(0);
        metrics::counter!(metric::JOB_RESTARTS, "task" => name).increment(0);
        metrics::counter!(metric::JOB_OVERDUE, "task" => name).increment(0);
        run(job, interval, status)
    }

    /// Of the overdue jobs that make the node unready, the one with the longest time since its
    /// last completed run.
    pub fn overdue(&self) -> Option<Overdue> {
        let jobs = self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = jobs.iter().filter(|job| !job.is_housekeeping);
        needed.filter_map(|job| job.overdue()).max_by_key(|overdue| overdue.age)
    }

    /// Cancels all jobs at their current await and waits for their end.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

/// Runs a job until it is finished.
async fn run(mut job: impl Job, interval: Duration, status: Arc<Status>) {
    let mut next = Next::Again;
    let mut failures = Failures::new(status.name, job.max_backoff());
    while next != Next::Finished {
        let turn = AssertUnwindSafe(turn(&mut job, next, interval)).catch_unwind();
        next = match log_if_overdue(turn, &status).await {
            Ok(Ok(next)) => {
                status.completed();
                failures.end();
                next
            }
            Ok(Err(error)) => Next::After(failures.failed(&error)),
            Err(_) => Next::After(failures.panicked()),
        };
    }
    status.is_finished.store(true, Ordering::Relaxed);
}

/// Waits for a turn, and logs and counts whenever it takes so long that the job is overdue.
async fn log_if_overdue<T>(turn: impl Future<Output = T>, status: &Status) -> T {
    let mut turn = pin!(turn);
    loop {
        if let Ok(ended) = timeout(status.overdue_after, &mut turn).await {
            return ended;
        }
        metrics::counter!(metric::JOB_OVERDUE, "task" => status.name).increment(1);
        tracing::warn!(
            job = status.name,
            housekeeping = status.is_housekeeping,
            limit_ms = millis(status.overdue_after),
            "a background job is overdue: its run does not end"
        );
    }
}

async fn turn<J: Job>(job: &mut J, next: Next, interval: Duration) -> Result<Next, J::Error> {
    match next {
        // A timeout is not an error: there was no work.
        Next::Wait => drop(timeout(interval, job.wait()).await),
        Next::After(pause) => tokio::time::sleep(pause.min(interval)).await,
        Next::Again | Next::Finished => tokio::task::yield_now().await,
    }
    job.run_once().await
}

/// The failures of a job since its last completed run.
struct Failures {
    job: &'static str,
    count: u64,
    backoff: Backoff,
    logged_at: Option<Instant>,
}

impl Failures {
    fn new(job: &'static str, max_backoff: Duration) -> Self {
        Self {
            job,
            count: 0,
            backoff: Backoff::new(FIRST_RETRY.min(max_backoff), max_backoff),
            logged_at: None,
        }
    }

    /// Logs and counts a failure; returns the pause before the next attempt.
    fn failed(&mut self, error: &impl Display) -> Duration {
        self.count += 1;
        metrics::counter!(metric::JOB_FAILURES, "task" => self.job).increment(1);
        let pause = self.backoff.next_pause();
        if self.logged_at.is_none_or(|at| at.elapsed() >= FAILURE_LOG_INTERVAL) {
            self.logged_at = Some(Instant::now());
            tracing::warn!(
                job = self.job,
                %error,
                failures = self.count,
                retry_in_ms = millis(pause),
                "a background job failed; retrying"
            );
        }
        pause
    }

    /// Logs and counts a panic, whose message the panic hook has logged.
    fn panicked(&mut self) -> Duration {
        self.count += 1;
        metrics::counter!(metric::JOB_RESTARTS, "task" => self.job).increment(1);
        let pause = self.backoff.next_pause();
        tracing::error!(
            job = self.job,
            failures = self.count,
            restart_in_ms = millis(pause),
            "a background job panicked; restarting it"
        );
        pause
    }

    fn end(&mut self) {
        if self.count > 0 {
            tracing::info!(job = self.job, failures = self.count, "a background job recovered");
            self.count = 0;
            self.logged_at = None;
            self.backoff.reset();
        }
    }
}

/// A job that calls an infallible function.
pub struct Call<F>(pub F);

impl<F: FnMut() + Send + 'static> Job for Call<F> {
    type Error = std::convert::Infallible;

    async fn run_once(&mut self) -> Result<Next, Self::Error> {
        (self.0)();
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests;
