//! Jobs, and the deliveries that a replay appends again.

use crate::clock::Timestamp;
use crate::event::{GatewayKey, Sequence};
use crate::store::Result;

/// Jobs, and the deliveries that a replay appends again.
pub(crate) trait BulkStatements {
    /// Until the end of the transaction, no other one stores a job, so that jobs can be counted.
    async fn lock_new_jobs(&mut self) -> Result<()>;
    /// Until the end of the transaction, no other one purges or resends an event. Taken before any
    /// stream is locked: a resend adds a gateway to those that a purge has to lock.
    async fn lock_event_actions(&mut self) -> Result<()>;
    /// Locks a job until the end of the transaction; `None` if another transaction has locked it.
    async fn lock_job(&mut self, job: i64) -> Result<Option<LockedJob>>;
    /// Deliveries of a log after a sequence and up to another one, in order, with those that were
    /// trimmed while their event is kept.
    async fn replay_rows(
        &mut self,
        gateway: GatewayKey,
        after: Sequence,
        to: Sequence,
        limit: i64,
    ) -> Result<Vec<ReplayRow>>;
}

/// A job whose row is locked.
pub(crate) struct LockedJob {
    pub(crate) state: String,
    pub(crate) position: String,
}

/// A delivery of a range that is replayed.
pub(crate) struct ReplayRow {
    pub(crate) sequence: Sequence,
    pub(crate) event: i64,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) is_purged: bool,
    /// Whether its event occurs again later in the range.
    pub(crate) repeated: bool,
}
