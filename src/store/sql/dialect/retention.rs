//! Removing what exceeds the limits.

use crate::clock::Timestamp;
use crate::store::{Result, TrimMark};

/// Retention.
pub(crate) trait RetentionStatements {
    /// Deletes up to `batch` positions whose connection ended before this; returns how many.
    async fn delete_orphaned_cursors(&mut self, before: Timestamp, batch: i64) -> Result<u64>;
    /// Deletes those of these events that are spent and in no log any more, with the record of
    /// their trimmed deliveries; returns how many. Those that another transaction has locked are
    /// kept, and the mark returns to them.
    async fn delete_spent_events(
        &mut self,
        events: &[i64],
        spent: SpentEvents,
        mark: &mut TrimMark,
    ) -> Result<u64>;
    /// Merges up to `batch` rows of `failure_counts` about earlier minutes with those of the same
    /// minute, organisation and reason; returns how many. The caller holds the lock of retention.
    async fn merge_failure_counts(&mut self, now: Timestamp, batch: i64) -> Result<u64>;
}

/// Events to delete when no log refers to them any more: those appended before an instant, without
/// an open dead letter among the last events of a gateway.
#[derive(Clone, Copy)]
pub(crate) struct SpentEvents {
    pub(crate) before: Timestamp,
    pub(crate) most_events: i64,
}
