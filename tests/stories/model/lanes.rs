//! Random actions of admins while events are delivered over real lanes, on two nodes with one
//! database in memory. In the end every promise is checked: no sequence is missing, each connection
//! was sent its events in order, and each event was confirmed or is on record with its reason. A
//! failure prints its seed; `MODEL_SEED` repeats it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fastrand::Rng;
use gateway_events::clock::Timestamp;
use gateway_events::dispatch::{Admission, Dispatcher, Options};
use gateway_events::event::{EventId, NodeId, Reason, Sequence};
use gateway_events::jobs::Supervisor;
use gateway_events::store::{
    Conflict, DeliveryState, Gateway, NewEvent, RedriveSelection, Store, StoreError, Target,
};
use gateway_events::transport;
use gateway_events::wake::Wake;

use crate::conformance::{Fixture, event};
use crate::reference::store::{MemoryDatabase, MemoryStore};
use crate::reference::transport::{Peer, Seen};

/// Runs with different seeds, and steps of each.
const RUNS: u64 = 40;
const STEPS: usize = 150;

/// A node of the service.
struct Node {
    store: Arc<dyn Store>,
    dispatcher: Arc<Dispatcher>,
    _jobs: Supervisor,
}

impl Node {
    fn start(database: &MemoryDatabase) -> Self {
        let wake = Wake::default();
        let store: Arc<dyn Store> = MemoryStore::open(database, NodeId::new(), wake.clone());
        let options = Options { window_events: 4, ..Options::default() };
        let jobs = Supervisor::default();
        let dispatcher = Dispatcher::new(Arc::clone(&store), wake, options, &jobs);
        Self { store, dispatcher, _jobs: jobs }
    }
}

/// The gateway's end of a connection.
struct Connected {
    peer: Peer,
    sent: Vec<i64>,
    confirmed: i64,
}

/// Everything that happened.
struct Run {
    rng: Rng,
    nodes: [Node; 2],
    gateway: Gateway,
    connected: Option<Connected>,
    events: Vec<EventId>,
    /// Sequences that the gateway has received on any connection, and confirmed.
    received: BTreeSet<i64>,
    confirmed: BTreeSet<i64>,
    is_paused: bool,
}

/// Lets lanes and recorders run until they wait for something else.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

impl Run {
    async fn start(seed: u64) -> Self {
        let database = MemoryDatabase::new(Arc::new(Timestamp::now));
        let nodes = [Node::start(&database), Node::start(&database)];
        let gateway = Fixture::of(nodes[0].store.as_ref()).await.gateway(&[]).await;
        Self {
            rng: Rng::with_seed(seed),
            nodes,
            gateway,
            connected: None,
            events: Vec::new(),
            received: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            is_paused: false,
        }
    }

    /// The store of either node.
    fn store(&mut self) -> Arc<dyn Store> {
        Arc::clone(&self.nodes[self.rng.usize(..2)].store)
    }

    async fn connect(&mut self) {
        self.disconnect(Reason::ConnectionLost).await;
        let node = &self.nodes[self.rng.usize(..2)];
        let fixture = Fixture::of(node.store.as_ref()).await;
        let admission = Admission {
            gateway: self.gateway.key,
            gateway_id: self.gateway.id,
            gateway_name: "one".into(),
            organisation: fixture.organisation,
            token: "t".to_owned(),
            token_expires_at: None,
            transport: "memory",
            remote_address: "127.0.0.1".to_owned(),
        };
        let permit = node.dispatcher.try_admit().unwrap();
        let session = node.dispatcher.open(permit, admission).await.unwrap();
        let (lane, end) = transport::link();
        session.start(lane);
        self.connected = Some(Connected { peer: Peer::new(end), sent: Vec::new(), confirmed: 0 });
    }

    async fn disconnect(&mut self, reason: Reason) {
        let Some(Connected { peer, .. }) = self.connected.take() else { return };
        peer.end(reason).await;
        let store = Arc::clone(&self.nodes[0].store);
        let fixture = Fixture::of(store.as_ref()).await;
        while fixture.again(&self.gateway).await.live_connections > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Receives what is on its way. Each sequence is higher than the one before.
    async fn receive(&mut self) {
        settle().await;
        let Some(connected) = &mut self.connected else { return };
        while let Some(seen) = now(connected.peer.next()).await {
            match seen {
                Seen::Event(outgoing) => {
                    let sequence = outgoing.sequence.0;
                    let last = connected.sent.last().copied().unwrap_or(0);
                    assert!(sequence > last, "{sequence} after {last}");
                    connected.sent.push(sequence);
                    self.received.insert(sequence);
                    assert_ne!(outgoing.event.payload.get(), "{}", "a purged payload was sent");
                }
                Seen::Probe => {}
                Seen::Close(reason) => panic!("closed: {reason}"),
            }
            settle().await;
        }
    }

    /// Confirms some of what was received on this connection.
    async fn confirm(&mut self, all: bool) {
        let Some(connected) = &mut self.connected else { return };
        let open: Vec<i64> =
            connected.sent.iter().copied().filter(|it| *it > connected.confirmed).collect();
        if open.is_empty() {
            return;
        }
        let to = if all { open[open.len() - 1] } else { open[self.rng.usize(..open.len())] };
        connected.confirmed = to;
        connected.peer.confirm(Sequence(to)).await;
        let handled = connected.sent.iter().copied().filter(|it| *it <= to);
        self.confirmed.extend(handled);
        settle().await;
    }

    async fn publish(&mut self) {
        let store = self.store();
        let fixture = Fixture::of(store.as_ref()).await;
        let mut new = event(Target::Gateways(vec![self.gateway.id]));
        self.fill(&mut new);
        self.events.push(new.event.id.clone());
        fixture.publish(vec![new]).await;
    }

    /// A payload that is not that of a purged event, and sometimes an expiry in the past.
    fn fill(&mut self, new: &mut NewEvent) {
        let event = Arc::get_mut(&mut new.event).unwrap();
        event.payload = serde_json::value::to_raw_value(&serde_json::json!({"n": 1})).unwrap();
        event.expires_at = (self.rng.u8(..10) == 0).then(|| Timestamp::from_micros(1));
    }

    async fn pause(&mut self, pause: bool) {
        let store = self.store();
        let actor = Fixture::of(store.as_ref()).await.actor();
        let done = if pause {
            store.pause_gateway(&actor, self.gateway.id, Some("a run"), false).await
        } else {
            store.resume_gateway(&actor, self.gateway.id, false).await
        };
        assert_eq!(done.unwrap().changed, self.is_paused != pause);
        self.is_paused = pause;
        // What was handed to the transport before is received.
        self.receive().await;
    }

    async fn skip(&mut self) {
        let store = self.store();
        let fixture = Fixture::of(store.as_ref()).await;
        let head = fixture.again(&self.gateway).await.head.0;
        let sequence = Sequence(self.rng.i64(0..=head + 1));
        let skipped =
            store.skip_delivery(&fixture.actor(), self.gateway.id, sequence, "a run", false).await;
        match skipped {
            Ok(_) => assert!((1..=head).contains(&sequence.0)),
            Err(StoreError::NotFound("delivery")) => assert!(!(1..=head).contains(&sequence.0)),
            Err(StoreError::Conflict(Conflict::Delivered(_) | Conflict::GivenUp { .. })) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn purge(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let id = self.events[self.rng.usize(..self.events.len())].clone();
        let store = self.store();
        let actor = Fixture::of(store.as_ref()).await.actor();
        store.purge_event(&actor, &id, "a run", false).await.unwrap();
    }

    async fn redrive(&mut self) {
        let store = self.store();
        let fixture = Fixture::of(store.as_ref()).await;
        let head = fixture.again(&self.gateway).await.head.0;
        if head == 0 {
            return;
        }
        let one = RedriveSelection::One(self.gateway.id, Sequence(self.rng.i64(1..=head)));
        match store.redrive(&fixture.actor(), one, false).await {
            Ok(_) | Err(StoreError::Conflict(Conflict::Purged(_))) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn expire(&mut self) {
        let store = self.store();
        store.expire(&mut gateway_events::store::ExpiryMark::default()).await.unwrap();
    }

    async fn step(&mut self) {
        match self.rng.u8(..20) {
            0..=5 => self.publish().await,
            6..=8 => {
                let before = self.received.clone();
                self.receive().await;
                assert!(!self.is_paused || self.received == before, "sent during a pause");
            }
            9..=11 => self.confirm(false).await,
            12 => self.pause(true).await,
            13 => self.pause(false).await,
            14..=15 => self.skip().await,
            16 => self.purge().await,
            17 => self.redrive().await,
            18 => self.expire().await,
            _ => self.connect().await,
        }
    }

    /// Everything is delivered that can be; then the promises are checked.
    async fn end(mut self) {
        if self.is_paused {
            self.pause(false).await;
        }
        if self.connected.is_none() {
            self.connect().await;
        }
        let store = Arc::clone(&self.nodes[0].store);
        let fixture = Fixture::of(store.as_ref()).await;
        loop {
            self.receive().await;
            self.confirm(true).await;
            if fixture.again(&self.gateway).await.pending == 0 {
                break;
            }
        }
        self.disconnect(Reason::ClosedByGateway).await;

        let gateway = fixture.again(&self.gateway).await;
        let page = store.read(gateway.key, Sequence::ZERO, 10_000, usize::MAX).await.unwrap();
        let sequences: Vec<i64> = page.rows.iter().map(|row| row.sequence.0).collect();
        assert_eq!(sequences, (1..=gateway.head.0).collect::<Vec<_>>(), "no gap, no repeat");
        let mut deliveries = BTreeMap::new();
        for id in &self.events {
            let history = store.event_history(fixture.organisation, id).await.unwrap().unwrap();
            deliveries.extend(history.deliveries.into_iter().map(|it| (it.sequence.0, it)));
        }
        for sequence in sequences {
            let delivery = &deliveries[&sequence];
            match delivery.state {
                DeliveryState::Pending => panic!("{delivery:?}"),
                DeliveryState::Delivered => {
                    assert!(self.confirmed.contains(&sequence), "never confirmed: {delivery:?}");
                }
                DeliveryState::Failed => {
                    let given_up = |reason| {
                        matches!(reason, Reason::Skipped | Reason::Purged | Reason::Expired)
                    };
                    let mut reasons = delivery.attempts.iter().filter_map(|it| it.reason);
                    // Or it failed too often, because its connections ended.
                    let most = i64::from(Options::default().max_attempts);
                    let is_poison = delivery.failures >= most;
                    assert!(is_poison || reasons.any(given_up), "no reason: {delivery:?}");
                }
            }
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

#[test]
fn any_interleaving_of_actions_and_delivery_keeps_the_promises() {
    let first = super::seed();
    for nth in 0..RUNS {
        let seed = first.wrapping_add(nth);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let run = std::panic::AssertUnwindSafe(|| {
            runtime.expect("a runtime").block_on(async {
                let mut run = Run::start(seed).await;
                for _ in 0..STEPS {
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
