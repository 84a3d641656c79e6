//! The writer: one task per node that appends and records. While a batch is being committed the
//! next one gathers, so that many callers share a commit and a single caller does not wait for
//! others; there is no timer. A command that is queued is executed, even if its caller stops
//! waiting.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use super::Backend;
use super::dialect::Session;
use crate::event::NodeId;
use crate::metric;
use crate::store::{
    NewConnection, OpenInstance, Opened, OpenedInstance, Publish, Published, Queue, Record, Result,
    StoreError,
};
use crate::wake::Wake;

pub(crate) mod batch;
pub(crate) mod command;
mod commit;
pub(crate) mod session;

use batch::Batch;
pub(crate) use command::Work;
use command::{Command, Permit, job};
use session::{Fatal, WriterSession as _};

/// Commands that may be queued. Callers wait for capacity, and all of them are limited: each lane and
/// each request has only one command at a time, and publishers take permits for their events first.
const QUEUE_COMMANDS: usize = 1024;
/// Limits of one transaction, so that its first command does not wait for long.
const BATCH_ITEMS: usize = 2048;
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Between two calls of [`WriterSession::maintain`](session::WriterSession::maintain).
const MAINTAIN_EVERY: Duration = Duration::from_secs(1);
/// A node whose writer is in one transaction for longer is not ready.
const STUCK: Duration = Duration::from_secs(3);

/// The callers' handle.
#[derive(Debug)]
pub(crate) struct Writer {
    commands: mpsc::Sender<Command>,
    queue: Queue,
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    failure: watch::Receiver<Option<String>>,
    /// When the transaction that runs now began.
    busy: watch::Receiver<Option<Instant>>,
    append_duration: metrics::Histogram,
}

impl Writer {
    /// Starts the task that runs all write transactions.
    pub(crate) fn start(session: Session, queue: Queue, node: NodeId, wake: Wake) -> Self {
        let (commands, waiting) = mpsc::channel(QUEUE_COMMANDS);
        let (failed, failure) = watch::channel(None);
        let (begun, busy) = watch::channel(None);
        let queue = Queue { events: bounded(queue.events), bytes: bounded(queue.bytes) };
        let task = Task { session, node, wake, failed: failed.clone(), begun };
        let runs = async move {
            if let Err(panic) = AssertUnwindSafe(task.run(waiting)).catch_unwind().await {
                failed.send_replace(Some(format!("the writer panicked: {}", message(&*panic))));
            }
        };
        if Session::NEEDS_OWN_THREAD {
            on_a_thread(runs);
        } else {
            tokio::spawn(runs);
        }
        Self {
            commands,
            queue,
            events: Arc::new(Semaphore::new(queue.events)),
            bytes: Arc::new(Semaphore::new(queue.bytes)),
            failure,
            busy,
            append_duration: metrics::histogram!(metric::APPEND_DURATION),
        }
    }

    /// Fails if the task has been in one transaction for too long.
    pub(crate) fn check_progress(&self) -> Result<()> {
        match self.busy.borrow().map(|begun| begun.elapsed()) {
            Some(elapsed) if elapsed > STUCK => Err(StoreError::Unavailable(format!(
                "the writer has been in one transaction for {} s",
                elapsed.as_secs()
            ))),
            _ => Ok(()),
        }
    }

    /// Why the task ended, if it failed.
    pub(crate) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
    }

    /// Whether the task still runs.
    pub(crate) fn is_running(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Appends, or fails at once if as many events wait as may.
    pub(crate) async fn append(&self, publish: Publish) -> Result<Published> {
        let full = || StoreError::Unavailable("too many events wait to be appended".to_owned());
        // A request that exceeds the queue's capacity takes all of it, or it would never fit.
        let take = |capacity: &Arc<Semaphore>, size: usize, most: usize| {
            let size = u32::try_from(size.clamp(1, most)).unwrap_or(u32::MAX);
            Arc::clone(capacity).try_acquire_many_owned(size).map_err(|_| full())
        };
        let permit = Permit {
            _events: take(&self.events, publish.events.len(), self.queue.events)?,
            _bytes: take(&self.bytes, batch::payload_bytes(&publish), self.queue.bytes)?,
        };
        let (answer, answered) = oneshot::channel();
        let begun = Instant::now();
        self.send(Command::Append(publish, answer, permit)).await?;
        let published = received(answered).await?;
        self.append_duration.record(begun.elapsed());
        Ok(published)
    }

    /// Records outcomes.
    pub(crate) async fn record(&self, records: Vec<Record>) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        self.send(Command::Record(records, answer)).await?;
        received(answered).await
    }

    /// Opens a connection.
    pub(crate) async fn open(&self, connection: NewConnection) -> Result<Opened> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Open(connection, answer)).await?;
        received(answered).await
    }

    /// Opens a connection in reliable mode.
    pub(crate) async fn open_instance(&self, opening: OpenInstance) -> Result<OpenedInstance> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::OpenInstance(opening, answer)).await?;
        received(answered).await
    }

    /// Runs `work` as a transaction of its own; undone if it returns an error.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T> {
        self.run_then(work, |_| ()).await
    }

    /// The same, and calls `then` right after the commit, even if the caller stopped waiting.
    pub(crate) async fn run_then<T: Send + 'static>(
        &self,
        work: impl Work<T>,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Run(job(work, then, answer))).await?;
        received(answered).await
    }

    /// Runs `work` without waiting for it. Skips it if the queue is full.
    pub(crate) fn run_detached(&self, work: impl Work<()>) {
        let (answer, _) = oneshot::channel();
        if self.commands.try_send(Command::Run(job(work, |()| (), answer))).is_err() {
            tracing::debug!(
                "skipped a detached write: the queue is full, or the writer has stopped"
            );
        }
    }

    /// Stops after the commands that are queued, and waits for that.
    pub(crate) async fn stop(&self) {
        // Fails only if the task has stopped already.
        let _ = self.commands.send(Command::Stop).await;
        self.commands.closed().await;
    }

    async fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_| stopped())
    }
}

impl Backend {
    /// Completes when the writer has failed: the process must end with an error. The outcome of
    /// its last commit is known after a restart.
    pub async fn failure(&self) {
        let mut failure = self.writer.failure();
        if failure.wait_for(Option::is_some).await.is_err() {
            // The writer stopped without a failure.
            std::future::pending::<()>().await;
        }
    }
}

/// Runs a future on a thread with a runtime of its own.
///
/// # Panics
///
/// If the system refuses one more thread or the files of one more runtime.
fn on_a_thread(task: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("files for one more runtime");
    let thread = std::thread::Builder::new().name("writer".to_owned());
    thread.spawn(move || runtime.block_on(task)).expect("one more thread");
}

/// The message of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// Limits a size to the permits that a semaphore can have and grant to one request.
fn bounded(size: usize) -> usize {
    let most = usize::try_from(u32::MAX).unwrap_or(Semaphore::MAX_PERMITS);
    size.clamp(1, most.min(Semaphore::MAX_PERMITS))
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the database's writer has stopped".to_owned())
}

async fn received<T>(answered: oneshot::Receiver<Result<T>>) -> Result<T> {
    answered.await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(
            "the database gave no answer: it took too long, or its writer has stopped".to_owned(),
        ))
    })
}

struct Task {
    session: Session,
    node: NodeId,
    wake: Wake,
    failed: watch::Sender<Option<String>>,
    begun: watch::Sender<Option<Instant>>,
}

impl Task {
    async fn run(mut self, mut waiting: mpsc::Receiver<Command>) {
        let mut next = None;
        let mut maintain = tokio::time::interval(MAINTAIN_EVERY);
        maintain.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if next.is_none() {
                next = tokio::select! {
                    biased;
                    _ = maintain.tick() => {
                        self.session.maintain().await;
                        continue;
                    }
                    command = waiting.recv() => command,
                };
            }
            self.begun.send_replace(Some(Instant::now()));
            let ended = match next.take() {
                None | Some(Command::Stop) => break,
                Some(Command::Run(job)) => self.session.run_job(job).await,
                Some(command) => {
                    let (batch, rest) = gather(command, &mut waiting);
                    next = rest;
                    self.commit(batch).await
                }
            };
            self.wake.written();
            if let Some(begun) = self.begun.send_replace(None) {
                metrics::histogram!(metric::TRANSACTION_DURATION).record(begun.elapsed());
            }
            #[expect(clippy::cast_precision_loss, reason = "a gauge need not be exact")]
            metrics::gauge!(metric::WRITER_QUEUE).set(waiting.len() as f64);
            if let Err(Fatal(reason)) = ended {
                tracing::error!(reason, "a write failed; the writer stops");
                self.failed.send_replace(Some(reason));
                break;
            }
        }
        // Dropping the queue signals to callers that the writer has stopped. The order matters: a
        // caller of `stop` must find the file closed.
        self.session.close().await;
        drop(waiting);
    }

    async fn commit(&mut self, mut batch: Batch) -> Result<(), Fatal> {
        if self.session.storage_is_full() {
            batch.refuse_appends();
        }
        commit::commit(&mut self.session, self.node, &self.wake, &self.failed, batch).await
    }
}

/// Gathers a batch of queued commands. Also returns the command that ended it because it needs a
/// transaction of its own.
fn gather(first: Command, waiting: &mut mpsc::Receiver<Command>) -> (Batch, Option<Command>) {
    let mut batch = Batch::default();
    let mut next = Some(first);
    while let Some(command) = next {
        if let Some(command) = batch.add(command) {
            return (batch, Some(command));
        }
        let is_full = batch.items() >= BATCH_ITEMS || batch.bytes() >= BATCH_BYTES;
        next = if is_full { None } else { waiting.try_recv().ok() };
    }
    (batch, None)
}
