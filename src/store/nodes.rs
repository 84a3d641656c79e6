//! The processes that share a database, or the one that has it.

use async_trait::async_trait;

use super::Reaped;
use super::Result;
use crate::clock::Timestamp;
use crate::event::NodeId;

/// Operations on nodes.
#[async_trait]
pub trait Nodes: Send + Sync + 'static {
    /// The node that this process is.
    fn node(&self) -> NodeId;
    /// Stores a heartbeat of this node.
    async fn node_heartbeat(&self) -> Result<Heartbeat>;
    /// Stores what this node says of itself.
    async fn introduce_node(&self, about: AboutNode) -> Result<()>;
    /// Nodes that use the database: live ones first, then those that ended, newest first.
    async fn nodes(&self, limit: usize) -> Result<Vec<NodeInfo>>;
    /// Closes a batch of the connections that dead nodes left open (`node_lost`). Call it again
    /// until it finds none.
    async fn reap_dead_nodes(&self) -> Result<Reaping>;
}

/// What a node says of itself once it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AboutNode {
    /// The version of the program.
    pub version: String,
    /// The machine's name, if it has one.
    pub host: Option<String>,
    /// The address that it listens on.
    pub address: String,
    /// The most connections that it takes.
    pub max_connections: i64,
}

/// A node's sign of life, as it was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// By the database's clock.
    pub at: Timestamp,
    /// When another node last declared this one dead, if one ever did.
    pub lost_at: Option<Timestamp>,
    /// The schema's newest migration, if it is newer than those that this version knows.
    pub newer_schema: Option<i64>,
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeStatus {
    /// It has said so lately.
    Live,
    /// It ended in good order.
    Stopped,
    /// It has not been heard of for too long.
    Lost,
}

/// A node as operators see it. What it never said is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its identity; a process that starts again has another one.
    pub id: NodeId,
    /// Where it stands.
    pub status: NodeStatus,
    /// The machine's name.
    pub host: Option<String>,
    /// The address that it listens on.
    pub address: Option<String>,
    /// The version of the program.
    pub version: Option<String>,
    /// When it started.
    pub started_at: Timestamp,
    /// When it last said that it lives.
    pub last_heartbeat: Timestamp,
    /// Its live connections, of all organisations.
    pub connections: i64,
    /// The most that it takes.
    pub max_connections: Option<i64>,
    /// When it ended in good order.
    pub stopped_at: Option<Timestamp>,
    /// When another node last closed what it had left open.
    pub lost_at: Option<Timestamp>,
}

/// What was found out about dead nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaping {
    /// Nodes that are lost, and were not known to be.
    pub nodes: Vec<NodeId>,
    /// The connections that dead nodes left open, and that are closed now.
    pub connections: Vec<Reaped>,
}
