//! Totals of connections, nodes and deliveries.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Connection;
use crate::clock::Timestamp;
use crate::event::Reason;

/// `GET /stats`: totals from the database. They survive restarts and cover all nodes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Live connections of gateways.
    pub gateway_connections: ConnectionStats,
    /// Totals of the live nodes.
    pub nodes: NodeStats,
    /// Deliveries since the beginning.
    pub event_delivery: DeliveryStats,
}

/// How to count published events. The window is the last 24 hours by default, and may contain at
/// most 2,000 buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PublishedQuery {
    /// A bucket's width: whole minutes, hours or days, at most `366d`.
    #[param(pattern = "^[0-9]+[smhd]$", default = "1h", example = "5m")]
    pub bucket: Option<String>,
}

/// `GET /stats/published`: published events over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishedSummary {
    /// Number of elements.
    #[schema(example = 1)]
    pub count: usize,
    /// Counts by bucket. Counts of 0 are omitted.
    pub list: Vec<PublishedByBucket>,
    /// Start of the window, included.
    pub from: Timestamp,
    /// End of the window, excluded.
    pub to: Timestamp,
    /// A bucket's width in seconds.
    #[schema(example = 3600)]
    pub bucket_seconds: u64,
}

/// Events published in one bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishedByBucket {
    /// Start of the bucket. Buckets are aligned to the Unix epoch.
    pub from: Timestamp,
    /// Events accepted in it, also those that no gateway matched.
    #[schema(example = 12)]
    pub count: i64,
}

/// Live connections of gateways.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionStats {
    /// The number of live connections.
    #[schema(example = 1)]
    pub total_active: usize,
    /// The connections, newest first; at most 10,000.
    pub connections: Vec<Connection>,
}

/// Totals of the live nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"live": 2, "connections": 240, "maxConnections": 20000}))]
pub struct NodeStats {
    /// The number of live nodes.
    pub live: usize,
    /// Their live gateway connections, of all organisations.
    pub connections: i64,
    /// The sum of their limits on gateway connections.
    pub max_connections: i64,
}

/// Deliveries of the organisation. Retention does not lower the totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "totalEventsSent": 12480,
    "failedDeliveries": 3,
    "deadLetters": 1,
    "pending": 0,
    "lastFailureTime": "2026-01-31T09:30:00.750000Z",
    "lastFailureReason": "gateway_processing_error",
}))]
pub struct DeliveryStats {
    /// Deliveries that gateways confirmed.
    pub total_events_sent: i64,
    /// Failed attempts, one for each delivery that an attempt covers.
    pub failed_deliveries: i64,
    /// Dead letters that were not redriven.
    pub dead_letters: i64,
    /// Deliveries that are neither confirmed nor dead letters.
    pub pending: i64,
    /// When the last attempt failed; `null` if none did.
    #[schema(required = true)]
    pub last_failure_time: Option<Timestamp>,
    /// Why the last attempt failed; `null` if none failed.
    #[schema(required = true)]
    pub last_failure_reason: Option<Reason>,
}
