//! Expired events.

use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, Sequence};
use crate::store::{Result, TimedKey};

/// Expiry of events whose gateway has no live connection.
pub(crate) trait ExpiryStatements {
    /// Events that have expired and may have open deliveries, after a position (expiry and event
    /// key), in that order.
    async fn due_events(
        &mut self,
        now: Timestamp,
        after: TimedKey,
        limit: i64,
    ) -> Result<Vec<DueEvent>>;
    /// Those of these events that have no open delivery.
    async fn settled_events(&mut self, events: &[i64]) -> Result<Vec<i64>>;
    /// Open deliveries of these events whose gateways have no live connection.
    async fn open_and_not_connected(
        &mut self,
        events: &[i64],
        limit: i64,
    ) -> Result<Vec<OpenDelivery>>;
    /// Removes events from the index of those that can expire.
    async fn settle_expiry(&mut self, events: &[i64]) -> Result<()>;
}

/// An event that has expired.
pub(crate) struct DueEvent {
    pub(crate) event: i64,
    pub(crate) expires_at: Timestamp,
}

/// A delivery that is neither confirmed nor dead.
pub(crate) struct OpenDelivery {
    pub(crate) gateway: GatewayKey,
    pub(crate) gateway_id: GatewayId,
    pub(crate) gateway_name: String,
    pub(crate) sequence: Sequence,
}
