//! A node among others: it says that it lives, closes what dead ones left open,
//! and notices that it was taken for dead itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{ClockGuard, Timestamp};
use crate::dispatch::Dispatcher;
use crate::event::Reason;
use crate::jobs::{Job, Next};
use crate::store::{Heartbeat, Reaped, Store, StoreError};

/// How often a node says that it lives, and again when it could not.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);
/// A node that has just got in touch with a shared database judges nobody: if
/// the database was away, the others could not say either that they live.
const IN_TOUCH: Duration = Duration::from_secs(10);
/// Heartbeats after which its sockets are looked over when a node was taken for
/// dead: one may have been on its way into the registry at the first.
const LOOKS: u32 = 3;

/// What a node knows of its own standing.
pub(super) struct Alive {
    store: Arc<dyn Store>,
    dispatcher: Arc<Dispatcher>,
    is_shared: bool,
    /// Cancelled when the store has failed for good.
    failed: CancellationToken,
    in_touch_since: Option<Instant>,
    /// When it was last taken for dead, as far as it knows.
    lost_at: Option<Timestamp>,
    looks_left: u32,
    clock: ClockGuard,
    newer_schema: Option<i64>,
}

impl Alive {
    pub(super) fn new(
        store: Arc<dyn Store>,
        dispatcher: Arc<Dispatcher>,
        is_shared: bool,
        failed: CancellationToken,
    ) -> Self {
        Self {
            store,
            dispatcher,
            is_shared,
            failed,
            in_touch_since: None,
            lost_at: None,
            looks_left: 0,
            clock: ClockGuard::default(),
            newer_schema: None,
        }
    }

    /// Compares what a heartbeat found with what the ones before it found.
    fn compare(&mut self, at: Timestamp, newer_schema: Option<i64>) {
        if let Some(jump) = self.clock.read(at, std::time::Instant::now()) {
            // Other nodes' heartbeats are of another time until they store new ones.
            self.in_touch_since = None;
            metrics::counter!("gateway_events_clock_jumps_total").increment(1);
            tracing::warn!(%jump, shared = self.is_shared, "the database's clock was set");
        }
        if newer_schema != self.newer_schema {
            self.newer_schema = newer_schema;
            if let Some(migration) = newer_schema {
                tracing::warn!(
                    migration,
                    "a newer version migrated the database; this node goes on, but can't be started again: replace it"
                );
            }
        }
    }

    /// Closes the sockets that this node has lost on record; false if they could
    /// not be looked for.
    async fn look_over(&mut self, lost_at: Option<Timestamp>) -> bool {
        if lost_at != self.lost_at {
            self.lost_at = lost_at;
            self.looks_left = LOOKS;
            metrics::counter!("gateway_events_node_taken_for_dead_total").increment(1);
            tracing::warn!(
                lost_at = lost_at.map(tracing::field::display),
                connections = self.dispatcher.live(),
                "this node was not heard of for too long, and another one took it for dead; sockets whose connections are closed on record are closed"
            );
        }
        if self.looks_left == 0 {
            return true;
        }
        match self.dispatcher.close_lost().await {
            Ok(closed) => {
                self.looks_left -= 1;
                if closed > 0 {
                    tracing::info!(closed, "sockets whose connections were lost are closed");
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the lost connections could not be looked for");
                false
            }
        }
    }
}

impl Job for Alive {
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Next, StoreError> {
        let Heartbeat { at, lost_at, newer_schema } = match self.store.node_heartbeat().await {
            Ok(heartbeat) => heartbeat,
            Err(error) => {
                match &error {
                    StoreError::SchemaChanged(_) => {
                        tracing::error!(%error, "this version can't use the database any more; ending");
                        self.failed.cancel();
                    }
                    StoreError::Disk(_) | StoreError::Corrupt(_) => {
                        tracing::error!(%error, "the store has failed; ending");
                        self.failed.cancel();
                    }
                    _ => {}
                }
                self.in_touch_since = None;
                metrics::counter!("gateway_events_node_heartbeat_failures_total").increment(1);
                return Err(error);
            }
        };
        self.compare(at, newer_schema);
        let looked_over = self.look_over(lost_at).await;
        let since = *self.in_touch_since.get_or_insert_with(Instant::now);
        let may_judge = !self.is_shared || since.elapsed() >= IN_TOUCH;
        if may_judge && let Err(error) = reap(self.store.as_ref()).await {
            tracing::warn!(%error, "dead nodes could not be looked for");
        }
        Ok(if looked_over { Next::Wait } else { Next::After(RETRY) })
    }

    fn max_backoff(&self) -> Duration {
        RETRY
    }
}

/// What a node has to do with others before it listens: with a file, nobody
/// else has it, so that there is nobody to be wrong about.
pub(super) async fn begin(store: &dyn Store, is_shared: bool) -> Result<(), StoreError> {
    if is_shared { Ok(()) } else { reap(store).await }
}

/// Closes what nodes that did not end in good order left open; each one is a
/// disconnection like any other.
async fn reap(store: &dyn Store) -> Result<(), StoreError> {
    loop {
        let reaping = store.reap_dead_nodes().await?;
        let is_last = reaping.connections.is_empty();
        for node in reaping.nodes {
            metrics::counter!("gateway_events_nodes_lost_total").increment(1);
            tracing::warn!(%node, "a node is lost: it did not end in good order, and is heard of no more");
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
