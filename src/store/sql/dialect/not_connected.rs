//! Events for gateways without a live connection.

use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, Sequence};
use crate::store::Result;

/// The sweep for gateways with no live connection.
pub(crate) trait NotConnectedStatements {
    /// Streams whose gateway has no live connection and has rows that are neither confirmed nor
    /// recorded as `not_connected`; among all gateways, or these.
    async fn streams_not_connected(
        &mut self,
        gateways: Option<&[GatewayKey]>,
    ) -> Result<Vec<NotConnected>>;
    /// Marks streams as swept up to these heads, and adds to their totals of failures.
    async fn count_not_connected(
        &mut self,
        now: Timestamp,
        counts: &[NotConnectedCount],
    ) -> Result<()>;
}

/// A stream whose rows from `answered` to `head` were not sent on any connection.
pub(crate) struct NotConnected {
    pub(crate) gateway: GatewayKey,
    pub(crate) gateway_id: GatewayId,
    pub(crate) gateway_name: String,
    pub(crate) head: Sequence,
    /// Rows up to here are confirmed, or recorded as `not_connected` (the column `missed` of
    /// `streams`).
    pub(crate) answered: Sequence,
    /// When the gateway's last connection ended.
    pub(crate) left_at: Option<Timestamp>,
    /// Whether some of these rows are dead letters.
    pub(crate) has_dead: bool,
    /// Whether some of these rows are superseded.
    pub(crate) has_superseded: bool,
}

/// The number of rows of a stream, up to its head, that are recorded as `not_connected`.
pub(crate) struct NotConnectedCount {
    pub(crate) gateway: GatewayKey,
    pub(crate) head: Sequence,
    pub(crate) count: i64,
}
