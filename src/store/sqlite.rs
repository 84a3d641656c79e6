//! The embedded store: one file, one server, one connection that writes. Reads
//! see one moment of the file and never wait for the writer; writes are
//! commands to it. Nothing here holds a statement open across a caller's await.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{SqliteConnection, SqlitePool};
use tokio::sync::watch;

use super::{Result, StoreError};
use crate::event::NodeId;
use crate::wake::Wake;

mod dialect;
mod disk;
mod migrations;
mod open;
mod options;
mod questions;
mod recovery;
#[cfg(test)]
mod scratch;
mod session;
#[allow(clippy::duplicate_mod, reason = "written once, and compiled for each database")]
#[path = "sql/mod.rs"]
mod sql;
pub mod verify;
mod watch_inbox;

pub use migrations::{migrate, pending_migrations, refuse_another_version};
pub use open::{OpenError, connect};
pub use options::Options;
pub use recovery::add_admin_token;

use questions::Questions;
use session::Session;
use sql::writer::{Work, Writer};

/// The longest that a moment of the file may be read: while it is, the
/// write-ahead log grows. Whoever asked has given up by then.
const LONGEST_READ: Duration = Duration::from_secs(25);

type Backend = SqliteStore;

/// The log and the ledger in a SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    node: NodeId,
    wake: Wake,
    readers: SqlitePool,
    questions: Questions,
    moments: Questions,
    writer: Writer,
    /// Why nothing can be written now, if the last try has shown that.
    trouble: watch::Receiver<Option<String>>,
    probe: disk::Probe,
    inbox: watch_inbox::Watch,
    /// Where free space is looked for.
    options: Options,
    /// Keeps other servers away for as long as this one lives.
    _lock: File,
}

impl SqliteStore {
    /// Opens the file, creating and migrating it as needed, and registers the node.
    pub async fn open(options: &Options, node: NodeId, wake: Wake) -> Result<Arc<Self>, OpenError> {
        let lock = open::lock(&options.path)?;
        open::create(&options.path)?;
        let disk = disk::Disk::of(options);
        let mut connection = open::connect(&options.path).await?;
        migrations::run(&mut connection).await?;
        let readers = open::readers(options, options.readers).await?;
        let askers = open::readers(options, options.askers).await?;
        let questions = Questions::new(askers, options.answer_timeout);
        let moments = Questions::new(open::readers(options, 1).await?, LONGEST_READ);
        let session = Session::new(connection, options, disk);
        let (trouble, probe) = (session.trouble(), session.probe());
        let writer = Writer::start(session, options.queue, node, wake.clone());
        let inbox = watch_inbox::Watch::new(options.path.clone());
        let options = options.clone();
        let store = Self {
            node,
            wake,
            readers,
            questions,
            moments,
            writer,
            trouble,
            probe,
            inbox,
            options,
            _lock: lock,
        };
        store.begin().await?;
        Ok(Arc::new(store))
    }

    /// Runs one statement that reads few rows: it is a moment of the file by
    /// itself, and over before it could hold up anybody.
    async fn looking<T, F>(&self, work: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>>,
    {
        self.explained(work(&mut *self.readers.acquire().await?).await).await
    }

    /// The outcome of a read, in which a disk that fails is no damaged file.
    async fn explained<T>(&self, done: Result<T>) -> Result<T> {
        match done {
            Err(error) => Err(self.probe.explain(error).await),
            done => done,
        }
    }

    /// Reads one moment of the file, on a connection that is there for that.
    async fn reading<T, F>(&self, work: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>>,
    {
        self.explained(self.moments.ask(work).await).await
    }

    /// Reads one moment of the file for somebody who asks: after those who
    /// asked before, and not for ever.
    async fn asking<T, F>(&self, work: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>>,
    {
        self.explained(self.questions.ask(work).await).await
    }

    /// Whether reading works, and writing did at the last try.
    async fn check_health(&self) -> Result<()> {
        if let Some(reason) = self.trouble.borrow().as_ref() {
            return Err(StoreError::Unavailable(format!("nothing can be written: {reason}")));
        }
        self.looking(|connection| {
            Box::pin(async move {
                sqlx::query("select 1").execute(connection).await?;
                Ok(())
            })
        })
        .await
    }

    /// One connection writes, and whoever writes waits for it.
    async fn promptly<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T> {
        self.writer.run(work).await
    }

    /// No other node can be alive, however lately it was heard of.
    #[expect(clippy::unused_self, reason = "nodes that share a database are told")]
    const fn node_timeout(&self) -> Duration {
        Duration::ZERO
    }

    /// Waits for somebody else's commit.
    async fn watch_inbox(&self) -> Result<()> {
        self.inbox.changed().await
    }

    /// Moving is publishing: rows wait in the inbox until there is space.
    fn check_space(&self) -> Result<()> {
        match open::free_bytes(&self.options.path) {
            Some(free) if free < self.options.min_free_bytes => Err(StoreError::StorageFull),
            _ => Ok(()),
        }
    }

    async fn shut(&self) {
        self.questions.close().await;
        self.moments.close().await;
        // The writer's connection is the last to close.
        self.inbox.close().await;
        self.readers.close().await;
        self.writer.stop().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn read_only_and_locked_may_pass_and_a_file_that_is_no_database_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        open::create(&path).unwrap();
        let mut holder = open::connect(&path).await.unwrap();
        sqlx::query("create table t (n)").execute(&mut holder).await.unwrap();
        let mut reader = open::connect_read_only(&path).await.unwrap();
        let write = "insert into t values (1)";
        let refused = sqlx::query(write).execute(&mut reader).await.unwrap_err();
        assert!(matches!(StoreError::from(refused), StoreError::Unavailable(_)), "read-only");
        let mut other = open::connect(&path).await.unwrap();
        sqlx::query("pragma busy_timeout = 0").execute(&mut other).await.unwrap();
        sqlx::query("begin immediate").execute(&mut holder).await.unwrap();
        let refused = sqlx::query(write).execute(&mut other).await.unwrap_err();
        assert!(matches!(StoreError::from(refused), StoreError::Unavailable(_)), "locked");
        let text = directory.path().join("text.db");
        std::fs::write(
            &text,
            "no database at all, although it is long enough to be one".repeat(50),
        )
        .unwrap();
        let Err(OpenError::Database(refused)) = open::connect(&text).await else {
            panic!("it was opened")
        };
        assert!(matches!(StoreError::from(refused), StoreError::Corrupt(_)), "no database");
    }
}
