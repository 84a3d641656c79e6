//! What the writer is asked to do, and where it answers.

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::super::dialect::{Connection, NodeStatements};
use crate::clock::Timestamp;
use crate::store::{
    NewConnection, OpenInstance, Opened, OpenedInstance, Publish, Published, Record, Result,
    StoreError,
};

/// A share of the queue's capacity, released when this is dropped.
pub(crate) struct Permit {
    pub(crate) _events: OwnedSemaphorePermit,
    pub(crate) _bytes: OwnedSemaphorePermit,
}

/// Where the outcome of a command goes.
pub(crate) type Answer<T> = oneshot::Sender<Result<T>>;

/// A command to the writer.
pub(crate) enum Command {
    /// Append events. The permit is released when they are appended.
    Append(Publish, Answer<Published>, Permit),
    /// Record outcomes.
    Record(Vec<Record>, Answer<()>),
    /// Open a connection.
    Open(NewConnection, Answer<Opened>),
    /// Open a connection in reliable mode.
    OpenInstance(OpenInstance, Answer<OpenedInstance>),
    /// Run a transaction of its own.
    Run(Job),
    /// Stop, after the commands before this one.
    Stop,
}

/// A transaction of its own, given its connection or the reason why there is none.
pub(crate) type Job =
    Box<dyn for<'c> FnOnce(Result<&'c mut Connection>) -> BoxFuture<'c, JobOutcome> + Send>;

/// The outcome of a [`Job`] before its transaction ends.
pub(crate) struct JobOutcome {
    /// Why the transaction must be undone; `None` commits it.
    pub(crate) undo: Option<StoreError>,
    /// Answers the caller, given how the transaction ended.
    pub(crate) finish: Box<dyn FnOnce(Result<()>) + Send>,
}

/// The statements of a transaction, given the time at its beginning.
pub(crate) trait Work<T>:
    for<'c> FnOnce(&'c mut Connection, Timestamp) -> BoxFuture<'c, Result<T>> + Send + 'static
{
}

impl<T, F> Work<T> for F where
    F: for<'c> FnOnce(&'c mut Connection, Timestamp) -> BoxFuture<'c, Result<T>> + Send + 'static
{
}

/// Wraps work as a job that calls `then` after its commit, even if the caller stopped waiting.
pub(crate) fn job<T: Send + 'static>(
    work: impl Work<T>,
    then: impl FnOnce(&T) + Send + 'static,
    answer: Answer<T>,
) -> Job {
    Box::new(move |conn| {
        Box::pin(async move {
            let done = match conn {
                Ok(conn) => match conn.now().await {
                    Ok(now) => work(conn, now).await,
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
                // The caller may have stopped waiting.
                let _ = answer.send(done);
            });
            JobOutcome { undo, finish }
        })
    })
}
