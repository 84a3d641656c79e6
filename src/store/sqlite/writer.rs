//! The one connection that writes, and the task that owns it. While one batch
//! is being synced the next one gathers, so that many callers share a sync and
//! a lone caller waits for nobody; there is no timer. Nobody who stops waiting
//! takes anything back: what was queued is done.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::{batch, open};
use crate::event::NodeId;
use crate::store::{NewConnection, Opened, Publish, Published, Record, Result, StoreError};
use crate::wake::Wake;

/// Commands that may wait. Callers other than publishers wait for room in it,
/// since each lane and each request has only one at a time.
const QUEUE_COMMANDS: usize = 1024;
/// Bounds of one transaction, so that the first in it need not wait for long.
const BATCH_ITEMS: usize = 2048;
const BATCH_BYTES: usize = 16 * 1024 * 1024;

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

/// A transaction of its own, and what is said after it.
pub(super) type Job =
    Box<dyn for<'c> FnOnce(Result<&'c mut SqliteConnection>) -> BoxFuture<'c, Outcome> + Send>;

/// How a [`Job`] ended before its commit.
pub(super) struct Outcome {
    keep: bool,
    finish: Box<dyn FnOnce(Result<()>) + Send>,
}

/// The callers' end.
#[derive(Debug)]
pub(super) struct Writer {
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    queue_events: usize,
    failure: watch::Receiver<Option<String>>,
}

impl Writer {
    /// Starts the task.
    pub(super) fn start(
        connection: SqliteConnection,
        options: &super::Options,
        node: NodeId,
        wake: Wake,
    ) -> Self {
        let (commands, waiting) = mpsc::channel(QUEUE_COMMANDS);
        let (failed, failure) = watch::channel(None);
        let queue_events = options.queue_events.clamp(1, Semaphore::MAX_PERMITS);
        let task = Task {
            connection,
            path: options.path.clone(),
            min_free_bytes: options.min_free_bytes,
            node,
            wake,
            failed,
        };
        tokio::spawn(task.run(waiting));
        Self { commands, room: Arc::new(Semaphore::new(queue_events)), queue_events, failure }
    }

    /// Why the task gave up, if it did.
    pub(super) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
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
    Box::new(move |connection| {
        Box::pin(async move {
            let done = match connection {
                Ok(connection) => work(connection).await,
                Err(error) => Err(error),
            };
            let keep = done.is_ok();
            let finish = Box::new(move |committed: Result<()>| {
                let done = done.and_then(|value| committed.map(|()| value));
                if let Ok(value) = &done {
                    then(value);
                }
                // Nobody waiting is no error: the work is done.
                let _ = answer.send(done);
            });
            Outcome { keep, finish }
        })
    })
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the database's writer has stopped".to_owned())
}

async fn heard<T>(answered: oneshot::Receiver<Result<T>>) -> Result<T> {
    answered.await.unwrap_or_else(|_| Err(stopped()))
}

struct Task {
    connection: SqliteConnection,
    path: PathBuf,
    min_free_bytes: u64,
    node: NodeId,
    wake: Wake,
    failed: watch::Sender<Option<String>>,
}

impl Task {
    async fn run(mut self, mut waiting: mpsc::Receiver<Command>) {
        let mut next = None;
        loop {
            let command = match next.take() {
                Some(command) => Some(command),
                None => waiting.recv().await,
            };
            let going_on = match command {
                None | Some(Command::Stop) => break,
                Some(Command::Other(job)) => self.alone(job).await,
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
                    self.together(gathered).await
                }
            };
            if let Err(reason) = going_on {
                tracing::error!(reason, "a commit failed: nothing more is written");
                self.failed.send_replace(Some(reason));
                break;
            }
        }
        // Whoever still waits hears that the writer has stopped when the queue
        // is dropped. The order matters: a caller of `stop` must find the file closed.
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "the database's writer did not close in good order");
        }
        drop(waiting);
    }

    async fn together(&mut self, mut gathered: batch::Batch) -> std::result::Result<(), String> {
        if self.storage_is_full() {
            gathered.refuse_appends();
        }
        batch::commit(&mut self.connection, self.node, &self.wake, gathered).await
    }

    async fn alone(&mut self, job: Job) -> std::result::Result<(), String> {
        let mut transaction = match self.connection.begin_with("begin immediate").await {
            Ok(transaction) => transaction,
            Err(error) => {
                (job(Err(error.into())).await.finish)(Ok(()));
                return Ok(());
            }
        };
        let outcome = job(Ok(&mut *transaction)).await;
        if !outcome.keep {
            if let Err(error) = transaction.rollback().await {
                tracing::warn!(%error, "a transaction could not be undone at once");
            }
            (outcome.finish)(Ok(()));
            return Ok(());
        }
        match transaction.commit().await {
            Ok(()) => {
                (outcome.finish)(Ok(()));
                Ok(())
            }
            Err(error) => {
                (outcome.finish)(Err(StoreError::Unknown(error.to_string())));
                Err(error.to_string())
            }
        }
    }

    fn storage_is_full(&self) -> bool {
        open::free_bytes(&self.path).is_some_and(|free| free < self.min_free_bytes)
    }
}
