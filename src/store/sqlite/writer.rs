//! The one task that writes. It takes whatever waits and commits it together:
//! while one batch is being synced the next one gathers, so there is no timer
//! and a lone request waits for nobody.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::{append, connections, record};
use crate::clock::Timestamp;
use crate::event::NodeId;
use crate::store::{NewConnection, Opened, Publish, Published, Record, Result, StoreError};
use crate::wake::Wake;

/// Commands taken into one commit at the most.
const GROUP_COMMANDS: usize = 1024;

type Exclusive = Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, bool> + Send>;

/// What the writer can be asked for.
pub(super) enum Command {
    /// Committed together with whatever else waits.
    Grouped(Job),
    /// Work with a transaction of its own; says whether its commit's outcome is unknown.
    Exclusive(Exclusive),
}

/// A part of a group commit.
pub(super) enum Job {
    Append {
        publish: Publish,
        reply: oneshot::Sender<Result<Published>>,
        /// Given back when the command is done: the bound on waiting events.
        _queued: OwnedSemaphorePermit,
    },
    Record {
        records: Vec<Record>,
        reply: oneshot::Sender<Result<()>>,
    },
    Open {
        connection: NewConnection,
        reply: oneshot::Sender<Result<Opened>>,
    },
}

/// The way to the writer.
#[derive(Debug)]
pub(super) struct Writer {
    commands: mpsc::Sender<Command>,
    queue: Arc<Semaphore>,
    queue_events: usize,
}

pub(super) fn stopped() -> StoreError {
    StoreError::Unavailable("the database's writer has stopped".to_owned())
}

impl Writer {
    pub(super) async fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_| stopped())
    }

    /// Queues a publish, or refuses it at once when too many events wait.
    pub(super) async fn append(&self, publish: Publish) -> Result<Published> {
        let events = publish.events.len().clamp(1, self.queue_events);
        let queued = Arc::clone(&self.queue)
            .try_acquire_many_owned(u32::try_from(events).unwrap_or(u32::MAX))
            .map_err(|_| {
                StoreError::Unavailable(format!(
                    "{} events are waiting to be written already",
                    self.queue_events
                ))
            })?;
        let (reply, answer) = oneshot::channel();
        self.send(Command::Grouped(Job::Append { publish, reply, _queued: queued })).await?;
        answer.await.map_err(|_| stopped())?
    }

    /// Lets the writer end after what it holds.
    pub(super) fn close(&self) {
        self.queue.close();
    }
}

/// Starts the writer on its connection.
pub(super) fn spawn(
    connection: SqliteConnection,
    node: NodeId,
    wake: Wake,
    queue_events: usize,
) -> (Writer, watch::Receiver<bool>) {
    let queue_events = queue_events.max(1);
    let (commands, waiting) = mpsc::channel(GROUP_COMMANDS);
    let (failed_tx, failed) = watch::channel(false);
    tokio::spawn(run(connection, node, wake, waiting, failed_tx));
    let queue = Arc::new(Semaphore::new(queue_events));
    (Writer { commands, queue, queue_events }, failed)
}

async fn run(
    mut connection: SqliteConnection,
    node: NodeId,
    wake: Wake,
    mut waiting: mpsc::Receiver<Command>,
    failed: watch::Sender<bool>,
) {
    let mut batch = Vec::with_capacity(GROUP_COMMANDS);
    while waiting.recv_many(&mut batch, GROUP_COMMANDS).await > 0 {
        let mut group = Vec::new();
        for command in batch.drain(..) {
            match command {
                Command::Grouped(job) => group.push(job),
                // Commands keep their order, so an exclusive one ends the group before it.
                Command::Exclusive(work) => {
                    let before = std::mem::take(&mut group);
                    if commit_group(&mut connection, node, &wake, before).await
                        || work(&mut connection).await
                    {
                        failed.send_replace(true);
                        return;
                    }
                }
            }
        }
        if commit_group(&mut connection, node, &wake, group).await {
            // After a failed sync nobody knows what the file holds: whoever
            // comes next must read it anew.
            failed.send_replace(true);
            return;
        }
    }
}

fn refuse(job: Job, error: StoreError) {
    // Callers that stopped waiting need no answer.
    match job {
        Job::Append { reply, .. } => drop(reply.send(Err(error))),
        Job::Record { reply, .. } => drop(reply.send(Err(error))),
        Job::Open { reply, .. } => drop(reply.send(Err(error))),
    }
}

/// Commits a group; true if a commit's outcome is unknown.
async fn commit_group(
    connection: &mut SqliteConnection,
    node: NodeId,
    wake: &Wake,
    group: Vec<Job>,
) -> bool {
    if group.is_empty() {
        return false;
    }
    match try_group(connection, node, wake, &group).await {
        Ok(outcomes) => {
            for (job, done) in group.into_iter().zip(outcomes) {
                answer(job, done);
            }
            false
        }
        Err(StoreError::Unknown(why)) => {
            for job in group {
                refuse(job, StoreError::Unknown(why.clone()));
            }
            true
        }
        // One bad command must not take its neighbours with it: each alone.
        Err(error) if group.len() > 1 => {
            tracing::warn!(%error, commands = group.len(), "a group commit failed; its commands run one by one");
            for job in group {
                if Box::pin(commit_group(connection, node, wake, vec![job])).await {
                    return true;
                }
            }
            false
        }
        Err(error) => {
            for job in group {
                refuse(job, StoreError::Unavailable(error.to_string()));
            }
            false
        }
    }
}

/// What a command led to; told to its caller only after the commit.
enum Done {
    Appended(Published),
    Recorded,
    Opened(Opened),
}

fn answer(job: Job, done: Done) {
    match (job, done) {
        (Job::Append { reply, .. }, Done::Appended(published)) => drop(reply.send(Ok(published))),
        (Job::Record { reply, .. }, Done::Recorded) => drop(reply.send(Ok(()))),
        (Job::Open { reply, .. }, Done::Opened(opened)) => drop(reply.send(Ok(opened))),
        // A job and what it led to stand at the same place in their lists.
        _ => {}
    }
}

async fn try_group(
    connection: &mut SqliteConnection,
    node: NodeId,
    wake: &Wake,
    group: &[Job],
) -> Result<Vec<Done>> {
    let now = Timestamp::now();
    let mut batch = append::Batch::default();
    let mut done = Vec::with_capacity(group.len());
    let mut unserved = Vec::new();
    begin(connection).await?;
    let work = async {
        for job in group {
            done.push(match job {
                Job::Append { publish, .. } => {
                    Done::Appended(batch.add(connection, publish).await?)
                }
                Job::Record { records, .. } => {
                    unserved.extend(record::run(connection, now, node, records).await?);
                    Done::Recorded
                }
                Job::Open { connection: opened, .. } => {
                    Done::Opened(connections::open(connection, now, node, opened).await?)
                }
            });
        }
        batch.write(connection, now).await
    };
    let hints = match work.await {
        Ok(hints) => hints,
        Err(error) => {
            rollback(connection).await;
            return Err(error);
        }
    };
    commit(connection).await?;
    for (gateway, hint) in hints {
        wake.appended(gateway, hint);
    }
    for gateway in unserved {
        wake.unserved(gateway);
    }
    Ok(done)
}

async fn begin(connection: &mut SqliteConnection) -> Result<()> {
    // Immediate: a deferred transaction that turns to writing fails at once
    // when somebody else has written, whatever the busy time-out.
    sqlx::query("begin immediate").execute(connection).await?;
    Ok(())
}

async fn commit(connection: &mut SqliteConnection) -> Result<()> {
    sqlx::query("commit")
        .execute(connection)
        .await
        .map(drop)
        .map_err(|error| StoreError::Unknown(error.to_string()))
}

async fn rollback(connection: &mut SqliteConnection) {
    if let Err(error) = sqlx::query("rollback").execute(connection).await {
        // Some errors end the transaction by themselves, and then there is
        // nothing to roll back.
        tracing::debug!(%error, "rollback");
    }
}

/// Runs `work` between `begin immediate` and `commit`.
pub(super) async fn in_transaction<T, W>(connection: &mut SqliteConnection, work: W) -> Result<T>
where
    W: for<'c> FnOnce(&'c mut SqliteConnection, Timestamp) -> BoxFuture<'c, Result<T>>,
{
    begin(connection).await?;
    match work(connection, Timestamp::now()).await {
        Ok(value) => {
            commit(connection).await?;
            Ok(value)
        }
        Err(error) => {
            rollback(connection).await;
            Err(error)
        }
    }
}
