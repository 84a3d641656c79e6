//! What the writer works with: its connection, and how a transaction begins and
//! ends on it. What is certain to be undone is told from what nobody can know,
//! and a connection that is in doubt is replaced.

use std::path::PathBuf;

use futures_util::future::BoxFuture;
use sqlx::{Connection as _, Sqlite, SqliteConnection, Transaction};
use tokio::sync::watch;

use super::disk::{Disk, WalWatch};
use super::{Options, code_of, open};
use crate::event::NodeId;
use crate::store::{Result, StoreError};
use crate::wake::Wake;

/// How long a checkpoint may hold up the writer to wait for readers.
const CHECKPOINT: &str = "pragma busy_timeout = 200";
const USUAL: &str = "pragma busy_timeout = 5000";

/// What the writer works with.
pub(super) struct Desk {
    pub(super) node: NodeId,
    pub(super) wake: Wake,
    pub(super) disk: Disk,
    wal: WalWatch,
    path: PathBuf,
    /// `None` after a transaction of which sqlx and SQLite may think differently.
    connection: Option<SqliteConnection>,
    /// Why nothing can be written now.
    trouble: watch::Sender<Option<String>>,
}

/// How a transaction ended that did not go well.
pub(super) enum Failure {
    /// It did not begin; it would not for anybody else.
    Refused(StoreError),
    /// Nothing of it was stored.
    Undone(StoreError),
    /// The same, but perhaps by SQLite itself, of which sqlx knows nothing.
    UndoneInDoubt(StoreError),
    /// Nobody knows what was stored, and nothing may be written any more.
    Unknown(String),
}

impl Failure {
    /// What the caller is told, and whether the writer goes on.
    pub(super) fn told(self) -> (StoreError, std::result::Result<(), String>) {
        match self {
            Self::Refused(error) | Self::Undone(error) | Self::UndoneInDoubt(error) => {
                (error, Ok(()))
            }
            Self::Unknown(reason) => (StoreError::Unknown(reason.clone()), Err(reason)),
        }
    }
}

impl Desk {
    pub(super) fn new(
        connection: SqliteConnection,
        options: &Options,
        disk: Disk,
        node: NodeId,
        wake: Wake,
    ) -> Self {
        Self {
            node,
            wake,
            disk,
            wal: WalWatch::of(options),
            path: options.path.clone(),
            connection: Some(connection),
            trouble: watch::Sender::new(None),
        }
    }

    /// Why nothing can be written now, if so.
    pub(super) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.subscribe()
    }

    /// Runs `work` as one transaction.
    pub(super) async fn transact<T, F>(&mut self, work: F) -> std::result::Result<T, Failure>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>>,
    {
        let mut transaction = self.begin().await?;
        let done = work(&mut transaction).await;
        let ended = end(transaction, done).await;
        self.conclude(ended).await
    }

    /// Begins a transaction, to be given to [`end`]; what comes of that is for
    /// [`Desk::conclude`].
    pub(super) async fn begin(&mut self) -> std::result::Result<Transaction<'_, Sqlite>, Failure> {
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
    pub(super) async fn conclude<T>(
        &mut self,
        ended: std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        if let Err(Failure::UndoneInDoubt(error)) = &ended {
            if matches!(error, StoreError::StorageFull) {
                self.disk.release_ballast();
            }
            self.close().await;
        }
        ended
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
}

async fn begin<'a>(
    connection: &'a mut Option<SqliteConnection>,
    path: &std::path::Path,
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
pub(super) async fn end<T>(
    transaction: Transaction<'_, Sqlite>,
    done: Result<T>,
) -> std::result::Result<T, Failure> {
    /// Primary result codes (sqlite3.h) of a COMMIT that has written nothing
    /// that counts: the log's last frame, which makes it count, was not written.
    const BUSY: i32 = 5;
    const FULL: i32 = 13;
    match done {
        Ok(done) => match transaction.commit().await {
            Ok(()) => Ok(done),
            Err(error) if matches!(code_of(&error), Some(BUSY | FULL)) => {
                Err(Failure::UndoneInDoubt(error.into()))
            }
            Err(error) => Err(Failure::Unknown(error.to_string())),
        },
        // What a disk that fails has kept is not to be guessed.
        Err(StoreError::Disk(reason)) => Err(Failure::Unknown(reason)),
        Err(error) => Err(match transaction.rollback().await {
            Ok(()) if !matches!(error, StoreError::StorageFull) => Failure::Undone(error),
            _ => Failure::UndoneInDoubt(error),
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

    async fn desk(directory: &std::path::Path) -> Desk {
        let path = directory.join("test.db");
        let options = Options { path, ballast_bytes: 0, min_free_bytes: 0, ..Options::default() };
        open::create(&options.path).unwrap();
        let mut connection = open::connect(&options.path).await.unwrap();
        migrations::run(&mut connection).await.unwrap();
        Desk::new(connection, &options, Disk::of(&options), NodeId::new(), Wake::default())
    }

    fn insert(
        bytes: i64,
    ) -> impl for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<()>> {
        move |connection| {
            Box::pin(async move {
                let insert = "insert into nodes values (hex(randomblob($1)), 1, 1, null)";
                sqlx::query(insert).bind(bytes).execute(connection).await?;
                Ok(())
            })
        }
    }

    #[tokio::test]
    async fn what_sqlite_undid_by_itself_does_not_stop_the_next_transaction() {
        let directory = tempfile::tempdir().unwrap();
        let mut desk = desk(directory.path()).await;
        // No more pages than there are: the next one does not fit.
        let most = "pragma max_page_count = 1";
        sqlx::query(most).execute(desk.connection.as_mut().unwrap()).await.unwrap();
        let Err(failure) = desk.transact(insert(100_000)).await else { panic!("it fitted") };
        assert!(matches!(failure, Failure::UndoneInDoubt(StoreError::StorageFull)));
        assert!(desk.transact(insert(100_000)).await.is_ok(), "room again");
        desk.close().await;
    }
}
