//! The one connection that writes. A commit that fails ends it: only a restart
//! can tell what is on disk.

use std::path::PathBuf;

use sqlx::{Connection as _, SqliteConnection};

use super::open;
use super::sql::batch::{self, Batch, Done, Failure};
use super::sql::writer::Job;
use crate::event::NodeId;
use crate::store::StoreError;

/// The writer's hold on the file.
pub(super) struct Session {
    connection: SqliteConnection,
    path: PathBuf,
    min_free_bytes: u64,
}

impl Session {
    pub(super) const A_FAILED_COMMIT_IS_THE_END: bool = true;

    pub(super) const fn new(
        connection: SqliteConnection,
        path: PathBuf,
        min_free_bytes: u64,
    ) -> Self {
        Self { connection, path, min_free_bytes }
    }

    /// Whether free space has fallen below the watermark.
    pub(super) fn storage_is_full(&self) -> bool {
        open::free_bytes(&self.path).is_some_and(|free| free < self.min_free_bytes)
    }

    /// Whether there is no use in trying the next command.
    #[expect(clippy::unused_self, reason = "a database beyond a network can be away")]
    pub(super) const fn is_away(&self) -> bool {
        false
    }

    /// Runs a batch as one transaction.
    pub(super) async fn attempt(&mut self, node: NodeId, batch: &Batch) -> Result<Done, Failure> {
        let begun = self.connection.begin_with("begin immediate").await;
        let mut transaction = begun.map_err(StoreError::from)?;
        let done = batch::statements(&mut transaction, node, batch).await?;
        match transaction.commit().await {
            Ok(()) => Ok(done),
            Err(error) => Err(Failure::Unknown(error.to_string())),
        }
    }

    /// Runs a job as a transaction; an error says that its commit failed.
    pub(super) async fn alone(&mut self, job: Job) -> Result<(), String> {
        let mut transaction = match self.connection.begin_with("begin immediate").await {
            Ok(transaction) => transaction,
            Err(error) => {
                (job(Err(error.into())).await.finish)(Ok(()));
                return Ok(());
            }
        };
        let outcome = job(Ok(&mut *transaction)).await;
        if !outcome.keep {
            if let Err(error) = transaction.rollback().await {
                tracing::warn!(%error, "a transaction could not be undone at once");
            }
            (outcome.finish)(Ok(()));
            return Ok(());
        }
        match transaction.commit().await {
            Ok(()) => {
                (outcome.finish)(Ok(()));
                Ok(())
            }
            Err(error) => {
                (outcome.finish)(Err(StoreError::Unknown(error.to_string())));
                Err(error.to_string())
            }
        }
    }

    pub(super) async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "the database's writer did not close in good order");
        }
    }
}
