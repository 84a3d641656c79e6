//! How an operation reaches the database: on a connection that reads, or through the writer.
//! Each store implements [`Access`]; this is the part of the contract that is not statements.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Backend;
use super::dialect::Connection;
use super::writer::command::Work;
use crate::store::Result;

/// Statements that read.
pub(crate) trait Read<T>:
    for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T>> + Send + 'static
{
}

impl<T, F> Read<T> for F where
    F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T>> + Send + 'static
{
}

/// What a store provides besides statements and the writer's session.
pub(crate) trait Access {
    /// Runs one statement that reads few rows.
    async fn point_read<T: Send + 'static>(&self, work: impl Read<T>) -> Result<T>;
    /// Runs statements that see one snapshot of the database.
    async fn snapshot<T: Send + 'static>(&self, work: impl Read<T>) -> Result<T>;
    /// Runs statements of an admin's query on one snapshot, on a connection of the query pool.
    /// `TooLong` after the query timeout.
    async fn query<T: Send + 'static>(&self, work: impl Read<T>) -> Result<T>;
    /// Runs a transaction that does not wait behind other work, and fails after a few seconds.
    async fn urgent_tx<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T>;

    /// Checks that the database answers and takes writes.
    async fn check_database(&self) -> Result<()>;
    /// Refuses with `StorageFull` if the disk has no room to publish.
    fn check_space(&self) -> Result<()>;
    /// Has what a purge leaves in the database's files removed soon, as far as the service can.
    fn erase_remains(&self);
    /// Waits until another program may have committed to the inbox.
    async fn watch_inbox(&self) -> Result<()>;
    /// Nodes without a heartbeat for this long are dead.
    fn node_timeout(&self) -> Duration;
    /// Closes all connections, after the writes that are queued.
    async fn shut_down(&self);
}

impl Backend {
    /// Runs a transaction of the writer; undone if the work returns an error.
    pub(crate) async fn write_tx<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T> {
        self.writer.run(work).await
    }
}

/// Runs an asynchronous call on a connection: `run!(self.query, |conn| list(conn, limit))`.
macro_rules! run {
    ($store:ident.$access:ident, |$($arg:ident),+| $work:expr) => {
        $store.$access(move |$($arg),+| Box::pin(async move { $work.await })).await
    };
}
pub(crate) use run;
