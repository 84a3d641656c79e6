//! The live connections to this node, by gateway, and how to stop and probe them.
//! Holds no lock across an await.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{Notify, mpsc};

use crate::event::{ConnectionId, GatewayKey, Reason, Sequence};
use crate::metric;

/// Stop reasons that may wait for a lane. Only the first has an effect.
const WAITING_REASONS: usize = 2;

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    token: String,
    stop: mpsc::Sender<Reason>,
    probe: Arc<Notify>,
}

/// A gateway's live connections.
#[derive(Debug, Default)]
struct GatewayConnections {
    connections: Vec<Connection>,
    /// The last sequence that any of them was sent, including those that ended.
    sent: Arc<AtomicI64>,
}

/// All live connections.
#[derive(Debug, Default)]
pub(super) struct Registry {
    gateways: DashMap<GatewayKey, GatewayConnections>,
    live: AtomicUsize,
    /// Locked to register and to close, so that a drain finds every connection that
    /// was registered before it.
    is_closed: Mutex<bool>,
}

impl Registry {
    /// Adds a connection until the registration is dropped. `None` once closed.
    ///
    /// The gateway's other connections are probed. A live replica answers, which proves that there
    /// are several. A dead one does not, so that its end, which may arrive much later, is not
    /// mistaken for activity.
    pub(super) fn register(
        self: &Arc<Self>,
        gateway: GatewayKey,
        id: ConnectionId,
        token: String,
        transport: &'static str,
    ) -> Option<(Registration, mpsc::Receiver<Reason>)> {
        let is_closed = self.is_closed.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_closed {
            return None;
        }
        let (stop, stopped) = mpsc::channel(WAITING_REASONS);
        let probe = Arc::new(Notify::new());
        let sent = {
            let mut entry = self.gateways.entry(gateway).or_default();
            for other in &entry.connections {
                other.probe.notify_one();
            }
            entry.connections.push(Connection { id, token, stop, probe: Arc::clone(&probe) });
            Arc::clone(&entry.sent)
        };
        self.live.fetch_add(1, Ordering::Relaxed);
        let open = metrics::gauge!(metric::CONNECTIONS, "transport" => transport);
        open.increment(1.0);
        let registry = Arc::clone(self);
        let registration = Registration { registry, gateway, id, sent, probe, open };
        Some((registration, stopped))
    }

    /// Registers no more connections.
    pub(super) fn close(&self) {
        *self.is_closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// A gateway's connections.
    pub(super) fn connected(&self, gateway: GatewayKey) -> usize {
        self.gateways.get(&gateway).map_or(0, |entry| entry.connections.len())
    }

    /// The number of connections on this node.
    pub(super) fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Stops a gateway's connections.
    pub(super) fn stop_gateway(&self, gateway: GatewayKey, reason: Reason) {
        if let Some(entry) = self.gateways.get(&gateway) {
            for connection in &entry.connections {
                stop(&connection.stop, reason);
            }
        }
    }

    /// Stops one connection.
    pub(super) fn stop_connection(&self, gateway: GatewayKey, id: ConnectionId, reason: Reason) {
        if let Some(entry) = self.gateways.get(&gateway)
            && let Some(connection) = entry.connections.iter().find(|one| one.id == id)
        {
            stop(&connection.stop, reason);
        }
    }

    /// Stops the connections that were opened with a token.
    pub(super) fn stop_token(&self, token: &str, reason: Reason) {
        for entry in &self.gateways {
            for connection in entry.connections.iter().filter(|one| one.token == token) {
                stop(&connection.stop, reason);
            }
        }
    }

    /// All connections, by their ids.
    pub(super) fn ids(&self) -> Vec<ConnectionId> {
        let ids = |entry: &GatewayConnections| {
            entry.connections.iter().map(|one| one.id).collect::<Vec<_>>()
        };
        self.gateways.iter().flat_map(|entry| ids(&entry)).collect()
    }

    /// Senders to stop these connections, in random order.
    pub(super) fn stops(&self, of: impl Fn(&ConnectionId) -> bool) -> Vec<mpsc::Sender<Reason>> {
        let mut stops: Vec<_> = self
            .gateways
            .iter()
            .flat_map(|entry| {
                let those = entry.connections.iter().filter(|one| of(&one.id));
                those.map(|one| (one.id, one.stop.clone())).collect::<Vec<_>>()
            })
            .collect();
        // The order of the map differs from one process to the next. A simulation repeats a run.
        stops.sort_by_key(|(id, _)| *id);
        fastrand::shuffle(&mut stops);
        stops.into_iter().map(|(_, stop)| stop).collect()
    }
}

/// Stops a lane. Has no effect if it was stopped before, or has ended.
pub(super) fn stop(stop: &mpsc::Sender<Reason>, reason: Reason) {
    let _ = stop.try_send(reason);
}

/// A connection in the registry. It is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Registration {
    registry: Arc<Registry>,
    gateway: GatewayKey,
    id: ConnectionId,
    sent: Arc<AtomicI64>,
    probe: Arc<Notify>,
    /// How many connections this node has over the same transport.
    open: metrics::Gauge,
}

impl Registration {
    /// Records the last sequence that this connection was sent.
    pub(super) fn note_sent(&self, sequence: Sequence) {
        self.sent.fetch_max(sequence.0, Ordering::Relaxed);
    }

    /// Waits until the peer is to be probed.
    pub(super) async fn probe(&self) {
        self.probe.notified().await;
    }

    /// The last sequence that any of the gateway's connections was sent. A gateway
    /// may report on one connection what it handled on another.
    pub(super) fn sent(&self) -> Sequence {
        Sequence(self.sent.load(Ordering::Relaxed))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // The entry stays locked until it is removed, so that a connection that is
        // registered meanwhile is not removed with it.
        if let Entry::Occupied(mut entry) = self.registry.gateways.entry(self.gateway) {
            entry.get_mut().connections.retain(|connection| connection.id != self.id);
            if entry.get().connections.is_empty() {
                entry.remove();
            }
        }
        self.registry.live.fetch_sub(1, Ordering::Relaxed);
        self.open.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: GatewayKey = GatewayKey(1);

    #[test]
    fn a_registration_ends_with_its_drop_and_leaves_nothing() {
        let registry = Arc::new(Registry::default());
        let (first, _stopped) =
            registry.register(GATEWAY, ConnectionId::new(), "a".into(), "sse").unwrap();
        let (second, _stopped) =
            registry.register(GATEWAY, ConnectionId::new(), "b".into(), "sse").unwrap();
        assert_eq!((registry.connected(GATEWAY), registry.live()), (2, 2));
        drop(first);
        assert_eq!((registry.connected(GATEWAY), registry.live()), (1, 1));
        drop(second);
        assert_eq!((registry.connected(GATEWAY), registry.live()), (0, 0));
        assert!(registry.gateways.is_empty());
    }

    #[test]
    fn only_the_connections_of_a_token_are_stopped() {
        let registry = Arc::new(Registry::default());
        let (_one, mut first) =
            registry.register(GATEWAY, ConnectionId::new(), "a".into(), "sse").unwrap();
        let (_two, mut second) =
            registry.register(GATEWAY, ConnectionId::new(), "b".into(), "sse").unwrap();
        registry.stop_token("b", Reason::TokenRevoked);
        assert!(first.try_recv().is_err());
        assert_eq!(second.try_recv(), Ok(Reason::TokenRevoked));
        registry.stop_gateway(GATEWAY, Reason::GatewayDisabled);
        assert_eq!(first.try_recv(), Ok(Reason::GatewayDisabled));
    }
}
