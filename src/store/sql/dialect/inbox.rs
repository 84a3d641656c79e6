//! The inbox and its rejected rows.

use crate::clock::Timestamp;
use crate::event::OrganisationKey;
use crate::store::{
    InboxContent, RejectedContent, RejectedFilter, RejectedRow, Rejection, Result, Unreadable,
};

/// The inbox, which other programs write to.
pub(crate) trait InboxStatements {
    /// What the column of a rejected row's gateway holds.
    type RejectedGatewayId;
    /// What the column of a rejected row's expiry holds.
    type RejectedExpiry;

    /// A gateway's id as its column holds it; `None` if it can't.
    fn rejected_gateway_id(text: &str) -> Option<Self::RejectedGatewayId>;
    /// An expiry as its column holds it; `None` if it can't.
    fn rejected_expiry(text: &str) -> Option<Self::RejectedExpiry>;
    /// Locks the draining of the inbox until the end of the transaction.
    async fn lock_inbox(&mut self) -> Result<()>;
    /// Those of these rows that exist, locked; excludes rows that another program is deleting.
    async fn lock_inbox_rows(&mut self, ids: &[i64]) -> Result<Vec<i64>>;
    /// Copies rows to the rejected ones, unchanged.
    async fn reject_inbox_rows(
        &mut self,
        now: Timestamp,
        rejected: &[(i64, Rejection)],
    ) -> Result<()>;
    /// Deletes rows.
    async fn delete_inbox_rows(&mut self, ids: &[i64]) -> Result<()>;
    /// The sizes of the oldest rows, by id; reads no text.
    async fn inbox_sizes(&mut self, limit: i64) -> Result<Vec<RowSize>>;
    /// The columns of these rows, by id.
    async fn inbox_contents(
        &mut self,
        ids: &[i64],
    ) -> Result<Vec<(i64, Result<InboxContent, Unreadable>)>>;
    /// Rejected rows, newest first, with columns cut at 4,096 characters.
    async fn rejected_rows(
        &mut self,
        organisation: OrganisationKey,
        id: Option<i64>,
        filter: &RejectedFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<RejectedRow>>;
    /// The first `max_chars` characters of the payload of a rejected row.
    async fn rejected_payload(&mut self, id: i64, max_chars: i32) -> Result<String>;
    /// All columns of a rejected row; an empty payload if it is larger than `max_bytes`.
    async fn rejected_content(
        &mut self,
        organisation: OrganisationKey,
        id: i64,
        max_bytes: i64,
    ) -> Result<Option<RejectedContent>>;
    /// The oldest rejected rows that match and were not retried, locked.
    async fn retryable_rows(
        &mut self,
        organisation: OrganisationKey,
        id: Option<i64>,
        filter: &RejectedFilter,
        limit: i64,
    ) -> Result<Vec<i64>>;
    /// Inserts rejected rows into the inbox again and marks them as retried; returns how many.
    async fn retry_rejected_rows(&mut self, now: Timestamp, ids: &[i64]) -> Result<u64>;
    /// Rows that were drained or rejected, but are still in the inbox: a sign of damage.
    async fn drained_rows_still_there(&mut self, limit: i64) -> Result<Vec<UndrainedRow>>;
}

/// The size of a row, without its content.
pub(crate) struct RowSize {
    pub(crate) id: i64,
    pub(crate) inserted_at: crate::clock::Timestamp,
    pub(crate) bytes: i64,
}

/// A row that should have been removed from the inbox.
pub(crate) struct UndrainedRow {
    pub(crate) id: i64,
    pub(crate) event_type: Vec<u8>,
}
