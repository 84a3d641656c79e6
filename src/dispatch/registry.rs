//! Who is connected here, by gateway.

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::watch;

use crate::event::{ConnectionId, GatewayKey, Reason};

/// The live connections of this node. Guards of the map are never held across
/// an await: every method is synchronous.
#[derive(Debug, Default)]
pub(super) struct Registry {
    live: DashMap<GatewayKey, Vec<Live>>,
}

/// One live connection.
#[derive(Clone, Debug)]
pub(super) struct Live {
    id: ConnectionId,
    token: Arc<str>,
    closing: watch::Sender<Option<Reason>>,
}

impl Live {
    /// Asks the connection's lane to close it; the first reason stands.
    pub(super) fn close(&self, reason: Reason) {
        self.closing.send_if_modified(|closing| {
            let first = closing.is_none();
            if first {
                *closing = Some(reason);
            }
            first
        });
    }
}

/// A place in the registry, left when dropped.
#[derive(Debug)]
pub(super) struct Registered {
    registry: Arc<Registry>,
    gateway: GatewayKey,
    live: Live,
}

impl Registered {
    pub(super) fn close(&self, reason: Reason) {
        self.live.close(reason);
    }
}

impl Registry {
    /// Enters a connection; the receiver tells when it is to close.
    pub(super) fn register(
        self: &Arc<Self>,
        gateway: GatewayKey,
        id: ConnectionId,
        token: &str,
    ) -> (Registered, watch::Receiver<Option<Reason>>) {
        let (closing, told) = watch::channel(None);
        let live = Live { id, token: Arc::from(token), closing };
        self.live.entry(gateway).or_default().push(live.clone());
        metrics::gauge!("gateway_events_connections").increment(1.0);
        (Registered { registry: Arc::clone(self), gateway, live }, told)
    }

    pub(super) fn close_gateway(&self, gateway: GatewayKey, reason: Reason) {
        if let Some(connections) = self.live.get(&gateway) {
            connections.iter().for_each(|live| live.close(reason));
        }
    }

    pub(super) fn close_token(&self, token: &str, reason: Reason) {
        for connections in &self.live {
            for live in connections.iter().filter(|live| *live.token == *token) {
                live.close(reason);
            }
        }
    }

    pub(super) fn connected(&self, gateway: GatewayKey) -> usize {
        self.live.get(&gateway).map_or(0, |connections| connections.len())
    }

    pub(super) fn live(&self) -> usize {
        self.live.iter().map(|connections| connections.len()).sum()
    }

    pub(super) fn all(&self) -> Vec<Live> {
        self.live.iter().flat_map(|connections| connections.clone()).collect()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(mut connections) = self.registry.live.get_mut(&self.gateway) {
            connections.retain(|live| live.id != self.live.id);
        }
        self.registry.live.remove_if(&self.gateway, |_, connections| connections.is_empty());
        metrics::gauge!("gateway_events_connections").decrement(1.0);
    }
}
