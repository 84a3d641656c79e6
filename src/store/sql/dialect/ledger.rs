//! Attempts and dead letters.

use crate::clock::Timestamp;
use crate::event::{EventType, GatewayKey, NodeId, Reason, Sequence};
use crate::store::receipts::Receipts;
use crate::store::{LoggedEvent, Outcome, Range, Result};

/// Rows of the ledger: attempts and dead letters, as ranges of sequences.
pub(crate) trait LedgerStatements {
    /// Inserts attempts with an outcome, `received` or `applied`. Returns the parts of their ranges that are
    /// dead letters and were not redriven.
    async fn insert_receipts(
        &mut self,
        node: NodeId,
        outcome: Outcome,
        receipts: &[Receipts],
    ) -> Result<Vec<(GatewayKey, Range)>>;
    /// Inserts failed attempts that were made without a connection.
    async fn insert_failed(
        &mut self,
        now: Timestamp,
        node: NodeId,
        reason: Reason,
        ranges: &[(GatewayKey, Range)],
    ) -> Result<()>;
    /// Inserts dead letters for ranges that contain none, and adds them to the streams' totals.
    async fn insert_dead_letters(
        &mut self,
        now: Timestamp,
        reason: Reason,
        ranges: &[(GatewayKey, Range)],
    ) -> Result<()>;
    /// The ids and types of the events of these deliveries, by gateway and sequence.
    async fn logged_events(
        &mut self,
        deliveries: &[(GatewayKey, Sequence)],
    ) -> Result<Vec<(GatewayKey, LoggedEvent)>>;
    /// The number of deliveries of these ranges by event type, each with the index of its range among
    /// them.
    async fn counted_types(
        &mut self,
        ranges: &[(GatewayKey, Range)],
    ) -> Result<Vec<(usize, EventType, u64)>>;
}
