//! Who is connected to this node: per gateway, its live connections and a way
//! to tell each to stop. Holds no lock across an await.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::mpsc;

use crate::event::{ConnectionId, GatewayKey, Reason};

/// Reasons that may wait for a lane; one that is told twice needs no third.
const WAITING_REASONS: usize = 2;

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    token: String,
    stop: mpsc::Sender<Reason>,
}

/// All live connections.
#[derive(Debug, Default)]
pub(super) struct Registry {
    gateways: DashMap<GatewayKey, Vec<Connection>>,
    live: AtomicUsize,
}

impl Registry {
    /// Adds a connection, until the registration is dropped.
    pub(super) fn register(
        self: &Arc<Self>,
        gateway: GatewayKey,
        id: ConnectionId,
        token: String,
    ) -> (Registration, mpsc::Receiver<Reason>) {
        let (stop, stopped) = mpsc::channel(WAITING_REASONS);
        self.gateways.entry(gateway).or_default().push(Connection { id, token, stop });
        self.live.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("gateway_events_connections").increment(1.0);
        let registration = Registration { registry: Arc::clone(self), gateway, id };
        (registration, stopped)
    }

    /// A gateway's connections.
    pub(super) fn connected(&self, gateway: GatewayKey) -> usize {
        self.gateways.get(&gateway).map_or(0, |connections| connections.len())
    }

    /// All connections.
    pub(super) fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Tells a gateway's connections to stop.
    pub(super) fn stop_gateway(&self, gateway: GatewayKey, reason: Reason) {
        if let Some(connections) = self.gateways.get(&gateway) {
            for connection in connections.iter() {
                stop(&connection.stop, reason);
            }
        }
    }

    /// Tells the connections that were opened with a token to stop.
    pub(super) fn stop_token(&self, token: &str, reason: Reason) {
        for connections in &self.gateways {
            for connection in connections.iter().filter(|connection| connection.token == token) {
                stop(&connection.stop, reason);
            }
        }
    }

    /// A way to each, in no order: to be told one after another.
    pub(super) fn stops(&self) -> Vec<mpsc::Sender<Reason>> {
        let mut stops: Vec<_> = self
            .gateways
            .iter()
            .flat_map(|connections| {
                connections.iter().map(|connection| connection.stop.clone()).collect::<Vec<_>>()
            })
            .collect();
        fastrand::shuffle(&mut stops);
        stops
    }
}

/// Full means that it has been told, closed that it has ended.
pub(super) fn stop(stop: &mpsc::Sender<Reason>, reason: Reason) {
    let _ = stop.try_send(reason);
}

/// One connection's place; dropping it gives it up.
#[derive(Debug)]
pub(super) struct Registration {
    registry: Arc<Registry>,
    gateway: GatewayKey,
    id: ConnectionId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        // The entry is one lock from the look to the removal, so that a
        // gateway that connects meanwhile is not removed with the last one.
        if let Entry::Occupied(mut connections) = self.registry.gateways.entry(self.gateway) {
            connections.get_mut().retain(|connection| connection.id != self.id);
            if connections.get().is_empty() {
                connections.remove();
            }
        }
        self.registry.live.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("gateway_events_connections").decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: GatewayKey = GatewayKey(1);

    #[test]
    fn a_registration_ends_with_its_drop_and_leaves_nothing() {
        let registry = Arc::new(Registry::default());
        let (first, _stopped) = registry.register(GATEWAY, ConnectionId::new(), "a".into());
        let (second, _stopped) = registry.register(GATEWAY, ConnectionId::new(), "b".into());
        assert_eq!((registry.connected(GATEWAY), registry.live()), (2, 2));
        drop(first);
        assert_eq!((registry.connected(GATEWAY), registry.live()), (1, 1));
        drop(second);
        assert_eq!((registry.connected(GATEWAY), registry.live()), (0, 0));
        assert!(registry.gateways.is_empty());
    }

    #[test]
    fn only_the_connections_of_a_token_are_told() {
        let registry = Arc::new(Registry::default());
        let (_one, mut first) = registry.register(GATEWAY, ConnectionId::new(), "a".into());
        let (_two, mut second) = registry.register(GATEWAY, ConnectionId::new(), "b".into());
        registry.stop_token("b", Reason::TokenRevoked);
        assert!(first.try_recv().is_err());
        assert_eq!(second.try_recv(), Ok(Reason::TokenRevoked));
        registry.stop_gateway(GATEWAY, Reason::GatewayDisabled);
        assert_eq!(first.try_recv(), Ok(Reason::GatewayDisabled));
    }
}
