//! A small pool of threads for long computations, such as parsing large JSON bodies and
//! validating JSON Schemas, which must not block the async workers.
//!
//! Each source of work (an access token, the inbox) has its own queue, and the queues are
//! served in turn, so that one source delays another by one job at a time. A job can't be
//! interrupted; its submitter bounds its length.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::metric;

/// The maximum number of queued jobs per source; additional ones are refused.
const MAX_QUEUED: usize = 256;

/// The maximum number of threads.
const MAX_THREADS: usize = 8;

/// Enough for the deepest schema and payload. Pages are only allocated when they are used.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// The nice value of the threads.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

type Job = Box<dyn FnOnce() + Send>;

/// A source of work. Each has its own queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source(Arc<str>);

impl Source {
    /// The source with this name, which must be unique.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
}

/// Why a job has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComputeError {
    /// The queue of the source is full.
    #[error("too many computations of this source are waiting")]
    Busy,
    /// The job panicked. The panic hook has logged it.
    #[error("the computation failed")]
    Panicked,
}

/// The pool. When it is dropped, each thread ends after its current job.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    // Locked to add or take a job, never while one runs.
    queues: Mutex<Queues>,
    ready: Condvar,
}

#[derive(Default)]
struct Queues {
    /// Sources with queued jobs, in the order of their turns.
    turns: VecDeque<Source>,
    waiting: HashMap<Source, VecDeque<Job>>,
    /// The number of all queued jobs.
    queued: u32,
    closed: bool,
}

impl Pool {
    /// Starts half as many threads as there are processors, at least one.
    pub fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::with_threads((processors / 2).clamp(1, MAX_THREADS))
    }

    /// Starts this many threads.
    ///
    /// # Panics
    /// If the system can't start a thread.
    pub fn with_threads(threads: usize) -> Self {
        let shared = Arc::<Shared>::default();
        for nth in 0..threads {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("compute-{nth}"))
                .stack_size(STACK_BYTES)
                .spawn(move || {
                    lower_priority();
                    shared.work();
                })
                .expect("the system can start a thread");
        }
        Self { shared }
    }

    /// Runs a job when its source has its turn. If the returned future is dropped, a job that
    /// has not started is skipped.
    pub async fn run<T: Send + 'static>(
        &self,
        source: &Source,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ComputeError> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            if !answer.is_closed() {
                // A panic only fails this job: shared state (caches behind locks) is
                // consistent after every step.
                let done = std::panic::catch_unwind(AssertUnwindSafe(work));
                _ = answer.send(done.map_err(|_| ComputeError::Panicked));
            }
        });
        self.shared.push(source, job)?;
        result.await.unwrap_or(Err(ComputeError::Panicked))
    }
}

/// Lowers the priority of this thread, so that the async workers run first when the
/// processors are busy. Only on Linux, where priorities are per thread.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "failed to lower the priority of a compute thread");
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut queues = self.shared.lock();
        queues.closed = true;
        queues.waiting.clear();
        queues.turns.clear();
        queues.queued = 0;
        drop(queues);
        self.shared.ready.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, source: &Source, job: Job) -> Result<(), ComputeError> {
        let mut queues = self.lock();
        match queues.waiting.get_mut(source) {
            Some(jobs) if jobs.len() >= MAX_QUEUED => return Err(ComputeError::Busy),
            Some(jobs) => jobs.push_back(job),
            None => {
                queues.waiting.insert(source.clone(), VecDeque::from([job]));
                queues.turns.push_back(source.clone());
            }
        }
        queues.queued += 1;
        queues.report();
        drop(queues);
        self.ready.notify_one();
        Ok(())
    }

    /// Waits for the next job; `None` when the pool is closed.
    fn pull(&self) -> Option<Job> {
        let mut queues = self.lock();
        loop {
            if queues.closed {
                return None;
            }
            if let Some(job) = queues.next() {
                return Some(job);
            }
            queues = self.ready.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        while let Some(job) = self.pull() {
            job();
        }
    }
}

impl Queues {
    /// Takes a job of the source whose turn it is, and moves the source to the end.
    fn next(&mut self) -> Option<Job> {
        let source = self.turns.pop_front()?;
        let jobs = self.waiting.get_mut(&source)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.waiting.remove(&source);
        } else {
            self.turns.push_back(source);
        }
        self.queued = self.queued.saturating_sub(1);
        self.report();
        job
    }

    fn report(&self) {
        metrics::gauge!(metric::COMPUTE_QUEUE).set(f64::from(self.queued));
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queues = self.lock();
        f.debug_struct("Shared").field("turns", &queues.turns).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
