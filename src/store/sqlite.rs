//! The SQLite store: one file, one server, one connection that writes. Reads see a snapshot of
//! the file and never wait for the writer. No statement stays open across a caller's await.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::SqlitePool;
use tokio::sync::watch;

use super::{Result, StoreError};
use crate::event::NodeId;
use crate::wake::Wake;

mod backup;
mod backup_mark;
mod connect;
mod disk;
mod migrations;
mod options;
mod query_pool;
mod recovery;
mod restore;
#[cfg(test)]
mod scratch;
mod session;
#[allow(clippy::duplicate_mod, reason = "compiled once per database; sql/dialect.rs says why")]
#[path = "sql/mod.rs"]
mod sql;
mod statements;
pub mod verify;
mod watch_inbox;

pub use backup::{BackupError, backup};
pub use connect::{OpenError, connect};
pub use migrations::{migrate, pending_migrations, refuse_another_version};
pub use options::Options;
pub use recovery::{add_admin_token, check_renewal, renew_epochs};
pub use restore::{RestoreError, restore};

use query_pool::QueryPool;
use session::Session;
use sql::access::{Access, Read};
use sql::durations::ReadDurations;
use sql::writer::{Work, Writer};

/// The timeout of a snapshot: the write-ahead log grows while one is read.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(25);

type Backend = SqliteStore;

/// The log and the ledger in a SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    node: NodeId,
    wake: Wake,
    readers: SqlitePool,
    queries: QueryPool,
    snapshots: QueryPool,
    writer: Writer,
    /// Why the last attempt to write failed, if it did.
    last_begin_error: watch::Receiver<Option<String>>,
    probe: disk::Probe,
    inbox: watch_inbox::Watch,
    durations: ReadDurations,
    options: Options,
    /// Set after a purge, until the write-ahead log is truncated.
    has_remains: Arc<AtomicBool>,
    /// Held to keep other servers from opening the file.
    _lock: File,
}

impl SqliteStore {
    /// Opens the file, creating and migrating it as needed, and registers the node.
    pub async fn open(options: &Options, node: NodeId, wake: Wake) -> Result<Arc<Self>, OpenError> {
        let lock = connect::lock(&options.path)?;
        connect::create(&options.path)?;
        let disk = disk::Disk::of(options);
        let mut conn = connect::connect(&options.path).await?;
        if backup_mark::is_set(&mut conn).await? {
            return Err(OpenError::Backup(options.path.clone()));
        }
        migrations::run(&mut conn).await?;
        connect::prepare_writer(&mut conn).await?;
        let readers = connect::readers(options, options.readers).await?;
        let query_connections = connect::readers(options, options.query_connections).await?;
        let queries = QueryPool::new(query_connections, options.query_timeout);
        let snapshots = QueryPool::new(connect::readers(options, 1).await?, SNAPSHOT_TIMEOUT);
        let session = Session::new(conn, options, disk);
        let (last_begin_error, probe) = (session.last_begin_error(), session.probe());
        let has_remains = session.has_remains();
        let writer = Writer::start(session, options.queue, node, wake.clone());
        let inbox = watch_inbox::Watch::new(options.path.clone());
        let options = options.clone();
        let store = Self {
            node,
            wake,
            readers,
            queries,
            snapshots,
            writer,
            last_begin_error,
            probe,
            inbox,
            durations: ReadDurations::new(),
            options,
            has_remains,
            _lock: lock,
        };
        store.begin().await?;
        Ok(Arc::new(store))
    }

    /// The outcome of a read. SQLite reports a failing disk as a malformed file; this tells them
    /// apart.
    async fn explained<T>(&self, done: Result<T>) -> Result<T> {
        match done {
            Err(error) => Err(self.probe.explain(error).await),
            done => done,
        }
    }
}

impl Access for SqliteStore {
    /// A single statement is a snapshot, and over before it could block anything.
    async fn point_read<T: Send + 'static>(&self, work: impl Read<T>) -> Result<T> {
        let read = async { work(&mut *self.readers.acquire().await?).await };
        self.explained(self.durations.point.measure(read).await).await
    }

    /// Uses a connection of its own: a point read never waits for a snapshot.
    async fn snapshot<T: Send + 'static>(&self, work: impl Read<T>) -> Result<T> {
        self.explained(self.durations.snapshot.measure(self.snapshots.run(work)).await).await
    }

    async fn query<T: Send + 'static>(&self, work: impl Read<T>) -> Result<T> {
        self.explained(self.durations.query.measure(self.queries.run(work)).await).await
    }

    /// There is one connection that writes, and all writes wait for it.
    async fn urgent_tx<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T> {
        self.writer.run(work).await
    }

    /// Reads, and reports the last attempt to write: a write of its own would wait for the writer.
    async fn check_database(&self) -> Result<()> {
        if let Some(reason) = self.last_begin_error.borrow().as_ref() {
            return Err(StoreError::Unavailable(format!(
                "failed to write to the database: {reason}"
            )));
        }
        self.point_read(|conn| {
            Box::pin(async move {
                sqlx::query("select 1").execute(conn).await?;
                Ok(())
            })
        })
        .await
    }

    fn check_space(&self) -> Result<()> {
        match connect::free_bytes(&self.options.path) {
            Some(free) if free < self.options.min_free_bytes => Err(StoreError::StorageFull),
            _ => Ok(()),
        }
    }

    fn erase_remains(&self) {
        self.has_remains.store(true, Ordering::Relaxed);
    }

    async fn watch_inbox(&self) -> Result<()> {
        self.inbox.changed().await
    }

    /// No node is ever declared dead by age, because there are no other nodes.
    fn node_timeout(&self) -> Duration {
        Duration::ZERO
    }

    async fn shut_down(&self) {
        self.queries.close().await;
        self.snapshots.close().await;
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
        connect::create(&path).unwrap();
        let mut holder = connect::connect(&path).await.unwrap();
        sqlx::query("create table t (n)").execute(&mut holder).await.unwrap();
        let mut reader = connect::connect_read_only(&path).await.unwrap();
        let write = "insert into t values (1)";
        let refused = sqlx::query(write).execute(&mut reader).await.unwrap_err();
        assert!(matches!(StoreError::from(refused), StoreError::Unavailable(_)), "read-only");
        let mut other = connect::connect(&path).await.unwrap();
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
        let Err(OpenError::Database(refused)) = connect::connect(&text).await else {
            panic!("it was opened")
        };
        assert!(matches!(StoreError::from(refused), StoreError::Corrupt(_)), "no database");
    }
}
