//! Nodes: the processes that share the database.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::clock::Timestamp;
use crate::event::NodeId;

/// How many nodes to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NodesQuery {
    /// The maximum number of nodes to list.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<usize>,
}

/// One process of the service. Values that it never stored are `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "id": "01890a5d-ac96-774b-bcce-b302099a805b",
    "status": "live",
    "host": "events-0",
    "address": "0.0.0.0:8443",
    "version": "1.0.0",
    "startedAt": "2026-01-31T08:00:00.000000Z",
    "lastHeartbeat": "2026-01-31T09:30:00.123456Z",
    "connections": 120,
    "maxConnections": 10000,
}))]
pub struct Node {
    /// Its id. A process that restarts has a new one.
    pub id: NodeId,
    /// Its state.
    pub status: NodeStatus,
    /// The host's name.
    #[schema(required = true)]
    pub host: Option<String>,
    /// The address that it listens on.
    #[schema(required = true)]
    pub address: Option<String>,
    /// The version of the program.
    #[schema(required = true)]
    pub version: Option<String>,
    /// When it started.
    pub started_at: Timestamp,
    /// When it stored its last heartbeat.
    pub last_heartbeat: Timestamp,
    /// Its live gateway connections, of all organisations.
    pub connections: i64,
    /// The limit on its gateway connections.
    #[schema(required = true)]
    pub max_connections: Option<i64>,
    /// When it shut down. Omitted unless it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub stopped_at: Option<Timestamp>,
    /// When another node last declared it dead. Omitted unless one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub lost_at: Option<Timestamp>,
}

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// Its heartbeat is recent.
    Live,
    /// It shut down cleanly.
    Stopped,
    /// Its heartbeat is overdue.
    Lost,
}

impl NodeStatus {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
        }
    }
}
