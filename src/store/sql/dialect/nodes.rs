//! Clocks, locks and the liveness of nodes.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, GatewayKey, NodeId};
use crate::store::Result;

/// Clocks, locks and the liveness of nodes.
///
/// To avoid deadlocks between nodes, a transaction locks all streams that it will change, in
/// ascending key order, before it locks anything else. It skips locked rows of streams that it
/// has not locked. Inbox rows are locked before streams, under a lock of their own, and so is the
/// row of a job before the streams that its chunk changes. The head of the audit log is locked last.
pub(crate) trait NodeStatements {
    /// The current time by the database's clock.
    async fn now(&mut self) -> Result<Timestamp>;
    /// Converts `at`, read from this node's clock, to the database's clock, which shows `now`.
    fn database_time(now: Timestamp, at: Timestamp) -> Timestamp;
    /// Locks these streams until the end of the transaction.
    async fn lock_streams(&mut self, gateways: &BTreeSet<GatewayKey>) -> Result<Locked>;
    /// Those of these gateways that are not deleted.
    async fn existing_gateways(
        &mut self,
        gateways: &BTreeSet<GatewayKey>,
    ) -> Result<BTreeSet<GatewayKey>>;
    /// Locks a task until the end of the transaction; false if another node holds the lock.
    async fn try_lock_task(&mut self, task: ExclusiveTask) -> Result<bool>;
    /// A node whose last heartbeat is older than this is dead.
    fn dead_before(now: Timestamp, timeout: Duration) -> Timestamp;
    /// Open connections of nodes other than `node` that have stopped, are unknown, or have no
    /// heartbeat in this range; by gateway, up to
    /// [`ORPHANS_PER_BATCH`](super::super::nodes::ORPHANS_PER_BATCH).
    async fn connections_of_dead_nodes(
        &mut self,
        heartbeats: &RangeInclusive<Timestamp>,
        node: NodeId,
    ) -> Result<Vec<OrphanedConnection>>;
}

/// Streams that the transaction has locked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Locked {
    /// The current time by the database's clock, read after the last was locked. So later sequences
    /// of a log have later times.
    pub(crate) now: Timestamp,
    /// Whether other nodes may have changed them since they were last read, so that they must be
    /// read again.
    pub(crate) may_have_changed: bool,
}

/// Tasks that one node at a time does for all nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ExclusiveTask {
    /// Deleting what exceeds the retention limits.
    Retention,
    /// Closing the connections of dead nodes.
    Reaping,
    /// Recording expired deliveries as failed.
    Expiry,
}

/// A connection that a dead node left open.
pub(crate) struct OrphanedConnection {
    pub(crate) id: ConnectionId,
    pub(crate) gateway: GatewayKey,
    pub(crate) gateway_id: GatewayId,
}
