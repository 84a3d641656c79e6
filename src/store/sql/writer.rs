//! The one task of a node that appends and records. While one batch is being
//! synced the next one gathers, so that many callers share a sync and a lone
//! caller waits for nobody; there is no timer. Nobody who stops waiting takes
//! anything back: what was queued is done.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use super::Backend;
use super::batch;
use super::dialect::{self, Connection, Session};
use crate::clock::Timestamp;
use crate::event::NodeId;
use crate::store::{NewConnection, Opened, Publish, Published, Queue, Record, Result, StoreError};
use crate::wake::Wake;

/// Commands that may wait. Callers other than publishers wait for room in it,
/// since each lane and each request has only one at a time.
const QUEUE_COMMANDS: usize = 1024;
/// Bounds of one transaction, so that the first in it need not wait for long.
const BATCH_ITEMS: usize = 2048;
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// How often the session looks after what it works with.
const UPKEEP: Duration = Duration::from_secs(1);
/// A transaction that takes longer than this is not what a ready node does.
const STUCK: Duration = Duration::from_secs(3);

/// Room in the queue, which is free again when this is dropped.
pub(super) struct Room {
    _events: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// Where a command's outcome goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T>>;

/// What the task is asked to do.
pub(super) enum Command {
    /// Append; its room in the queue is free again when it is done.
    Append(Publish, Answer<Published>, Room),
    /// Put on record.
    Record(Vec<Record>, Answer<()>),
    /// Open a connection.
    Open(NewConnection, Answer<Opened>),
    /// Anything else: a transaction of its own.
    Other(Job),
    /// Do what waits, then stop.
    Stop,
}

/// A transaction of its own, and what is said after it.
pub(crate) type Job =
    Box<dyn for<'c> FnOnce(Result<&'c mut Connection>) -> BoxFuture<'c, Outcome> + Send>;

/// What a transaction of its own does, told the instant of its beginning.
pub(crate) trait Work<T>:
    for<'c> FnOnce(&'c mut Connection, Timestamp) -> BoxFuture<'c, Result<T>> + Send + 'static
{
}

impl<T, F> Work<T> for F where
    F: for<'c> FnOnce(&'c mut Connection, Timestamp) -> BoxFuture<'c, Result<T>> + Send + 'static
{
}

/// How a [`Job`] ended before its commit.
pub(crate) struct Outcome {
    /// Why it is to be undone, or else it is committed.
    pub(crate) undo: Option<StoreError>,
    /// Tells the caller, given how the transaction's end went.
    pub(crate) finish: Box<dyn FnOnce(Result<()>) + Send>,
}

/// The callers' end.
#[derive(Debug)]
pub(crate) struct Writer {
    commands: mpsc::Sender<Command>,
    queue: Queue,
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    failure: watch::Receiver<Option<String>>,
    busy: watch::Receiver<Option<Instant>>,
}

impl Writer {
    /// Starts the task.
    pub(crate) fn start(session: Session, queue: Queue, node: NodeId, wake: Wake) -> Self {
        let (commands, waiting) = mpsc::channel(QUEUE_COMMANDS);
        let (failed, failure) = watch::channel(None);
        let (begun, busy) = watch::channel(None);
        let queue = Queue { events: bounded(queue.events), bytes: bounded(queue.bytes) };
        let task = Task { session, node, wake, failed: failed.clone(), begun };
        let runs = async move {
            if let Err(panic) = AssertUnwindSafe(task.run(waiting)).catch_unwind().await {
                failed.send_replace(Some(format!("the writer broke down: {}", said(&*panic))));
            }
        };
        if Session::WANTS_A_THREAD {
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
        }
    }

    /// Whether what the task is doing makes progress.
    pub(crate) fn check_progress(&self) -> Result<()> {
        match self.busy.borrow().map(|begun| begun.elapsed()) {
            Some(elapsed) if elapsed > STUCK => Err(StoreError::Unavailable(format!(
                "the writer has been at one transaction for {} s",
                elapsed.as_secs()
            ))),
            _ => Ok(()),
        }
    }

    /// Why the task gave up, if it did.
    pub(crate) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
    }

    /// Whether the task still runs.
    pub(crate) fn is_running(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Appends, or refuses at once when too much waits already.
    pub(super) async fn append(&self, publish: Publish) -> Result<Published> {
        let full = || StoreError::Unavailable("too many events wait to be appended".to_owned());
        // One request may fill the queue alone, or it could never be taken.
        let take = |room: &Arc<Semaphore>, size: usize, most: usize| {
            let size = u32::try_from(size.clamp(1, most)).unwrap_or(u32::MAX);
            Arc::clone(room).try_acquire_many_owned(size).map_err(|_| full())
        };
        let room = Room {
            _events: take(&self.events, publish.events.len(), self.queue.events)?,
            _bytes: take(&self.bytes, batch::payload_bytes(&publish), self.queue.bytes)?,
        };
        let (answer, answered) = oneshot::channel();
        self.commands.try_send(Command::Append(publish, answer, room)).map_err(
            |error| match error {
                mpsc::error::TrySendError::Full(_) => full(),
                mpsc::error::TrySendError::Closed(_) => stopped(),
            },
        )?;
        heard(answered).await
    }

    /// Puts on record.
    pub(super) async fn record(&self, records: Vec<Record>) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        self.send(Command::Record(records, answer)).await?;
        heard(answered).await
    }

    /// Opens a connection.
    pub(super) async fn open(&self, connection: NewConnection) -> Result<Opened> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Open(connection, answer)).await?;
        heard(answered).await
    }

    /// Runs `work` as a transaction of its own; it is undone if it answers an error.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T> {
        self.run_then(work, |_| ()).await
    }

    /// The same, and calls `then` right after the commit, whether or not
    /// anybody still waits.
    pub(super) async fn run_then<T: Send + 'static>(
        &self,
        work: impl Work<T>,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Other(job(work, then, answer))).await?;
        heard(answered).await
    }

    /// The same for work that nobody waits for and that can be left undone
    /// when the queue is full.
    pub(super) fn run_unheard(&self, work: impl Work<()>) {
        let (answer, _) = oneshot::channel();
        if self.commands.try_send(Command::Other(job(work, |()| (), answer))).is_err() {
            tracing::debug!("a note was left out: the queue is full or the writer has stopped");
        }
    }

    /// Stops after what waits, and waits for it.
    pub(crate) async fn stop(&self) {
        // Refused only by a task that has stopped already.
        let _ = self.commands.send(Command::Stop).await;
        self.commands.closed().await;
    }

    async fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_| stopped())
    }
}

impl Backend {
    /// Ends when a commit has failed for good: the process should end with an
    /// error, and a restart finds the truth.
    pub async fn failure(&self) {
        let mut failure = self.writer.failure();
        if failure.wait_for(Option::is_some).await.is_err() {
            // A writer that stopped in good order fails no more.
            std::future::pending::<()>().await;
        }
    }
}

/// Wraps work as the task runs it.
fn job<T: Send + 'static>(
    work: impl Work<T>,
    then: impl FnOnce(&T) + Send + 'static,
    answer: Answer<T>,
) -> Job {
    Box::new(move |connection| {
        Box::pin(async move {
            let done = match connection {
                Ok(connection) => match dialect::clock(connection).await {
                    Ok(now) => work(connection, now).await,
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            let undo = done.as_ref().err().cloned();
            let finish = Box::new(move |ended: Result<()>| {
                let done = ended.and(done);
                if let Ok(value) = &done {
                    then(value);
                }
                // Nobody waiting is no error: the work is done.
                let _ = answer.send(done);
            });
            Outcome { undo, finish }
        })
    })
}

/// Runs it on a thread of its own, with its own timers and sockets.
///
/// # Panics
///
/// If the system has no room for one more thread or its files, like the runtime
/// that it stands beside.
fn on_a_thread(task: impl Future<Output = ()> + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("files for one more runtime");
    let thread = std::thread::Builder::new().name("writer".to_owned());
    thread.spawn(move || runtime.block_on(task)).expect("one more thread");
}

/// What somebody said who panicked.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why")
}

/// As many permits as a semaphore can have, and give to one request.
fn bounded(size: usize) -> usize {
    let most = usize::try_from(u32::MAX).unwrap_or(Semaphore::MAX_PERMITS);
    size.clamp(1, most.min(Semaphore::MAX_PERMITS))
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the database's writer has stopped".to_owned())
}

async fn heard<T>(answered: oneshot::Receiver<Result<T>>) -> Result<T> {
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
        let mut upkeep = tokio::time::interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if next.is_none() {
                next = tokio::select! {
                    biased;
                    _ = upkeep.tick() => {
                        self.session.upkeep().await;
                        continue;
                    }
                    command = waiting.recv() => command,
                };
            }
            self.begun.send_replace(Some(Instant::now()));
            let going_on = match next.take() {
                None | Some(Command::Stop) => break,
                Some(Command::Other(job)) => self.session.alone(job).await,
                Some(command) => {
                    let (gathered, rest) = gather(command, &mut waiting);
                    next = rest;
                    self.together(gathered).await
                }
            };
            self.begun.send_replace(None);
            if let Err(reason) = going_on {
                tracing::error!(reason, "a write failed: nothing more is written");
                self.failed.send_replace(Some(reason));
                break;
            }
        }
        // Whoever still waits hears that the writer has stopped when the queue
        // is dropped. The order matters: a caller of `stop` must find the file closed.
        self.session.close().await;
        drop(waiting);
    }

    async fn together(&mut self, mut gathered: batch::Batch) -> std::result::Result<(), String> {
        if self.session.storage_is_full() {
            gathered.refuse_appends();
        }
        batch::commit(&mut self.session, self.node, &self.wake, gathered).await
    }
}

/// A batch of what waits, and the command that ended it because it has no place there.
fn gather(
    first: Command,
    waiting: &mut mpsc::Receiver<Command>,
) -> (batch::Batch, Option<Command>) {
    let mut gathered = batch::Batch::default();
    gathered.add(first);
    while gathered.items() < BATCH_ITEMS && gathered.bytes() < BATCH_BYTES {
        match waiting.try_recv() {
            Ok(command @ (Command::Other(_) | Command::Stop)) => return (gathered, Some(command)),
            Ok(command) => gathered.add(command),
            Err(_) => break,
        }
    }
    (gathered, None)
}
