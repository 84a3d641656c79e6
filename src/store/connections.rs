//! Live and past connections of gateways.

use std::time::Duration;

use async_trait::async_trait;

use super::{ConnectionCursor, ConnectionPage, NewConnection, Opened, Result, RevokedConnection};
use crate::event::{ConnectionId, GatewayId, GatewayKey, OrganisationKey};

/// Operations on connections. [`Ledger::record`](super::Ledger::record) records their end.
#[async_trait]
pub trait Connections: Send + Sync + 'static {
    /// Opens a connection and determines the position where it starts. `NotFound` if the gateway
    /// is deleted or disabled.
    async fn open_connection(&self, connection: NewConnection) -> Result<Opened>;
    /// The largest number of connections that a gateway had at the same time within this time,
    /// on all nodes. Considers its newest 2,000 connections.
    async fn peak_connections(&self, gateway: GatewayKey, within: Duration) -> Result<usize>;
    /// Connections of an organisation, or of one gateway, newest first: live ones, or past ones
    /// too.
    async fn connections(
        &self,
        organisation: OrganisationKey,
        gateway: Option<GatewayId>,
        live_only: bool,
        after: Option<ConnectionCursor>,
        limit: usize,
    ) -> Result<ConnectionPage>;
    /// Those of these connections of this node that are not recorded as live, because another node
    /// declared this node dead.
    async fn not_on_record(&self, connections: &[ConnectionId]) -> Result<Vec<ConnectionId>>;
    /// Live connections of this node whose token was revoked, or whose gateway was disabled or
    /// deleted, on any node.
    async fn revoked_connections(&self) -> Result<Vec<RevokedConnection>>;
}
