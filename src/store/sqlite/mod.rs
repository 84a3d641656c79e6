//! The embedded store: one SQLite file, one server process.
//!
//! Writes go through one connection that a [`writer`] task owns; reads take a
//! connection of a small read-only pool. Whatever a caller asked for runs to
//! its end, even if the caller stops waiting.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Connection as _, Sqlite, Transaction};
use tokio::sync::{oneshot, watch};

use super::{Result, StoreError};
use crate::clock::Timestamp;
use crate::event::NodeId;
use crate::wake::Wake;

mod append;
mod connections;
mod deliveries;
mod event_types;
mod gateways;
mod history;
mod nodes;
mod outbox;
mod record;
mod redrive;
mod retention;
mod rows;
mod sweep;
mod tokens;
mod verbs;
pub mod verify;
mod writer;

use writer::{Command, Writer};

/// The migrations, compiled in; sqlx-cli sees the same files and history.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

/// The first SQLite in which a checkpoint by one process can't corrupt what
/// another is writing.
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);

/// Settings of the embedded database.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The file; set from the data directory.
    #[serde(skip)]
    pub path: PathBuf,
    /// Connections that read.
    pub readers: u32,
    /// Events that may wait to be appended before publishing answers 503.
    pub queue_events: usize,
    /// Free space below which publishing is refused; receipts still work.
    pub min_free_bytes: u64,
}

/// Why a database can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two servers on one file would give the same numbers twice.
    #[error("{0} is in use by another gateway-events server; a SQLite file serves one process")]
    InUse(PathBuf),
    /// The file, its folder or its lock can't be used.
    #[error("can't use {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The linked library could corrupt the file.
    #[error("SQLite {found} is too old: 3.51.3 or newer is needed")]
    OldLibrary {
        /// The version found.
        found: String,
    },
    /// A setting that durability depends on did not take.
    #[error("SQLite did not accept `pragma {pragma}`: it says {found:?}, not {wanted:?}")]
    Setting {
        /// The pragma.
        pragma: &'static str,
        /// What was read back.
        found: String,
        /// What was set.
        wanted: &'static str,
    },
    /// The schema is newer than this program, or was edited.
    #[error("the schema of {path} can't be used: {source}")]
    Schema {
        /// Which database.
        path: PathBuf,
        /// What the comparison found.
        source: sqlx::migrate::MigrateError,
    },
    /// Anything else the database said.
    #[error("can't open {path}: {source}")]
    Database {
        /// Which database.
        path: PathBuf,
        /// What it said.
        source: sqlx::Error,
    },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Decode(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::TypeNotFound { .. } => Self::Corrupt(error.to_string()),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// The store on one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    node: NodeId,
    readers: SqlitePool,
    writer: Writer,
    wake: Wake,
    failed: watch::Receiver<bool>,
    /// Where the file is, and how much must stay free there.
    space: (PathBuf, u64),
    /// Held as long as the store lives: it keeps a second server out.
    _lock: std::fs::File,
}

fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
}

/// Brings the schema of `path` up to date; makes the file if there is none.
pub async fn migrate(path: &Path) -> Result<(), OpenError> {
    let mut connection = open_writer(path).await?;
    MIGRATIONS
        .run(&mut connection)
        .await
        .map_err(|source| OpenError::Schema { path: path.to_owned(), source })?;
    connection.close().await.map_err(|source| OpenError::Database { path: path.to_owned(), source })
}

/// The migrations that `path` still lacks, as `version description`.
pub async fn pending_migrations(path: &Path) -> Result<Vec<String>, OpenError> {
    let database = |source| OpenError::Database { path: path.to_owned(), source };
    let applied: Vec<i64> = if path.exists() {
        let mut connection = SqliteConnection::connect_with(
            &SqliteConnectOptions::new().filename(path).read_only(true),
        )
        .await
        .map_err(database)?;
        let known: i64 = sqlx::query_scalar(
            "select count(*) from sqlite_schema where name = '_sqlx_migrations'",
        )
        .fetch_one(&mut connection)
        .await
        .map_err(database)?;
        if known == 0 {
            Vec::new()
        } else {
            sqlx::query_scalar("select version from _sqlx_migrations where success")
                .fetch_all(&mut connection)
                .await
                .map_err(database)?
        }
    } else {
        Vec::new()
    };
    Ok(MIGRATIONS
        .iter()
        .filter(|migration| !applied.contains(&migration.version))
        .map(|migration| format!("{:04} {}", migration.version, migration.description))
        .collect())
}

async fn open_writer(path: &Path) -> Result<SqliteConnection, OpenError> {
    let database = |source| OpenError::Database { path: path.to_owned(), source };
    let mut connection =
        SqliteConnection::connect_with(&connect_options(path).create_if_missing(true))
            .await
            .map_err(database)?;
    let version: String = sqlx::query_scalar("select sqlite_version()")
        .fetch_one(&mut connection)
        .await
        .map_err(database)?;
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    if (part(), part(), part()) < OLDEST_SQLITE {
        return Err(OpenError::OldLibrary { found: version });
    }
    // What durability rests on is read back: a setting that silently did not
    // take would be noticed at the first power cut only.
    for (pragma, statement, wanted) in [
        ("journal_mode", "select cast(journal_mode as text) from pragma_journal_mode", "wal"),
        ("synchronous", "select cast(synchronous as text) from pragma_synchronous", "2"),
        ("foreign_keys", "select cast(foreign_keys as text) from pragma_foreign_keys", "1"),
    ] {
        let found: String =
            sqlx::query_scalar(statement).fetch_one(&mut connection).await.map_err(database)?;
        if found != wanted {
            return Err(OpenError::Setting { pragma, found, wanted });
        }
    }
    Ok(connection)
}

impl SqliteStore {
    /// Opens the file, brings its schema up to date and closes what a dead
    /// server left open in it.
    pub async fn open(options: &Options, node: NodeId, wake: Wake) -> Result<Arc<Self>, OpenError> {
        let path = &options.path;
        let lock_path = path.with_extension("lock");
        let io = |source| OpenError::Io { path: lock_path.clone(), source };
        let lock = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(OpenError::InUse(path.clone())),
            Err(std::fs::TryLockError::Error(source)) => return Err(io(source)),
        }
        migrate(path).await?;
        let connection = open_writer(path).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(options.readers.max(1))
            .acquire_timeout(Duration::from_secs(5))
            .connect_with(connect_options(path).pragma("query_only", "on"))
            .await
            .map_err(|source| OpenError::Database { path: path.clone(), source })?;
        let (writer, failed) = writer::spawn(connection, node, wake.clone(), options.queue_events);
        Ok(Arc::new(Self {
            node,
            readers,
            writer,
            wake,
            failed,
            space: (path.clone(), options.min_free_bytes),
            _lock: lock,
        }))
    }

    /// Resolves once a commit or a sync has failed: the process must end, and
    /// its successor re-read the truth.
    pub async fn failure(&self) {
        let mut failed = self.failed.clone();
        // The sender lives as long as the writer; its end is a failure too.
        let _ = failed.wait_for(|failed| *failed).await;
    }

    /// Refuses when the disk is nearly full: deleting and checkpointing need
    /// space too, so the last of it is not for publishers.
    fn check_space(&self) -> Result<()> {
        let (path, min_free_bytes) = &self.space;
        match rustix::fs::statvfs(path) {
            Ok(disk) if disk.f_bavail.saturating_mul(disk.f_frsize) < *min_free_bytes => {
                Err(StoreError::StorageFull)
            }
            // A file system that can't tell is no reason to refuse.
            _ => Ok(()),
        }
    }

    /// One read transaction: all its statements see the same instant.
    async fn reader(&self) -> Result<Transaction<'static, Sqlite>> {
        Ok(self.readers.begin().await?)
    }

    /// Runs `work` in a transaction of its own on the writing connection.
    async fn write<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut SqliteConnection, Timestamp) -> BoxFuture<'c, Result<T>>
            + Send
            + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.writer
            .send(Command::Exclusive(Box::new(move |connection| {
                Box::pin(async move {
                    let outcome = writer::in_transaction(connection, work).await;
                    let unknown = matches!(outcome, Err(StoreError::Unknown(_)));
                    // Nobody waiting is no error: the work is done.
                    let _ = reply.send(outcome);
                    unknown
                })
            })))
            .await?;
        answer.await.map_err(|_| writer::stopped())?
    }
}
