//! Nodes: the processes that use the database.

use async_trait::async_trait;

use super::Reaped;
use super::Result;
use crate::clock::Timestamp;
use crate::event::NodeId;

/// Operations on the membership of nodes: registration, heartbeats, and nodes that are declared dead.
#[async_trait]
pub trait Nodes: Send + Sync + 'static {
    /// The node id of this process.
    fn node(&self) -> NodeId;
    /// Stores a heartbeat of this node.
    async fn node_heartbeat(&self) -> Result<Heartbeat>;
    /// Stores this node's description of itself.
    async fn introduce_node(&self, about: AboutNode) -> Result<()>;
    /// Nodes that use the database: live ones first, then the others, newest first.
    async fn nodes(&self, limit: usize) -> Result<Vec<NodeInfo>>;
    /// Closes a batch of the connections that dead nodes left open (`node_lost`). Call it again
    /// until it finds none.
    async fn reap_dead_nodes(&self) -> Result<Reaping>;
}

/// What a node stores about itself once it accepts connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AboutNode {
    /// The version of the program.
    pub version: String,
    /// The host's name, if known.
    pub host: Option<String>,
    /// The address that it listens on.
    pub address: String,
    /// The limit on its connections.
    pub max_connections: i64,
}

/// A stored heartbeat of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// When it was stored, by the database's clock.
    pub at: Timestamp,
    /// When another node last declared this one dead, if ever.
    pub lost_at: Option<Timestamp>,
    /// The schema's newest migration, if this version does not know it.
    pub newer_schema: Option<i64>,
}

/// A node's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeStatus {
    /// Its last heartbeat is recent.
    Live,
    /// It shut down cleanly.
    Stopped,
    /// Its last heartbeat is older than the timeout.
    Lost,
}

/// A node as operators see it. Values that it never stored are `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its id. A process that restarts has a new one.
    pub id: NodeId,
    /// Its state.
    pub status: NodeStatus,
    /// The host's name.
    pub host: Option<String>,
    /// The address that it listens on.
    pub address: Option<String>,
    /// The version of the program.
    pub version: Option<String>,
    /// When it started.
    pub started_at: Timestamp,
    /// When it stored its last heartbeat.
    pub last_heartbeat: Timestamp,
    /// Its live connections, of all organisations.
    pub connections: i64,
    /// The limit on its connections.
    pub max_connections: Option<i64>,
    /// When it shut down cleanly.
    pub stopped_at: Option<Timestamp>,
    /// When another node last closed the connections that it had left open.
    pub lost_at: Option<Timestamp>,
}

/// What a search for dead nodes found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaping {
    /// Nodes that were newly declared lost.
    pub nodes: Vec<NodeId>,
    /// Connections that dead nodes left open, and that are now closed.
    pub connections: Vec<Reaped>,
}
