//! Live and past connections.

use std::collections::HashMap;

use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, NodeId, OrganisationKey, Reason, Sequence};
use crate::store::Result;

/// Live and past connections.
pub(crate) trait ConnectionStatements {
    /// Those of these connections that belong to an organisation, newest first.
    async fn connection_details(
        &mut self,
        organisation: OrganisationKey,
        ids: &[ConnectionId],
    ) -> Result<Vec<ConnectionRow>>;
    /// Those of these connections that are closed or unknown.
    async fn not_on_record(&mut self, ids: &[ConnectionId]) -> Result<Vec<ConnectionId>>;
    /// Stores when each connection last showed activity.
    async fn record_heartbeats(&mut self, at: &HashMap<ConnectionId, Timestamp>) -> Result<()>;
}

/// A connection with its details.
pub(crate) struct ConnectionRow {
    pub(crate) id: ConnectionId,
    pub(crate) gateway_id: GatewayId,
    pub(crate) name: String,
    pub(crate) transport: String,
    pub(crate) node: NodeId,
    pub(crate) remote_address: String,
    pub(crate) connected_at: Timestamp,
    pub(crate) last_heartbeat_at: Timestamp,
    pub(crate) closed_at: Option<Timestamp>,
    pub(crate) close_reason: Option<Reason>,
    pub(crate) confirmed: Sequence,
}
