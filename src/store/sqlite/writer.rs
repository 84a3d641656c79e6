//! The one connection that writes, and the task that owns it. While one batch
//! is being synced the next one gathers, so that many callers share a sync and
//! a lone caller waits for nobody; there is no timer. Nobody who stops waiting
//! takes anything back: what was queued is done.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::SqliteConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use super::batch;
use super::desk::Desk;
use crate::store::{NewConnection, Opened, Publish, Published, Record, Result, StoreError};

/// Commands that may wait. Callers other than publishers wait for room in it,
/// since each lane and each request has only one at a time.
const QUEUE_COMMANDS: usize = 1024;
/// Bounds of one transaction, so that the first in it need not wait for long.
const BATCH_ITEMS: usize = 2048;
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// How often the disk and the write-ahead log are looked at.
const UPKEEP: Duration = Duration::from_secs(1);

/// Where a command's outcome goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T>>;

/// What the task is asked to do.
pub(super) enum Command {
    /// Append; the permit frees its room in the queue when it is done.
    Append(Publish, Answer<Published>, OwnedSemaphorePermit),
    /// Put on record.
    Record(Vec<Record>, Answer<()>),
    /// Open a connection.
    Open(NewConnection, Answer<Opened>),
    /// Anything else: a transaction of its own.
    Other(Job),
    /// Do what waits, then stop.
    Stop,
}

/// A transaction of its own, and what is said after it. An error says that
/// nothing may be written any more.
pub(super) type Job =
    Box<dyn for<'d> FnOnce(&'d mut Desk) -> BoxFuture<'d, std::result::Result<(), String>> + Send>;

/// The callers' end.
#[derive(Debug)]
pub(super) struct Writer {
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    queue_events: usize,
    failure: watch::Receiver<Option<String>>,
    trouble: watch::Receiver<Option<String>>,
}

impl Writer {
    /// Starts the task.
    pub(super) fn start(desk: Desk, queue_events: usize) -> Self {
        let (commands, waiting) = mpsc::channel(QUEUE_COMMANDS);
        let (failed, failure) = watch::channel(None);
        let queue_events = queue_events.clamp(1, Semaphore::MAX_PERMITS);
        let trouble = desk.trouble();
        let task = tokio::spawn(run(desk, waiting, failed.clone()));
        tokio::spawn(async move {
            if let Err(error) = task.await {
                failed.send_replace(Some(format!("the writer broke down: {error}")));
            }
        });
        let room = Arc::new(Semaphore::new(queue_events));
        Self { commands, room, queue_events, failure, trouble }
    }

    /// Why the task gave up, if it did.
    pub(super) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
    }

    /// Why nothing can be written now, if the last try has shown that.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Whether the task still runs.
    pub(super) fn is_running(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Appends, or refuses at once when too much waits already.
    pub(super) async fn append(&self, publish: Publish) -> Result<Published> {
        let size =
            u32::try_from(publish.events.len().clamp(1, self.queue_events)).unwrap_or(u32::MAX);
        let full = || StoreError::Unavailable("too many events wait to be appended".to_owned());
        let permit = Arc::clone(&self.room).try_acquire_many_owned(size).map_err(|_| full())?;
        let (answer, answered) = oneshot::channel();
        self.commands.try_send(Command::Append(publish, answer, permit)).map_err(|error| {
            match error {
                mpsc::error::TrySendError::Full(_) => full(),
                mpsc::error::TrySendError::Closed(_) => stopped(),
            }
        })?;
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
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.run_then(work, |_| ()).await
    }

    /// The same, and calls `then` right after the commit, whether or not
    /// anybody still waits.
    pub(super) async fn run_then<T, F, A>(&self, work: F, then: A) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
        A: FnOnce(&T) + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.send(Command::Other(job(work, then, answer))).await?;
        heard(answered).await
    }

    /// The same for work that nobody waits for and that can be left undone
    /// when the queue is full.
    pub(super) fn run_unheard<F>(&self, work: F)
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<()>> + Send + 'static,
    {
        let (answer, _) = oneshot::channel();
        if self.commands.try_send(Command::Other(job(work, |()| (), answer))).is_err() {
            tracing::debug!("a note was left out: the queue is full or the writer has stopped");
        }
    }

    /// Stops after what waits, and waits for it.
    pub(super) async fn stop(&self) {
        // Refused only by a task that has stopped already.
        let _ = self.commands.send(Command::Stop).await;
        self.commands.closed().await;
    }

    async fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_| stopped())
    }
}

/// Wraps work as the task runs it.
fn job<T, F, A>(work: F, then: A, answer: Answer<T>) -> Job
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    A: FnOnce(&T) + Send + 'static,
{
    Box::new(move |desk| {
        Box::pin(async move {
            let (done, going_on) = match desk.transact(work).await {
                Ok(value) => {
                    then(&value);
                    (Ok(value), Ok(()))
                }
                Err(failure) => {
                    let (error, going_on) = failure.told();
                    (Err(error), going_on)
                }
            };
            // Nobody waiting is no error: the work is done.
            let _ = answer.send(done);
            going_on
        })
    })
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the database's writer has stopped".to_owned())
}

async fn heard<T>(answered: oneshot::Receiver<Result<T>>) -> Result<T> {
    answered.await.unwrap_or_else(|_| Err(stopped()))
}

async fn run(
    mut desk: Desk,
    mut waiting: mpsc::Receiver<Command>,
    failed: watch::Sender<Option<String>>,
) {
    let mut next = None;
    let mut upkeep = tokio::time::interval(UPKEEP);
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if next.is_none() {
            next = tokio::select! {
                biased;
                _ = upkeep.tick() => {
                    desk.upkeep().await;
                    continue;
                }
                command = waiting.recv() => command,
            };
        }
        let going_on = match next.take() {
            None | Some(Command::Stop) => break,
            Some(Command::Other(job)) => job(&mut desk).await,
            Some(command) => {
                let mut gathered = batch::Batch::default();
                gathered.add(command);
                while gathered.items() < BATCH_ITEMS && gathered.bytes() < BATCH_BYTES {
                    match waiting.try_recv() {
                        Ok(command @ (Command::Other(_) | Command::Stop)) => {
                            next = Some(command);
                            break;
                        }
                        Ok(command) => gathered.add(command),
                        Err(_) => break,
                    }
                }
                if desk.disk.is_nearly_full() {
                    gathered.refuse_appends();
                }
                batch::commit(&mut desk, gathered).await
            }
        };
        if let Err(reason) = going_on {
            tracing::error!(reason, "a write failed: nothing more is written");
            failed.send_replace(Some(reason));
            break;
        }
    }
    // Whoever still waits hears that the writer has stopped when the queue
    // is dropped. The order matters: a caller of `stop` must find the file closed.
    desk.close().await;
    drop(waiting);
}
