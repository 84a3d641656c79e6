//! Nodes: their heartbeats, the list of nodes, and closing the connections of dead ones.

use std::time::Duration;

use async_trait::async_trait;
use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, GatewayKey, NodeId, Reason};
use gateway_events::store::{
    AboutNode, Heartbeat, NodeInfo, NodeStatus, Nodes, Reaped, Reaping, Result,
};

use super::MemoryStore;
use super::closing::End;
use super::tables::{NodeRow, Tables};

/// A node whose last heartbeat is older than this is dead.
const NODE_TIMEOUT: Duration = Duration::from_secs(30);
/// The smallest difference between two timestamps.
const INSTANT: Duration = Duration::from_micros(1);

#[async_trait]
impl Nodes for MemoryStore {
    async fn node_heartbeat(&self) -> Result<Heartbeat> {
        self.write(|tables, now| {
            let lost_at = tables.node_heartbeat(now, self.node);
            Ok(Heartbeat { at: now, lost_at, newer_schema: None })
        })
        .await
    }

    async fn introduce_node(&self, about: AboutNode) -> Result<()> {
        self.write(|tables, _| {
            tables.introduce_node(self.node, about);
            Ok(())
        })
        .await
    }

    async fn nodes(&self, limit: usize) -> Result<Vec<NodeInfo>> {
        let now = (self.database.0.clock)();
        self.read(|tables| Ok(tables.list_nodes(now, self.node, limit))).await
    }

    async fn reap_dead_nodes(&self) -> Result<Reaping> {
        let (reaping, _) = self
            .write_then(
                |tables, now| tables.reap_dead_nodes(now, self.node),
                |(_, gateways)| self.request_sweep(gateways.iter().copied()),
            )
            .await?;
        Ok(reaping)
    }

    fn node(&self) -> NodeId {
        self.node
    }
}

impl Tables {
    pub(super) fn register_node(&mut self, now: Timestamp, node: NodeId) {
        let row = NodeRow {
            about: None,
            started_at: now,
            heartbeat_at: now,
            stopped_at: None,
            lost_at: None,
        };
        self.nodes.insert(node, row);
    }

    /// Stores a heartbeat; returns when another node last declared this one dead.
    pub(super) fn node_heartbeat(&mut self, now: Timestamp, node: NodeId) -> Option<Timestamp> {
        let row = self.nodes.get_mut(&node)?;
        row.stopped_at = None;
        row.heartbeat_at = now;
        row.lost_at
    }

    pub(super) fn introduce_node(&mut self, node: NodeId, about: AboutNode) {
        if let Some(row) = self.nodes.get_mut(&node) {
            row.about = Some(about);
        }
    }

    pub(super) fn node_stopped(&mut self, now: Timestamp, node: NodeId) {
        if let Some(row) = self.nodes.get_mut(&node) {
            row.stopped_at = Some(now);
        }
    }

    /// Live nodes, then others, newest first.
    pub(super) fn list_nodes(&self, now: Timestamp, own: NodeId, limit: usize) -> Vec<NodeInfo> {
        let info = |(id, row): (&NodeId, &NodeRow)| {
            let live = self.connections.values().filter(|it| it.node == *id && it.closed.is_none());
            let about = row.about.as_ref();
            NodeInfo {
                id: *id,
                status: match row.stopped_at {
                    Some(_) => NodeStatus::Stopped,
                    None if *id == own || row.has_recent_heartbeat(now) => NodeStatus::Live,
                    None => NodeStatus::Lost,
                },
                host: about.and_then(|about| about.host.clone()),
                address: about.map(|about| about.address.clone()),
                version: about.map(|about| about.version.clone()),
                started_at: row.started_at,
                last_heartbeat: row.heartbeat_at,
                connections: i64::try_from(live.count()).unwrap_or(i64::MAX),
                max_connections: about.map(|about| about.max_connections),
                stopped_at: row.stopped_at,
                lost_at: row.lost_at,
            }
        };
        let mut nodes: Vec<NodeInfo> = self.nodes.iter().map(info).collect();
        nodes.sort_by_key(|node| {
            (node.status != NodeStatus::Live, std::cmp::Reverse(node.started_at))
        });
        nodes.truncate(limit);
        nodes
    }

    /// Closes the connections of other nodes that have stopped, are dead, or are unknown. Returns
    /// them with their gateways.
    pub(super) fn reap_dead_nodes(
        &mut self,
        now: Timestamp,
        node: NodeId,
    ) -> Result<(Reaping, Vec<GatewayKey>)> {
        let is_alive = |of: &NodeId| {
            let row = self.nodes.get(of).filter(|row| row.stopped_at.is_none());
            row.is_some_and(|row| row.has_recent_heartbeat(now))
        };
        let left: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, row)| row.closed.is_none() && row.node != node && !is_alive(&row.node))
            .map(|(id, row)| (row.gateway, *id, row.node))
            .collect();
        let mut reaping = Reaping::default();
        for (id, row) in self.nodes.iter_mut().filter(|(id, _)| **id != node) {
            let is_known = row.lost_at.is_some_and(|at| at >= row.heartbeat_at);
            let is_owner = left.iter().any(|(_, _, owner)| owner == id);
            if row.stopped_at.is_none() && !row.has_recent_heartbeat(now) && (!is_known || is_owner)
            {
                row.lost_at = Some(now);
                if row.heartbeat_at > now.plus(NODE_TIMEOUT) {
                    row.heartbeat_at = now.minus(NODE_TIMEOUT + INSTANT);
                }
                reaping.nodes.push(*id);
            }
        }
        let mut gateways = Vec::with_capacity(left.len());
        for (gateway, connection, _) in left {
            let gateway_id = self.gateway_row(gateway)?.id;
            let end = End {
                gateway,
                connection,
                reason: Reason::NodeLost,
                detail: "",
                unconfirmed: &[],
                is_in_progress: false,
                give_up_after: None,
                alive_at: None,
                at: now,
            };
            self.close(now, &end)?;
            reaping.connections.push(Reaped { gateway_id, connection_id: connection });
            gateways.push(gateway);
        }
        Ok((reaping, gateways))
    }

    /// Those of these connections that are not recorded as live.
    pub(super) fn not_on_record(&self, asked: &[ConnectionId]) -> Vec<ConnectionId> {
        let is_live = |id| self.connections.get(id).is_some_and(|row| row.closed.is_none());
        asked.iter().filter(|id| !is_live(id)).copied().collect()
    }
}

impl NodeRow {
    fn has_recent_heartbeat(&self, now: Timestamp) -> bool {
        // A heartbeat in the future was stored before the clock was set back.
        (now.minus(NODE_TIMEOUT)..=now.plus(NODE_TIMEOUT)).contains(&self.heartbeat_at)
    }
}
