//! The processes that share the database.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::clock::Timestamp;
use crate::event::NodeId;

/// How many nodes to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NodesQuery {
    /// The most nodes to list.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<usize>,
}

/// One process of the service. What it has never said of itself is `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its identity; a process that starts again has another one.
    pub id: NodeId,
    /// Where it stands.
    pub status: NodeStatus,
    /// The machine's name.
    #[schema(required = true)]
    pub host: Option<String>,
    /// The address that it listens on.
    #[schema(required = true, example = "0.0.0.0:8443")]
    pub address: Option<String>,
    /// The version of the program.
    #[schema(required = true)]
    pub version: Option<String>,
    /// When it started.
    pub started_at: Timestamp,
    /// Its last heartbeat.
    pub last_heartbeat: Timestamp,
    /// Its live gateway connections, of all organisations.
    pub connections: i64,
    /// The most gateway connections that it takes.
    #[schema(required = true)]
    pub max_connections: Option<i64>,
    /// When it shut down. Left out unless it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub stopped_at: Option<Timestamp>,
    /// When another node last declared it dead. Left out unless one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub lost_at: Option<Timestamp>,
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// Its heartbeat is recent.
    Live,
    /// It shut down in good order.
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
