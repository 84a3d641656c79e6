//! The embedded store: one file, one server, one connection that writes. Reads
//! see one moment of the file and never wait for the writer; writes are
//! commands to it. Nothing here holds a statement open across a caller's await.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::{Sqlite, SqlitePool, Transaction};

use super::StoreError;
use crate::clock::Timestamp;
use crate::event::NodeId;
use crate::wake::Wake;

mod append;
mod batch;
mod closing;
mod connections;
mod deliveries;
mod desk;
mod disk;
mod event_types;
mod gateways;
mod history;
mod inbox;
mod ledger;
mod migrations;
mod open;
mod options;
mod positions;
mod record;
mod recovery;
mod redrive;
mod repeats;
mod retention;
mod stream;
mod sweep;
mod targets;
mod tokens;
mod verbs;
pub mod verify;
mod writer;

pub use migrations::{migrate, pending_migrations};
pub use open::OpenError;
pub use options::Options;
pub use recovery::add_admin_token;

/// The longest that a moment of the file may be read: while it is, the
/// write-ahead log grows. Whoever asked has given up by then.
const LONGEST_READ: Duration = Duration::from_secs(25);
/// Steps of SQLite's machine between two looks at the clock.
const STEPS: i32 = 10_000;

/// The log and the ledger in a SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    node: NodeId,
    wake: Wake,
    options: Options,
    readers: SqlitePool,
    writer: writer::Writer,
    inbox: inbox::Inbox,
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
        let readers = open::readers(options).await?;
        let writer = writer::Writer::start(
            desk::Desk::new(connection, options, disk, node, wake.clone()),
            options.queue_events,
        );
        let inbox = inbox::Inbox::new(options);
        let options = options.clone();
        let store = Arc::new(Self { node, wake, options, readers, writer, inbox, _lock: lock });
        store.begin().await?;
        Ok(store)
    }

    /// Ends when a commit has failed: the process should end with an error, and
    /// a restart finds the truth.
    pub async fn failure(&self) {
        let mut failure = self.writer.failure();
        if failure.wait_for(Option::is_some).await.is_err() {
            // A writer that stopped in good order fails no more.
            std::future::pending::<()>().await;
        }
    }

    /// A moment of the file, to read from. It ends when it is dropped.
    async fn reading(&self) -> super::Result<Transaction<'static, Sqlite>> {
        self.reading_until(Instant::now() + LONGEST_READ).await
    }

    /// The same with another deadline, at which its statement is interrupted.
    async fn reading_until(
        &self,
        deadline: Instant,
    ) -> super::Result<Transaction<'static, Sqlite>> {
        let mut moment = self.readers.begin().await?;
        let mut handle = moment.lock_handle().await?;
        handle.set_progress_handler(STEPS, move || Instant::now() < deadline);
        drop(handle);
        Ok(moment)
    }
}

/// The primary result code (sqlite3.h) of what SQLite says.
fn code_of(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?.parse::<i32>().ok()?;
    Some(code & 0xFF)
}

/// What SQLite says, as the callers need it.
impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        /// Primary result codes (sqlite3.h). Locked, busy, read-only and the
        /// like may pass, and are not listed.
        const IO: i32 = 10;
        const CORRUPT: i32 = 11;
        const FULL: i32 = 13;
        const CONSTRAINT: i32 = 19;
        const NOT_A_DATABASE: i32 = 26;
        let text = error.to_string();
        match &error {
            sqlx::Error::Database(_) => match code_of(&error) {
                Some(IO) => Self::Disk(text),
                Some(FULL) => Self::StorageFull,
                // What the schema forbids is forbidden at the next try, too.
                Some(CORRUPT | CONSTRAINT | NOT_A_DATABASE) => Self::Corrupt(text),
                _ => Self::Unavailable(text),
            },
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::RowNotFound => Self::Corrupt(text),
            _ => Self::Unavailable(text),
        }
    }
}

/// Rows as one parameter, for SQLite's `json_each`.
fn json<T: Serialize + ?Sized>(rows: &T) -> super::Result<String> {
    serde_json::to_string(rows)
        .map_err(|error| StoreError::Unavailable(format!("rows can't be passed on: {error}")))
}

fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store as _;

    #[tokio::test]
    async fn a_reader_that_takes_too_long_is_interrupted_and_the_next_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let options = Options { path, readers: 1, ballast_bytes: 0, ..Options::default() };
        let store = SqliteStore::open(&options, NodeId::new(), Wake::default()).await.unwrap();
        let soon = Instant::now() + Duration::from_millis(50);
        let mut moment = store.reading_until(soon).await.unwrap();
        let endless =
            "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n";
        let reading = sqlx::query_scalar::<_, i64>(endless).fetch_one(&mut *moment);
        let reading = tokio::time::timeout(Duration::from_secs(20), reading).await;
        let error = StoreError::from(reading.expect("it is interrupted").unwrap_err());
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        drop(moment);
        store.organisation("default").await.unwrap();
        store.close().await;
    }

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
