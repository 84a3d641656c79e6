//! Random actions of admins while events are delivered over real lanes: publish, redrive, replay,
//! resend, skip, purge, pause, resume, expiry, retention, connections and receipts, in any order. On
//! the store in memory and on Postgres there are two nodes, on SQLite there is one. The test keeps
//! its own record of what was answered, sent and confirmed, and compares it with the store: see
//! `promises.rs`. A failure prints its seed; `MODEL_SEED` repeats it, and `MODEL_CASES` sets the
//! number of runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use gateway_events::clock::Timestamp;
use gateway_events::dispatch::{Admission, Dispatcher, Options};
use gateway_events::event::{EventId, NodeId, Reason, Sequence};
use gateway_events::jobs::Supervisor;
use gateway_events::store::{Gateway, NewToken, Store, Target};
use gateway_events::transport;
use gateway_events::wake::Wake;

use super::Place;
use crate::conformance::{Fixture, event};
use crate::reference::store::MemoryDatabase;
use crate::reference::transport::{Peer, Seen};
use crate::server::Database;
use crate::support::TEST_TIMEOUT;

mod actions;
mod promises;

/// Gateways of a run.
const GATEWAYS: usize = 2;
/// Events that a connection may have in flight.
const WINDOW: usize = 4;
/// No deadline is reached in a run.
const LONG: Duration = Duration::from_hours(1);

/// A node of the service.
struct Node {
    store: Arc<dyn Store>,
    dispatcher: Arc<Dispatcher>,
    _jobs: Supervisor,
}

impl Node {
    async fn start(place: &Place) -> Self {
        let wake = Wake::default();
        let store = place.open_with(NodeId::new(), wake.clone()).await;
        let options = Options {
            window_events: WINDOW,
            heartbeat_interval: LONG,
            heartbeat_timeout: LONG,
            confirmation_timeout: LONG,
            ..Options::default()
        };
        let jobs = Supervisor::default();
        let dispatcher = Dispatcher::new(Arc::clone(&store), wake, options, &jobs);
        if matches!(place, Place::Shared(_)) {
            // It learns of actions at the other node.
            dispatcher.start_revocation(&jobs);
        }
        Self { store, dispatcher, _jobs: jobs }
    }
}

/// The gateway's end of a connection.
struct Connected {
    /// The node that it is connected to.
    node: usize,
    peer: Peer,
    sent: Vec<i64>,
    confirmed: i64,
}

/// A published event.
struct Published {
    payload: String,
    is_expired: bool,
    is_purged: bool,
}

/// What is known of a gateway.
struct Known {
    gateway: Gateway,
    /// The event of each sequence, as the service answered.
    log: Vec<EventId>,
    connected: Option<Connected>,
    /// Sequences that were received and confirmed on any connection.
    received: BTreeSet<i64>,
    confirmed: BTreeSet<i64>,
    /// Those of them that were on record as confirmed before they could be given up.
    settled: BTreeSet<i64>,
    /// Sequences that no connection may send any more: they were skipped, or their events purged.
    barred: BTreeSet<i64>,
    /// Likewise, for connections that are opened later: the node of the open one may not know yet.
    barred_next: BTreeSet<i64>,
    /// Dead letters that were redriven.
    redriven: BTreeSet<i64>,
    is_paused: bool,
    /// Whether the node of the connection certainly knows about the pause.
    is_silent: bool,
}

/// Everything that happened.
struct Run {
    rng: Rng,
    place: Place,
    nodes: Vec<Node>,
    gateways: Vec<Known>,
    events: BTreeMap<EventId, Published>,
}

impl Known {
    /// The event of a sequence.
    fn event(&self, sequence: i64) -> &EventId {
        let nth = usize::try_from(sequence - 1).unwrap();
        &self.log[nth]
    }

    /// Adds what was appended. The sequences are those that follow.
    fn append(&mut self, sequence: Sequence, id: &EventId) {
        let next = i64::try_from(self.log.len()).unwrap() + 1;
        assert_eq!(sequence.0, next, "no gap and no repeat, for {id}");
        self.log.push(id.clone());
    }
}

impl Run {
    async fn start(seed: u64, place: Place) -> Self {
        let mut nodes = vec![Node::start(&place).await];
        // Only one process can use a SQLite file.
        if !matches!(place, Place::Embedded(_)) {
            nodes.push(Node::start(&place).await);
        }
        let mut gateways = Vec::new();
        for _ in 0..GATEWAYS {
            let fixture = Fixture::of(nodes[0].store.as_ref()).await;
            let gateway = fixture.gateway(&[]).await;
            let id = gateway.id.to_string();
            let token = NewToken { id, digest: [1; 32], expires_at: None };
            let actor = fixture.actor();
            fixture.store.create_gateway_token(&actor, gateway.id, token).await.unwrap();
            gateways.push(Known {
                gateway,
                log: Vec::new(),
                connected: None,
                received: BTreeSet::new(),
                confirmed: BTreeSet::new(),
                settled: BTreeSet::new(),
                barred: BTreeSet::new(),
                barred_next: BTreeSet::new(),
                redriven: BTreeSet::new(),
                is_paused: false,
                is_silent: false,
            });
        }
        let rng = Rng::with_seed(seed);
        Self { rng, place, nodes, gateways, events: BTreeMap::new() }
    }

    /// Lets lanes and recorders run until they wait for something else, in memory; for the
    /// databases this is a short while.
    async fn settle(&mut self) {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }

    /// Any node, and any gateway.
    fn node(&mut self) -> usize {
        self.rng.usize(..self.nodes.len())
    }

    fn any(&mut self) -> usize {
        self.rng.usize(..GATEWAYS)
    }

    fn store(&self, node: usize) -> Arc<dyn Store> {
        Arc::clone(&self.nodes[node].store)
    }

    async fn connect(&mut self, nth: usize) {
        self.disconnect(nth, Reason::ConnectionLost).await;
        let node = self.node();
        let fixture = Fixture::of(self.nodes[node].store.as_ref()).await;
        let known = &mut self.gateways[nth];
        let admission = Admission {
            gateway: known.gateway.key,
            gateway_id: known.gateway.id,
            gateway_name: "one".into(),
            organisation: fixture.organisation,
            token: known.gateway.id.to_string(),
            token_expires_at: None,
            transport: "memory",
            remote_address: "127.0.0.1".to_owned(),
        };
        let dispatcher = &self.nodes[node].dispatcher;
        let permit = dispatcher.try_admit().unwrap();
        let session = dispatcher.open(permit, admission).await.unwrap();
        let (lane, end) = transport::link();
        session.start(lane);
        known.connected =
            Some(Connected { node, peer: Peer::new(end), sent: Vec::new(), confirmed: 0 });
        // It has read the state of the log.
        known.is_silent = known.is_paused;
        let next = std::mem::take(&mut known.barred_next);
        known.barred.extend(next);
    }

    async fn disconnect(&mut self, nth: usize, reason: Reason) {
        let Some(Connected { peer, node, .. }) = self.gateways[nth].connected.take() else {
            return;
        };
        peer.end(reason).await;
        let store = self.store(node);
        let fixture = Fixture::of(store.as_ref()).await;
        let gateway = &self.gateways[nth].gateway;
        let closed = async {
            while fixture.again(gateway).await.live_connections > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, closed).await.expect("the end is recorded in time");
    }

    /// Receives what is on its way. If the gateway has confirmed everything that it was sent, and
    /// more is to be sent, it waits for that.
    async fn receive(&mut self, nth: usize) {
        self.settle().await;
        loop {
            let Some(connected) = &mut self.gateways[nth].connected else { return };
            let mut seen = now(connected.peer.next()).await;
            if seen.is_none() && self.is_due(nth).await {
                let Some(connected) = &mut self.gateways[nth].connected else { return };
                let next = tokio::time::timeout(TEST_TIMEOUT, connected.peer.next()).await;
                seen = Some(next.expect("what is due is sent in time"));
            }
            match seen {
                Some(Seen::Event(outgoing)) => {
                    let payload = outgoing.event.payload.get().to_owned();
                    self.received(nth, outgoing.sequence.0, &outgoing.event.id, &payload);
                }
                Some(Seen::Probe) => {}
                Some(Seen::Close(reason)) => panic!("closed: {reason}"),
                None => return,
            }
            self.settle().await;
        }
    }

    /// Takes what was handed to the transport already.
    async fn drain(&mut self, nth: usize) {
        loop {
            let Some(connected) = &mut self.gateways[nth].connected else { return };
            match now(connected.peer.next()).await {
                Some(Seen::Event(outgoing)) => {
                    let payload = outgoing.event.payload.get().to_owned();
                    self.received(nth, outgoing.sequence.0, &outgoing.event.id, &payload);
                }
                Some(Seen::Probe) => {}
                Some(Seen::Close(reason)) => panic!("closed: {reason}"),
                None => return,
            }
        }
    }

    /// Whether an event must be sent to this gateway before it confirms anything.
    async fn is_due(&self, nth: usize) -> bool {
        let known = &self.gateways[nth];
        let Some(connected) = &known.connected else { return false };
        let last = connected.sent.last().copied().unwrap_or(0);
        if known.is_paused || last > connected.confirmed {
            return false;
        }
        let store = self.store(connected.node);
        let gateway = Fixture::of(store.as_ref()).await.again(&known.gateway).await;
        // An event that failed too often is passed over.
        let after = Sequence(last).max(gateway.confirmed);
        let page = store.read(known.gateway.key, after, 1000, usize::MAX).await.unwrap();
        page.rows.iter().any(|row| row.withheld.is_none() && !self.events[&row.event.id].is_expired)
    }

    /// Confirms some of what was received on this connection.
    async fn confirm(&mut self, nth: usize, all: bool) {
        let known = &mut self.gateways[nth];
        let Some(connected) = &mut known.connected else { return };
        let open: Vec<i64> =
            connected.sent.iter().copied().filter(|it| *it > connected.confirmed).collect();
        if open.is_empty() {
            return;
        }
        let to = if all { open[open.len() - 1] } else { open[self.rng.usize(..open.len())] };
        connected.confirmed = to;
        connected.peer.confirm(Sequence(to)).await;
        let handled = connected.sent.iter().copied().filter(|it| *it <= to);
        known.confirmed.extend(handled);
        self.settle().await;
    }

    /// Publishes up to three events in one request.
    async fn publish(&mut self) {
        let (node, number) = (self.node(), self.rng.usize(1..=3));
        let mut events = Vec::new();
        for _ in 0..number {
            let first = self.any();
            let mut targets = vec![self.gateways[first].gateway.id];
            if self.rng.bool() {
                targets.push(self.gateways[GATEWAYS - 1 - first].gateway.id);
            }
            let mut new = event(Target::Gateways(targets));
            let payload = format!("{{\"number\": {}, \"secret\": 1}}", self.events.len());
            let is_expired = self.rng.u8(..10) == 0;
            let event = Arc::get_mut(&mut new.event).unwrap();
            event.payload = serde_json::value::RawValue::from_string(payload.clone()).unwrap();
            event.expires_at = is_expired.then(|| Timestamp::from_micros(1));
            let published = Published { payload, is_expired, is_purged: false };
            self.events.insert(event.id.clone(), published);
            events.push(new);
        }
        let store = self.store(node);
        for appended in Fixture::of(store.as_ref()).await.publish(events).await {
            let appended = appended.unwrap();
            for delivery in &appended.deliveries {
                self.known(delivery.gateway_id).append(delivery.sequence, &appended.id);
            }
        }
    }

    fn known(&mut self, id: gateway_events::event::GatewayId) -> &mut Known {
        self.gateways.iter_mut().find(|known| known.gateway.id == id).unwrap()
    }

    async fn step(&mut self) {
        let nth = self.any();
        match self.rng.u8(..30) {
            0..=5 => self.publish().await,
            6..=9 => {
                let before = self.gateways[nth].received.len();
                self.receive(nth).await;
                let known = &self.gateways[nth];
                let is_quiet = !known.is_silent || known.received.len() == before;
                assert!(is_quiet, "an event was sent during a pause");
            }
            10..=13 => self.confirm(nth, false).await,
            14 => self.pause(nth, true).await,
            15 => self.pause(nth, false).await,
            16..=17 => self.skip(nth).await,
            18 => self.purge().await,
            19 => self.redrive_one(nth).await,
            20 => self.redrive_all(nth).await,
            21..=22 => self.replay(nth).await,
            23..=24 => self.resend().await,
            25 => self.redrive_as_job(nth).await,
            26 => self.expire().await,
            27 => self.trim().await,
            28 => self.sweep(nth).await,
            _ => self.connect(nth).await,
        }
    }
}

/// What a future returns without waiting.
async fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = future => Some(done),
        () = std::future::ready(()) => None,
    }
}

/// Runs with different seeds, each of this many steps on a store of its own.
fn keeps_the_promises(runs: u64, steps: usize, place: impl Fn() -> Place) {
    let runs = std::env::var("MODEL_CASES").ok().and_then(|it| it.parse().ok()).unwrap_or(runs);
    let first = super::seed();
    for nth in 0..runs {
        let seed = first.wrapping_add(nth);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let run = std::panic::AssertUnwindSafe(|| {
            runtime.expect("a runtime").block_on(async {
                let mut run = Run::start(seed, place()).await;
                for _ in 0..steps {
                    run.step().await;
                }
                run.end().await;
            });
        });
        if let Err(failure) = std::panic::catch_unwind(run) {
            let why = failure.downcast_ref::<String>().map_or("see above", String::as_str);
            panic!("MODEL_SEED={seed}: {why}");
        }
    }
}

#[test]
fn any_interleaving_of_actions_and_delivery_keeps_the_promises_in_memory() {
    keeps_the_promises(60, 200, || Place::Memory(MemoryDatabase::new(Arc::new(Timestamp::now))));
}

#[test]
fn any_interleaving_of_actions_and_delivery_keeps_the_promises_on_sqlite() {
    keeps_the_promises(8, 150, || {
        Place::Embedded(tempfile::tempdir().expect("a temporary directory"))
    });
}

#[test]
fn any_interleaving_of_actions_and_delivery_keeps_the_promises_on_postgres() {
    keeps_the_promises(3, 120, || Place::Shared(Database::new()));
}
