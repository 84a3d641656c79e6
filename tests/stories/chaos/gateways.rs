//! Gateways that behave like deployed ones, connect to the next node when theirs is unavailable,
//! and record what they receive.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use gateway_events::client::CancellationToken;
use gateway_events::client::gateway::{
    Exit, Gateway, GatewayOptions, Handler, Notice, ReceivedEvent,
};
use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::publishers::Published;
use super::{Address, Cluster};

/// The interval at which a gateway attempts to connect to one node after another.
const RETRY_INTERVAL: Duration = Duration::from_millis(150);

/// Gateways and their connections.
pub(super) struct Fleet {
    pub(super) gateways: Vec<Arc<ConnectedGateway>>,
    stop: CancellationToken,
    running: JoinSet<()>,
}

/// A gateway with all its connections.
pub(super) struct ConnectedGateway {
    pub(super) id: String,
    pub(super) name: String,
    received: Mutex<Received>,
}

/// What the connections of a gateway received.
#[derive(Default)]
pub(super) struct Received {
    /// Event ids by sequence.
    pub(super) events: BTreeMap<i64, String>,
    /// The last sequence on each connection.
    pub(super) last: HashMap<String, Option<i64>>,
    pub(super) live: BTreeSet<String>,
    /// Frames, including repeats.
    pub(super) frames: usize,
    problems: Vec<String>,
}

impl Fleet {
    /// Registers this many gateways and connects them, spread over the nodes. The first
    /// `with_two_connections` of them have two connections each.
    pub(super) async fn start(cluster: &Cluster, size: usize, with_two_connections: usize) -> Self {
        let (stop, mut running, mut gateways) =
            (CancellationToken::new(), JoinSet::new(), Vec::new());
        for index in 0..size {
            let name = format!("gateway-{index}");
            let (id, key) = cluster.nodes[0].gateway(&name).await;
            let gateway = Arc::new(ConnectedGateway { id, name, received: Mutex::default() });
            for copy in 0..if index < with_two_connections { 2 } else { 1 } {
                running.spawn(keep_connected(
                    Arc::clone(&gateway),
                    key.clone(),
                    Arc::clone(&cluster.addresses),
                    index + copy,
                    stop.clone(),
                ));
            }
            gateways.push(gateway);
        }
        let fleet = Self { gateways, stop, running };
        let connected = tokio::time::timeout(super::IDLE_TIMEOUT, async {
            let mut polls = tokio::time::interval(Duration::from_millis(20));
            while fleet.live().len() < size + with_two_connections {
                polls.tick().await;
            }
        });
        assert!(
            connected.await.is_ok(),
            "{} are connected\n{}",
            fleet.live().len(),
            cluster.logs()
        );
        fleet
    }

    /// The ids of all live connections, sorted.
    pub(super) fn live(&self) -> Vec<String> {
        let mut live: Vec<_> =
            self.gateways.iter().flat_map(|gateway| gateway.received().live.clone()).collect();
        live.sort();
        live
    }

    pub(super) fn ids(&self) -> Arc<[String]> {
        self.gateways.iter().map(|gateway| gateway.id.clone()).collect()
    }

    /// Frames received so far.
    pub(super) fn frames(&self) -> usize {
        self.gateways.iter().map(|gateway| gateway.received().frames).sum()
    }

    /// Ends all connections; returns what they received.
    pub(super) async fn stop(mut self) -> Vec<Arc<ConnectedGateway>> {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.expect("no gateway panicked");
        }
        self.gateways
    }
}

/// Keeps one connection of a gateway, which switches to the next node when it ends.
async fn keep_connected(
    gateway: Arc<ConnectedGateway>,
    key: String,
    addresses: Arc<[Address]>,
    first_node: usize,
    stop: CancellationToken,
) {
    let mut attempts = tokio::time::interval(RETRY_INTERVAL);
    attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for node in first_node.. {
        attempts.tick().await;
        let address = &addresses[node % addresses.len()];
        let switch_node = stop.child_token();
        let recorder = Arc::new(Recorder {
            gateway: Arc::clone(&gateway),
            switch_node: switch_node.clone(),
            connection: Mutex::default(),
        });
        let mut options = GatewayOptions::new(
            address.api.base().clone(),
            SecretString::from(key.clone()),
            Arc::clone(&address.tls),
            Arc::clone(&recorder) as Arc<dyn Handler>,
        );
        options.announces = false;
        let exit = Gateway::new(options).run(switch_node).await;
        recorder.record_disconnect();
        if let Exit::Refused(status) = exit {
            gateway.received().problems.push(format!("a valid key was refused with {status}"));
        }
        if stop.is_cancelled() || exit != Exit::Cancelled {
            return;
        }
    }
}

/// Records what one connection after another to one node receives.
struct Recorder {
    gateway: Arc<ConnectedGateway>,
    switch_node: CancellationToken,
    connection: Mutex<Option<String>>,
}

impl Recorder {
    fn record_disconnect(&self) {
        if let Some(connection) = self.connection.lock().expect("not poisoned").take() {
            self.gateway.received().live.remove(&connection);
        }
    }
}

#[async_trait]
impl Handler for Recorder {
    async fn handle(&self, event: ReceivedEvent) {
        self.gateway.received().record(&event);
    }

    async fn notice(&self, notice: Notice) {
        match notice {
            Notice::Connected { connection_id, .. } => {
                let mut received = self.gateway.received();
                received.live.insert(connection_id.clone());
                received.last.insert(connection_id.clone(), None);
                *self.connection.lock().expect("not poisoned") = Some(connection_id);
            }
            Notice::Disconnected { .. } => self.record_disconnect(),
            // The node is down or refuses connections: switch to the next one.
            Notice::Failed { .. } => self.switch_node.cancel(),
            Notice::Refused { .. } => {}
            Notice::Unreadable { why } => {
                self.gateway.received().problems.push(format!("an unreadable frame: {why}"));
            }
        }
    }
}

impl Received {
    fn record(&mut self, event: &ReceivedEvent) {
        let sequence = event.sequence;
        self.frames += 1;
        match self.last.insert(event.connection_id.clone(), Some(sequence)) {
            None => self
                .problems
                .push(format!("{sequence} arrived before its connection was acknowledged")),
            Some(Some(last)) if sequence != last + 1 => {
                self.problems.push(format!("{sequence} arrived after {last} on one connection"));
            }
            Some(_) => {}
        }
        let recorded = self.events.entry(sequence).or_insert_with(|| event.event_id.clone());
        if *recorded != event.event_id {
            let id = &event.event_id;
            self.problems.push(format!("{sequence} is both {recorded} and {id}"));
        }
    }

    /// The last sequence received on any connection.
    pub(super) fn highest_sequence(&self) -> i64 {
        self.events.last_key_value().map_or(0, |(sequence, _)| *sequence)
    }
}

impl ConnectedGateway {
    pub(super) fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().expect("not poisoned")
    }

    /// Verifies that everything accepted for this gateway was received once and in order.
    pub(super) fn verify(&self, head: i64, published: &[Published]) {
        let (received, name) = (self.received(), &self.name);
        assert_eq!(received.problems, Vec::<String>::new(), "{name}");
        assert!(
            received.events.keys().copied().eq(1..=head),
            "{name}: {head}, {:?}",
            received.events
        );
        let mut sequences: HashMap<&str, i64> = HashMap::new();
        for (sequence, id) in &received.events {
            let earlier = sequences.insert(id, *sequence);
            assert_eq!(earlier, None, "{name}: {id} has two sequences");
        }
        let mut expected = 0;
        for publisher in published {
            let mut last = 0;
            for event in publisher.accepted.iter().filter(|event| event.targets(&self.id)) {
                let sequence = *sequences.get(event.id.as_str()).unwrap_or_else(|| {
                    panic!("{name}: {} was accepted but not received", event.id)
                });
                assert!(
                    sequence > last,
                    "{name}: {} is out of order: {sequence} after {last}",
                    event.id
                );
                let assigned = event.sequences.as_ref().map(|sequences| sequences[&self.id]);
                assert!(
                    assigned.is_none_or(|assigned| assigned == sequence),
                    "{name}: {} was received as {sequence}, but published as {assigned:?}",
                    event.id
                );
                (last, expected) = (sequence, expected + 1);
            }
        }
        assert_eq!(expected, sequences.len(), "{name} received events that were not for it");
    }
}
