//! The connection that writes. After a transaction whose end sqlx and SQLite may see differently,
//! the connection is replaced. A commit with unknown outcome ends the process: what is on disk is
//! known after the file was opened again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{Connection as _, Sqlite, SqliteConnection, Transaction};
use tokio::sync::watch;

use super::disk::{Disk, Probe, WalWatch};
use super::sql::writer::batch::Attempt;
use super::sql::writer::batch::{self, Batch};
use super::sql::writer::command::Job;
use super::sql::writer::session::{Failure, Fatal, WriterSession};
use super::{Options, connect};
use crate::event::NodeId;
use crate::store::{Result, StoreError, sqlite_code};

/// How long the writer waits for readers in a checkpoint.
const CHECKPOINT_TIMEOUT: &str = "pragma busy_timeout = 200";
const BUSY_TIMEOUT: &str = "pragma busy_timeout = 5000";

/// The writer's connection to the file.
pub(crate) struct Session {
    disk: Disk,
    wal: WalWatch,
    probe: Probe,
    path: PathBuf,
    /// `None` after a transaction whose end sqlx and SQLite may see differently.
    conn: Option<SqliteConnection>,
    /// Why the last attempt to begin a transaction failed.
    last_begin_error: watch::Sender<Option<String>>,
    /// Whether the write-ahead log may contain a payload that was purged.
    has_remains: Arc<AtomicBool>,
    /// The size of the write-ahead log that was warned of last, until it is truncated.
    warned_bytes: u64,
}

/// Why a transaction was not committed.
enum Ended {
    /// The outcome is known to SQLite and sqlx alike.
    Certain(Failure),
    /// Undone, but perhaps by SQLite itself, which sqlx does not know.
    InDoubt(StoreError),
}

impl Session {
    pub(super) fn new(conn: SqliteConnection, options: &Options, disk: Disk) -> Self {
        Self {
            disk,
            wal: WalWatch::of(options),
            probe: Probe::of(options),
            path: options.path.clone(),
            conn: Some(conn),
            last_begin_error: watch::Sender::new(None),
            // An earlier process may have ended before it truncated the log.
            has_remains: Arc::new(AtomicBool::new(true)),
            warned_bytes: 0,
        }
    }

    /// Set it to have the write-ahead log truncated, once its transactions are in the file.
    pub(super) fn has_remains(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.has_remains)
    }

    /// Truncates the write-ahead log after a purge. Its frames contain the payload, and are
    /// overwritten only when the log is used again. Tried again as long as a reader prevents it.
    async fn erase_remains(&mut self) {
        let Some(conn) = self.conn.as_mut().filter(|_| self.has_remains.load(Ordering::Relaxed))
        else {
            return;
        };
        match shrink_wal(conn).await {
            Ok(true) => self.has_remains.store(false, Ordering::Relaxed),
            Ok(false) => tracing::info!(
                "a purged payload is still in the write-ahead log, which cannot be truncated while another connection reads an old snapshot"
            ),
            Err(error) => tracing::warn!(%error, "failed to truncate the write-ahead log"),
        }
    }

    /// Why the last attempt to begin a transaction failed, if it did.
    pub(super) fn last_begin_error(&self) -> watch::Receiver<Option<String>> {
        self.last_begin_error.subscribe()
    }

    /// Tells a failing disk from a damaged file.
    pub(super) fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// Closes the connection; the next transaction opens another one.
    async fn disconnect(&mut self) {
        if let Some(conn) = self.conn.take()
            && let Err(error) = conn.close().await
        {
            tracing::warn!(%error, "failed to close the writer's connection");
        }
    }

    /// Begins a transaction. Pass it to [`end`], and the result to [`Session::conclude`].
    async fn begin(&mut self) -> Result<Transaction<'_, Sqlite>, Failure> {
        let begun = begin(&mut self.conn, &self.path).await;
        let last_begin_error = begun.as_ref().err().map(ToString::to_string);
        self.last_begin_error.send_if_modified(|now| {
            let is_new = *now != last_begin_error;
            *now = last_begin_error;
            is_new
        });
        begun.map_err(|error| match error {
            StoreError::Disk(reason) => Failure::Unknown(reason),
            error => Failure::Refused(error),
        })
    }

    /// Cleans up after a transaction that was not committed.
    async fn conclude<T>(&mut self, ended: Result<T, Ended>) -> Result<T, Failure> {
        match ended {
            Ok(done) => Ok(done),
            Err(Ended::Certain(failure)) => Err(failure),
            Err(Ended::InDoubt(error)) => {
                if matches!(error, StoreError::StorageFull) {
                    self.disk.release_ballast();
                }
                self.disconnect().await;
                Err(Failure::Refused(error))
            }
        }
    }
}

impl WriterSession for Session {
    const FAILED_COMMIT_IS_FATAL: bool = true;
    /// The driver runs each connection on a thread already.
    const NEEDS_OWN_THREAD: bool = false;

    fn storage_is_full(&self) -> bool {
        self.disk.is_nearly_full()
    }

    async fn attempt(&mut self, node: NodeId, batch: &Batch) -> Result<Attempt, Failure> {
        let probe = self.probe();
        let mut transaction = self.begin().await?;
        let done = match batch::statements(&mut transaction, node, batch).await {
            Err(error) => Err(probe.explain(error).await),
            done => done,
        };
        let ended = end(transaction, done).await;
        self.conclude(ended).await
    }

    async fn run_job(&mut self, job: Job) -> Result<(), Fatal> {
        let probe = self.probe();
        let mut transaction = match self.begin().await {
            Ok(transaction) => transaction,
            Err(failure) => {
                let (error, fatal) = failure.into_error();
                (job(Err(error)).await.finish)(Ok(()));
                return fatal;
            }
        };
        let outcome = job(Ok(&mut *transaction)).await;
        let done = match outcome.undo {
            Some(error) => Err(probe.explain(error).await),
            None => Ok(()),
        };
        let ended = end(transaction, done).await;
        match self.conclude(ended).await {
            Ok(()) => {
                (outcome.finish)(Ok(()));
                Ok(())
            }
            Err(failure) => {
                let (error, fatal) = failure.into_error();
                (outcome.finish)(Err(error));
                fatal
            }
        }
    }

    async fn maintain(&mut self) {
        self.disk.keep_ballast();
        self.erase_remains().await;
        if let (Some(bytes), Some(conn)) = (self.wal.too_large(), &mut self.conn) {
            match shrink_wal(conn).await {
                Ok(true) => {
                    self.warned_bytes = 0;
                    tracing::info!(bytes, "the write-ahead log was too large; truncated it");
                }
                // Once, and again each time that it has doubled.
                Ok(false) if bytes >= self.warned_bytes.saturating_mul(2) => {
                    self.warned_bytes = bytes;
                    tracing::warn!(
                        bytes,
                        "the write-ahead log is too large and cannot be truncated while another connection reads an old snapshot"
                    );
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(bytes, %error, "failed to truncate the write-ahead log, which is too large");
                }
            }
        }
    }

    async fn close(mut self) {
        self.disconnect().await;
    }
}

async fn begin<'a>(
    conn: &'a mut Option<SqliteConnection>,
    path: &Path,
) -> Result<Transaction<'a, Sqlite>> {
    let conn = match conn {
        Some(conn) => conn,
        none => {
            let opened = connect::connect_writer(path).await;
            let opened = opened.map_err(|error| StoreError::Unavailable(error.to_string()))?;
            none.insert(opened)
        }
    };
    Ok(conn.begin_with("begin immediate").await?)
}

/// Commits a transaction, or rolls it back if its statements failed.
async fn end<T>(transaction: Transaction<'_, Sqlite>, done: Result<T>) -> Result<T, Ended> {
    /// Primary result codes (sqlite3.h) of a COMMIT that did not write the last frame of the
    /// write-ahead log, without which the transaction does not count.
    const BUSY: i32 = 5;
    const FULL: i32 = 13;
    match done {
        Ok(done) => match transaction.commit().await {
            Ok(()) => Ok(done),
            Err(error) if matches!(sqlite_code(&error), Some(BUSY | FULL)) => {
                Err(Ended::InDoubt(error.into()))
            }
            Err(error) => Err(Ended::Certain(Failure::Unknown(error.to_string()))),
        },
        // What a failing disk has stored is unknown.
        Err(StoreError::Disk(reason)) => Err(Ended::Certain(Failure::Unknown(reason))),
        Err(error) => Err(match transaction.rollback().await {
            Ok(()) if !matches!(error, StoreError::StorageFull) => {
                Ended::Certain(Failure::of(error))
            }
            _ => Ended::InDoubt(error),
        }),
    }
}

/// Moves the write-ahead log into the file and truncates it; false if readers prevent that. Waits only
/// for readers that need nothing of the log: one with an old snapshot, such as a backup, keeps it for
/// much longer, and each wait would delay all commits.
///
/// Pragmas cannot be checked against a schema.
async fn shrink_wal(conn: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let (_, frames, moved): (i64, i64, i64) =
        sqlx::query_as("pragma wal_checkpoint(passive)").fetch_one(&mut *conn).await?;
    if moved < frames {
        return Ok(false);
    }
    sqlx::query(CHECKPOINT_TIMEOUT).execute(&mut *conn).await?;
    let done: Result<(i64, i64, i64), _> =
        sqlx::query_as("pragma wal_checkpoint(truncate)").fetch_one(&mut *conn).await;
    sqlx::query(BUSY_TIMEOUT).execute(conn).await?;
    done.map(|(is_busy, _, _)| is_busy == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::migrations;

    async fn session(directory: &Path) -> Session {
        let path = directory.join("test.db");
        let options = Options { path, ballast_bytes: 0, min_free_bytes: 0, ..Options::default() };
        connect::create(&options.path).unwrap();
        let mut conn = connect::connect(&options.path).await.unwrap();
        migrations::run(&mut conn).await.unwrap();
        Session::new(conn, &options, Disk::of(&options))
    }

    async fn insert(session: &mut Session, bytes: i64) -> Result<(), Failure> {
        let mut transaction = session.begin().await?;
        let insert =
            "insert into nodes (id, started_at, heartbeat_at) values (hex(randomblob($1)), 1, 1)";
        let done = sqlx::query(insert).bind(bytes).execute(&mut *transaction).await;
        let ended = end(transaction, done.map(drop).map_err(StoreError::from)).await;
        session.conclude(ended).await
    }

    #[tokio::test]
    async fn a_transaction_that_sqlite_rolled_back_itself_does_not_block_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut session = session(directory.path()).await;
        // No more pages than there are: the next one does not fit.
        let most = "pragma max_page_count = 1";
        sqlx::query(most).execute(session.conn.as_mut().unwrap()).await.unwrap();
        let Err(failure) = insert(&mut session, 100_000).await else { panic!("it fitted") };
        assert!(matches!(failure, Failure::Refused(StoreError::StorageFull)));
        assert!(insert(&mut session, 100_000).await.is_ok(), "room again");
        session.close().await;
    }
}
