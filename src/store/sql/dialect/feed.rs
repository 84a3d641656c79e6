//! Reads of the feed.

use std::ops::RangeInclusive;

use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, EventId, EventType, GatewayId, NodeId, OrganisationKey, Reason,
    Sequence,
};
use crate::store::{FeedDetails, Outcome, Result};

/// Rows of the feed's tables with keys in spans, by ascending key, at most `limit` of each span.
pub(crate) trait FeedStatements {
    /// Whether a row may become visible after one with a higher key.
    const FEED_HAS_GAPS: bool;

    /// Events.
    async fn feed_events(
        &mut self,
        spans: &[RangeInclusive<i64>],
        limit: i64,
        details: &FeedDetails,
    ) -> Result<Vec<EventRow>>;
    /// Attempts.
    async fn feed_attempts(
        &mut self,
        spans: &[RangeInclusive<i64>],
        limit: i64,
        details: &FeedDetails,
    ) -> Result<Vec<AttemptRow>>;
    /// Changes of connections.
    async fn feed_connections(
        &mut self,
        spans: &[RangeInclusive<i64>],
        limit: i64,
    ) -> Result<Vec<ConnectionRow>>;
}

pub(crate) struct EventRow {
    pub(crate) key: i64,
    pub(crate) organisation: OrganisationKey,
    pub(crate) at: Timestamp,
    pub(crate) id: EventId,
    pub(crate) event_type: EventType,
    pub(crate) correlation_id: CorrelationId,
    pub(crate) user_id: Option<String>,
    pub(crate) matched: Option<i64>,
    /// Ids of gateways, separated by commas.
    pub(crate) gateways: Option<String>,
}

pub(crate) struct AttemptRow {
    pub(crate) key: i64,
    pub(crate) organisation: OrganisationKey,
    pub(crate) at: Timestamp,
    pub(crate) started_at: Timestamp,
    pub(crate) gateway_id: GatewayId,
    pub(crate) gateway_name: String,
    pub(crate) first: Sequence,
    pub(crate) last: Sequence,
    pub(crate) outcome: Outcome,
    pub(crate) reason: Option<Reason>,
    pub(crate) detail: Option<String>,
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) event_id: Option<EventId>,
    /// Event types, separated by commas.
    pub(crate) types: Option<String>,
}

pub(crate) struct ConnectionRow {
    pub(crate) key: i64,
    pub(crate) organisation: OrganisationKey,
    pub(crate) at: Timestamp,
    pub(crate) gateway_id: GatewayId,
    pub(crate) gateway_name: String,
    pub(crate) connection: ConnectionId,
    pub(crate) closed: bool,
    pub(crate) transport: Option<String>,
    pub(crate) remote_address: Option<String>,
    pub(crate) node: Option<NodeId>,
    pub(crate) reason: Option<Reason>,
}
