//! The writer's connection to the database: the contract that each store implements.

use super::batch::{Attempt, Batch};
use super::command::Job;
use crate::event::NodeId;
use crate::store::{Conflict, Result, StoreError};

/// The connection that the writer uses, made again when it is lost.
pub(crate) trait WriterSession {
    /// Whether a commit with unknown outcome ends the process. A file is only trusted after it
    /// was opened again; a server is trusted on another connection.
    const FAILED_COMMIT_IS_FATAL: bool;
    /// Whether the writer runs on a thread of its own. It waits for one round trip after
    /// another, which must not wait behind the requests that the runtime's threads handle.
    const NEEDS_OWN_THREAD: bool;

    /// Whether free space is below the watermark, so that appends are refused.
    fn storage_is_full(&self) -> bool;
    /// Runs a batch as one transaction.
    async fn attempt(&mut self, node: NodeId, batch: &Batch) -> Result<Attempt, Failure>;
    /// Runs a job as one transaction. It may still run when this returns.
    async fn run_job(&mut self, job: Job) -> Result<(), Fatal>;
    /// Does the maintenance that is due about once a second.
    async fn maintain(&mut self);
    /// Waits for jobs that still run, and closes the connection.
    async fn close(self);
}

/// Why a transaction was not committed.
pub(crate) enum Failure {
    /// Nothing was stored, and another transaction would fail too.
    Refused(StoreError),
    /// Nothing was stored.
    Undone(StoreError),
    /// Nothing was stored: another node inserted the same id or key. Retrying the transaction
    /// finds the existing row.
    Raced(StoreError),
    /// The commit failed, and its outcome is unknown.
    Unknown(String),
}

impl Failure {
    /// The failure of a statement whose transaction was undone.
    pub(crate) fn of(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(Conflict::Concurrent) => Self::Raced(error),
            error => Self::Undone(error),
        }
    }

    /// The error for the callers, and whether the outcome is unknown.
    pub(crate) fn into_error(self) -> (StoreError, Result<(), Fatal>) {
        match self {
            Self::Refused(error) | Self::Undone(error) | Self::Raced(error) => (error, Ok(())),
            Self::Unknown(reason) => (StoreError::Unknown(reason.clone()), Err(Fatal(reason))),
        }
    }
}

/// A write failure that requires the writer to stop. Contains the reason.
pub(crate) struct Fatal(pub(crate) String);
