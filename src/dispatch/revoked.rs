//! Closes sockets because of changes on another node: a token was revoked, a gateway was disabled or
//! deleted, an instance has connected there, a resync was requested there, or this node was declared
//! dead. A node closes its own sockets at once, without this.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Dispatcher, registry};
use crate::event::{ConnectionId, Reason};
use crate::jobs::{Job, Next};
use crate::store::{Result, RevokedConnection, StoreError};

/// A revoked token must not be usable for longer than a second.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The time between two sockets that are closed because their connections are
/// lost. Gateways reconnect at once, and should not all do so at the same moment.
const CLOSE_SPACING: Duration = Duration::from_millis(5);
/// The most steps in which they are closed, because the node's heartbeat waits for
/// the last one.
const MAX_CLOSE_STEPS: usize = 400;

/// The job that polls for revocations at other nodes.
pub(super) struct Poll(pub(super) Arc<Dispatcher>);

impl Job for Poll {
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Next> {
        // Without connections there is nothing to close.
        if self.0.live() > 0 {
            for one in self.0.store.revoked_connections().await? {
                close(&self.0, one);
            }
            let mut ends: HashMap<Reason, HashSet<ConnectionId>> = HashMap::new();
            for (id, reason) in self.0.store.connections_to_end().await? {
                ends.entry(reason).or_default().insert(id);
            }
            for (reason, ids) in ends {
                for stop in self.0.registry.stops(|id| ids.contains(id)) {
                    registry::stop(&stop, reason);
                }
            }
        }
        Ok(Next::Wait)
    }

    fn max_backoff(&self) -> Duration {
        POLL_INTERVAL
    }
}

fn close(dispatcher: &Dispatcher, RevokedConnection { gateway, token, reason }: RevokedConnection) {
    if reason == Reason::TokenRevoked {
        dispatcher.close_token(&token, reason);
    } else {
        dispatcher.close_gateway(gateway, reason);
    }
}

/// Closes the sockets whose connections are not recorded as live.
pub(super) async fn close_lost(dispatcher: &Dispatcher) -> Result<usize> {
    let ids = dispatcher.registry.ids();
    if ids.is_empty() {
        return Ok(0);
    }
    let lost: HashSet<_> = dispatcher.store.not_on_record(&ids).await?.into_iter().collect();
    let stops = dispatcher.registry.stops(|id| lost.contains(id));
    for few in stops.chunks(stops.len().div_ceil(MAX_CLOSE_STEPS).max(1)) {
        for stop in few {
            registry::stop(stop, Reason::NodeLost);
        }
        tokio::time::sleep(CLOSE_SPACING).await;
    }
    Ok(stops.len())
}
