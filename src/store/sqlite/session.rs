//! The one connection that writes, and how a transaction begins and ends on it.
//! What is certain to be undone is told from what nobody can know, and a
//! connection that is in doubt is replaced. A write that fails ends it all:
//! only a restart can tell what is on disk.

use std::path::{Path, PathBuf};

use sqlx::{Connection as _, Sqlite, SqliteConnection, Transaction};
use tokio::sync::watch;

use super::disk::{Disk, Probe, WalWatch};
use super::sql::batch::{self, Attempted, Batch, Failure};
use super::sql::writer::Job;
use super::{Options, open};
use crate::event::NodeId;
use crate::store::{Result, StoreError, sqlite_code};

/// How long a checkpoint may hold up the writer to wait for readers.
const CHECKPOINT: &str = "pragma busy_timeout = 200";
const USUAL: &str = "pragma busy_timeout = 5000";

/// The writer's hold on the file.
pub(super) struct Session {
    disk: Disk,
    wal: WalWatch,
    probe: Probe,
    path: PathBuf,
    /// `None` after a transaction of which sqlx and SQLite may think differently.
    connection: Option<SqliteConnection>,
    /// Why nothing can be written now.
    trouble: watch::Sender<Option<String>>,
}

/// How a transaction ended that did not go well.
enum Ended {
    /// As everybody knows.
    Surely(Failure),
    /// Undone, but perhaps by SQLite itself, of which sqlx knows nothing.
    InDoubt(StoreError),
}

impl Session {
    pub(super) const A_FAILED_COMMIT_IS_THE_END: bool = true;
    /// The driver has one already.
    pub(super) const WANTS_A_THREAD: bool = false;

    pub(super) fn new(connection: SqliteConnection, options: &Options, disk: Disk) -> Self {
        Self {
            disk,
            wal: WalWatch::of(options),
            probe: Probe::of(options),
            path: options.path.clone(),
            connection: Some(connection),
            trouble: watch::Sender::new(None),
        }
    }

    /// Why nothing can be written now, if the last try has shown that.
    pub(super) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.subscribe()
    }

    /// Tells a disk that fails from a damaged file.
    pub(super) fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// Whether free space has fallen below the watermark.
    pub(super) fn storage_is_full(&self) -> bool {
        self.disk.is_nearly_full()
    }

    /// Runs a batch as one transaction.
    pub(super) async fn attempt(
        &mut self,
        node: NodeId,
        batch: &Batch,
    ) -> Result<Attempted, Failure> {
        let probe = self.probe();
        let mut transaction = self.begin().await?;
        let done = match batch::statements(&mut transaction, node, batch).await {
            Err(error) => Err(probe.explain(error).await),
            done => done,
        };
        let ended = end(transaction, done).await;
        self.conclude(ended).await
    }

    /// Runs a job as a transaction; an error says that nothing may be written any more.
    pub(super) async fn alone(&mut self, job: Job) -> Result<(), String> {
        let probe = self.probe();
        let mut transaction = match self.begin().await {
            Ok(transaction) => transaction,
            Err(failure) => {
                let (error, going_on) = failure.told();
                (job(Err(error)).await.finish)(Ok(()));
                return going_on;
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
                let (error, going_on) = failure.told();
                (outcome.finish)(Err(error));
                going_on
            }
        }
    }

    /// Closes the connection; the next transaction opens another.
    pub(super) async fn close(&mut self) {
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the database's writer did not close in good order");
        }
    }

    /// What is due now and then.
    pub(super) async fn upkeep(&mut self) {
        self.disk.keep_ballast();
        if let (Some(bytes), Some(connection)) = (self.wal.too_large(), &mut self.connection) {
            match shrink_wal(connection).await {
                Ok(true) => {
                    tracing::info!(bytes, "the write-ahead log was too large; it is empty now");
                }
                Ok(false) => tracing::warn!(
                    bytes,
                    "the write-ahead log is too large, and somebody who reads an old moment of the database keeps it from shrinking"
                ),
                Err(error) => {
                    tracing::warn!(bytes, %error, "the write-ahead log is too large and can't be made smaller");
                }
            }
        }
    }

    /// Begins a transaction, to be given to [`end`]; what comes of that is for
    /// [`Session::conclude`].
    async fn begin(&mut self) -> Result<Transaction<'_, Sqlite>, Failure> {
        let begun = begin(&mut self.connection, &self.path).await;
        let trouble = begun.as_ref().err().map(ToString::to_string);
        self.trouble.send_if_modified(|now| {
            let is_new = *now != trouble;
            *now = trouble;
            is_new
        });
        begun.map_err(|error| match error {
            StoreError::Disk(reason) => Failure::Unknown(reason),
            error => Failure::Refused(error),
        })
    }

    /// Clears up after a transaction that did not go well.
    async fn conclude<T>(&mut self, ended: Result<T, Ended>) -> Result<T, Failure> {
        match ended {
            Ok(done) => Ok(done),
            Err(Ended::Surely(failure)) => Err(failure),
            Err(Ended::InDoubt(error)) => {
                if matches!(error, StoreError::StorageFull) {
                    self.disk.release_ballast();
                }
                self.close().await;
                Err(Failure::Refused(error))
            }
        }
    }
}

async fn begin<'a>(
    connection: &'a mut Option<SqliteConnection>,
    path: &Path,
) -> Result<Transaction<'a, Sqlite>> {
    let connection = match connection {
        Some(connection) => connection,
        none => {
            let opened = open::connect(path).await;
            let opened = opened.map_err(|error| StoreError::Unavailable(error.to_string()))?;
            none.insert(opened)
        }
    };
    Ok(connection.begin_with("begin immediate").await?)
}

/// Commits what was done, or undoes it.
async fn end<T>(transaction: Transaction<'_, Sqlite>, done: Result<T>) -> Result<T, Ended> {
    /// Primary result codes (sqlite3.h) of a COMMIT that has written nothing
    /// that counts: the log's last frame, which makes it count, was not written.
    const BUSY: i32 = 5;
    const FULL: i32 = 13;
    match done {
        Ok(done) => match transaction.commit().await {
            Ok(()) => Ok(done),
            Err(error) if matches!(sqlite_code(&error), Some(BUSY | FULL)) => {
                Err(Ended::InDoubt(error.into()))
            }
            Err(error) => Err(Ended::Surely(Failure::Unknown(error.to_string()))),
        },
        // What a disk that fails has kept is not to be guessed.
        Err(StoreError::Disk(reason)) => Err(Ended::Surely(Failure::Unknown(reason))),
        Err(error) => Err(match transaction.rollback().await {
            Ok(()) if !matches!(error, StoreError::StorageFull) => {
                Ended::Surely(Failure::of(error))
            }
            _ => Ended::InDoubt(error),
        }),
    }
}

/// Moves all of the log into the file and empties it; false if readers are in
/// the way. Pragmas are no statements that can be checked against a schema.
async fn shrink_wal(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    sqlx::query(CHECKPOINT).execute(&mut *connection).await?;
    let done: Result<(i64, i64, i64), _> =
        sqlx::query_as("pragma wal_checkpoint(truncate)").fetch_one(&mut *connection).await;
    sqlx::query(USUAL).execute(connection).await?;
    done.map(|(is_busy, _, _)| is_busy == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::migrations;

    async fn session(directory: &Path) -> Session {
        let path = directory.join("test.db");
        let options = Options { path, ballast_bytes: 0, min_free_bytes: 0, ..Options::default() };
        open::create(&options.path).unwrap();
        let mut connection = open::connect(&options.path).await.unwrap();
        migrations::run(&mut connection).await.unwrap();
        Session::new(connection, &options, Disk::of(&options))
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
    async fn what_sqlite_undid_by_itself_does_not_stop_the_next_transaction() {
        let directory = tempfile::tempdir().unwrap();
        let mut session = session(directory.path()).await;
        // No more pages than there are: the next one does not fit.
        let most = "pragma max_page_count = 1";
        sqlx::query(most).execute(session.connection.as_mut().unwrap()).await.unwrap();
        let Err(failure) = insert(&mut session, 100_000).await else { panic!("it fitted") };
        assert!(matches!(failure, Failure::Refused(StoreError::StorageFull)));
        assert!(insert(&mut session, 100_000).await.is_ok(), "room again");
        session.close().await;
    }
}
