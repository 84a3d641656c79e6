//! This node's membership: heartbeats, closing the connections of dead nodes, and noticing
//! that another node declared this one dead.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{ClockGuard, Timestamp};
use crate::dispatch::Dispatcher;
use crate::event::Reason;
use crate::jobs::{Job, Next};
use crate::metric;
use crate::store::{Heartbeat, Nodes, Reaped, StoreError};

/// The interval between heartbeats.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);
/// The maximum pause after a failed heartbeat.
const RETRY: Duration = Duration::from_secs(1);
/// How long this node's heartbeats must have succeeded before it declares others dead: if
/// the database was unavailable, their heartbeats failed, too.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// How many heartbeats in a row check the sockets after this node was declared dead: a
/// connection may not have been registered yet at the first check.
const CHECKS: u32 = 3;

/// The job that sends heartbeats.
pub(super) struct Membership {
    store: Arc<dyn Nodes>,
    dispatcher: Arc<Dispatcher>,
    is_shared: bool,
    /// Cancelled when the store has failed permanently.
    failed: CancellationToken,
    connected_since: Option<Instant>,
    /// When this node was last declared dead, as far as it knows.
    lost_at: Option<Timestamp>,
    checks_left: u32,
    clock: ClockGuard,
    newer_schema: Option<i64>,
}

impl Membership {
    pub(super) fn new(
        store: Arc<dyn Nodes>,
        dispatcher: Arc<Dispatcher>,
        is_shared: bool,
        failed: CancellationToken,
    ) -> Self {
        Self {
            store,
            dispatcher,
            is_shared,
            failed,
            connected_since: None,
            lost_at: None,
            checks_left: 0,
            clock: ClockGuard::default(),
            newer_schema: None,
        }
    }

    /// Reports a changed clock or schema.
    fn compare(&mut self, at: Timestamp, newer_schema: Option<i64>) {
        if let Some(jump) = self.clock.read(at, std::time::Instant::now()) {
            // The last heartbeats of other nodes have instants of the old clock.
            self.connected_since = None;
            metrics::counter!(metric::CLOCK_JUMPS).increment(1);
            tracing::warn!(%jump, shared = self.is_shared, "the database's clock was set");
        }
        if newer_schema != self.newer_schema {
            self.newer_schema = newer_schema;
            if let Some(migration) = newer_schema {
                tracing::warn!(
                    migration,
                    "a newer version migrated the database; this node keeps running but can't be restarted: upgrade it"
                );
            }
        }
    }

    /// Closes sockets whose connections were closed in the database when another node
    /// declared this one dead. Returns false if the query failed.
    async fn close_lost(&mut self, lost_at: Option<Timestamp>) -> bool {
        if lost_at != self.lost_at {
            self.lost_at = lost_at;
            self.checks_left = CHECKS;
            metrics::counter!(metric::NODE_DECLARED_DEAD).increment(1);
            tracing::warn!(
                lost_at = lost_at.map(tracing::field::display),
                connections = self.dispatcher.live(),
                "declared dead by another node after missing heartbeats; closing sockets whose connections were closed in the database"
            );
        }
        if self.checks_left == 0 {
            return true;
        }
        match self.dispatcher.close_lost().await {
            Ok(closed) => {
                self.checks_left -= 1;
                if closed > 0 {
                    tracing::info!(closed, "closed sockets of lost connections");
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, "failed to look up lost connections");
                false
            }
        }
    }
}

impl Job for Membership {
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Next, StoreError> {
        let Heartbeat { at, lost_at, newer_schema } = match self.store.node_heartbeat().await {
            Ok(heartbeat) => heartbeat,
            Err(error) => {
                match &error {
                    StoreError::SchemaChanged(_) => {
                        tracing::error!(%error, "this version can no longer use the database; shutting down");
                        self.failed.cancel();
                    }
                    StoreError::Disk(_) | StoreError::Corrupt(_) => {
                        tracing::error!(%error, "the store has failed; shutting down");
                        self.failed.cancel();
                    }
                    _ => {}
                }
                self.connected_since = None;
                metrics::counter!(metric::NODE_HEARTBEAT_FAILURES).increment(1);
                return Err(error);
            }
        };
        self.compare(at, newer_schema);
        let is_checked = self.close_lost(lost_at).await;
        let since = *self.connected_since.get_or_insert_with(Instant::now);
        let may_reap = !self.is_shared || since.elapsed() >= STABLE_AFTER;
        if may_reap && let Err(error) = reap(self.store.as_ref()).await {
            tracing::warn!(%error, "failed to look up dead nodes");
        }
        Ok(if is_checked { Next::Wait } else { Next::After(RETRY) })
    }

    fn max_backoff(&self) -> Duration {
        RETRY
    }
}

/// Runs before the node listens. A SQLite database has no other node, so connections
/// left open by earlier processes are closed immediately.
pub(super) async fn begin(store: &dyn Nodes, is_shared: bool) -> Result<(), StoreError> {
    if is_shared { Ok(()) } else { reap(store).await }
}

/// Closes the connections that dead nodes left open and logs each as a disconnection.
async fn reap(store: &dyn Nodes) -> Result<(), StoreError> {
    loop {
        let reaping = store.reap_dead_nodes().await?;
        let is_last = reaping.connections.is_empty();
        for node in reaping.nodes {
            metrics::counter!(metric::NODES_LOST).increment(1);
            tracing::warn!(%node, "a node is lost: its heartbeats stopped without a shutdown");
        }
        for Reaped { gateway_id, connection_id } in reaping.connections {
            tracing::info!(
                gateway = %gateway_id,
                connection = %connection_id,
                reason = %Reason::NodeLost,
                "disconnected"
            );
        }
        if is_last {
            return Ok(());
        }
    }
}
