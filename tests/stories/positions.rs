//! Whatever a gateway's replicas do, each of them receives every event, and the number of repeats
//! stays bounded. A failure prints the shortest steps that lead to it. `MODEL_CASES` sets the
//! number of cases.

#![expect(clippy::unwrap_used, reason = "a story that finds no answer has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, NodeId, Reason};
use gateway_events::store::{
    Gateway, GatewayChange, Health as _, Record, RetentionLimits, Store, TrimMark,
};
use gateway_events::wake::Wake;
use proptest::prelude::*;

use crate::conformance::{Fixture, keep_all, range};
use crate::reference::store::{MemoryDatabase, MemoryStore};
use crate::server::Database;
use crate::{store_postgres, store_sqlite};

/// How long a replica may be disconnected.
const POSITION_MAX_AGE: Duration = Duration::from_hours(1);

#[derive(Clone, Debug)]
enum Step {
    Publish,
    Connect(usize),
    /// The connection dies without FIN: it is still recorded as open.
    Dies(usize),
    /// Some of what it was sent is confirmed, or everything.
    Confirms(usize, i64),
    /// A pong that confirms nothing.
    Signs(usize),
    /// It ends, which its replica notices, and reconnects at once or not.
    Ends(usize, bool),
    /// A dead connection is detected, or lost with its node.
    IsNoticed(Reason),
    Waits(Duration),
    /// Old positions of ended connections are deleted.
    Trims,
}

fn steps(replicas: usize) -> impl Strategy<Value = Vec<Step>> {
    let reason = prop::sample::select(vec![Reason::HeartbeatTimeout, Reason::NodeLost]);
    let step = prop_oneof![
        3 => Just(Step::Publish),
        5 => (0..replicas).prop_map(Step::Connect),
        3 => (0..replicas).prop_map(Step::Dies),
        5 => (0..replicas, 1..4_i64).prop_map(|(nth, part)| Step::Confirms(nth, part)),
        3 => (0..replicas).prop_map(Step::Signs),
        3 => (0..replicas, any::<bool>()).prop_map(|(nth, back)| Step::Ends(nth, back)),
        2 => reason.prop_map(Step::IsNoticed),
        1 => (1..40_u64).prop_map(|minutes| Step::Waits(Duration::from_mins(minutes))),
        1 => Just(Step::Trims),
    ];
    prop::collection::vec(step, 1..60)
}

/// A connection as its replica knows it.
#[derive(Clone, Copy)]
struct Live {
    id: ConnectionId,
    position: i64,
    seen_at: Timestamp,
}

#[derive(Default)]
struct Replica {
    live: Option<Live>,
    /// What it has confirmed, on any connection.
    confirmed: i64,
    /// When it was last connected.
    left_at: Option<Timestamp>,
}

/// What really happened, which the store can only infer.
struct World<'a> {
    fixture: Fixture<'a>,
    gateway: Gateway,
    now: &'a (dyn Fn() -> Timestamp + Sync),
    declared: bool,
    replicas: Vec<Replica>,
    /// Dead connections that are recorded as open, with their positions.
    dead: Vec<(ConnectionId, i64)>,
    head: i64,
    /// When the last connection was opened.
    opened_at: Timestamp,
    /// Until when it is recorded that all replicas were alive at the same time.
    proven_until: Option<Timestamp>,
}

impl World<'_> {
    /// Whether the store can infer the number of replicas.
    fn number_holds(&self, now: Timestamp) -> bool {
        self.declared
            || self.replicas.len() == 1
            || self.proven_until.is_some_and(|until| now < until)
    }

    /// All are connected, and each but the last has shown activity since.
    fn all_alive(&self) -> Option<Timestamp> {
        let seen = self.replicas.iter().map(|replica| replica.live.map(|live| live.seen_at));
        let seen: Option<Vec<Timestamp>> = seen.collect();
        let first = seen?.into_iter().min()?;
        (first > self.opened_at).then_some(first)
    }

    fn sign(&mut self, nth: usize) {
        let now = (self.now)();
        if let Some(live) = &mut self.replicas[nth].live {
            live.seen_at = now;
        }
        if let Some(first) = self.all_alive() {
            self.proven_until = self.proven_until.max(Some(first.plus(POSITION_MAX_AGE)));
        }
    }

    async fn apply(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Publish => {
                self.fixture.fill(&self.gateway, 1).await;
                self.head += 1;
            }
            Step::Connect(nth) if self.replicas[nth].live.is_none() => {
                self.connect(nth, false).await?;
            }
            Step::Dies(nth) => {
                if let Some(live) = self.replicas[nth].live.take() {
                    self.dead.push((live.id, live.position));
                    // The position is kept for an hour after the last activity.
                    self.replicas[nth].left_at = Some(live.seen_at);
                }
            }
            Step::Confirms(nth, part) => self.confirms(nth, part).await,
            Step::Signs(nth) => {
                if let Some(live) = self.replicas[nth].live {
                    let sign = Record::Heartbeat { connection: live.id, at: (self.now)() };
                    self.fixture.record(vec![sign]).await;
                    self.sign(nth);
                }
            }
            Step::Ends(nth, comes_back) if self.replicas[nth].live.is_some() => {
                let all_have_all =
                    |replica: &Replica| replica.live.is_some_and(|it| it.position == self.head);
                let is_settled =
                    self.all_alive().is_some() && self.replicas.iter().all(all_have_all);
                let live = self.replicas[nth].live.take().unwrap();
                self.close(live.id, live.position, Reason::ClosedByGateway, true).await?;
                let now = (self.now)();
                // Without activity for an hour, the position may have been deleted.
                let is_kept = now.since(live.seen_at) < POSITION_MAX_AGE;
                self.replicas[nth].left_at = Some(if is_kept { now } else { live.seen_at });
                if comes_back {
                    self.connect(nth, is_settled).await?;
                }
            }
            Step::IsNoticed(reason) if !self.dead.is_empty() => {
                let (id, position) = self.dead.remove(0);
                self.close(id, position, reason, false).await?;
            }
            Step::Trims => {
                let limits =
                    RetentionLimits { orphaned_cursor_max_age: POSITION_MAX_AGE, ..keep_all() };
                let mut mark = TrimMark::default();
                while self.fixture.store.trim(&limits, &mut mark).await.unwrap().more {}
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks that nothing is skipped that the replica has not confirmed.
    async fn connect(&mut self, nth: usize, is_settled: bool) -> Result<(), TestCaseError> {
        let (id, start, _) = self.fixture.open(&self.gateway).await;
        let now = (self.now)();
        let (start, replica) = (start.0, &self.replicas[nth]);
        // A replica that was never connected has missed nothing.
        let returns = replica.left_at.is_some_and(|left_at| now.since(left_at) < POSITION_MAX_AGE);
        let holds = self.number_holds(now) && returns;
        if holds {
            prop_assert!(start <= replica.confirmed, "{start} is beyond {}", replica.confirmed);
        }
        if holds && self.replicas.len() == 1 || is_settled {
            prop_assert_eq!(start, replica.confirmed, "what was confirmed is repeated");
        }
        let confirmed = replica.confirmed.max(start);
        let live = Some(Live { id, position: start, seen_at: now });
        self.replicas[nth] = Replica { live, confirmed, left_at: None };
        self.opened_at = now;
        Ok(())
    }

    async fn confirms(&mut self, nth: usize, part: i64) {
        let head = self.head;
        let Some(live) = self.replicas[nth].live.filter(|live| live.position < head) else {
            return;
        };
        let to = live.position + ((head - live.position) / part).max(1);
        let receipt = crate::conformance::confirmed(&self.gateway, live.id, live.position + 1, to);
        self.fixture.record(vec![receipt]).await;
        let replica = &mut self.replicas[nth];
        replica.live = Some(Live { position: to, ..live });
        replica.confirmed = replica.confirmed.max(to);
        self.sign(nth);
    }

    /// Checks that what is above the gateway's position fails, and nothing else.
    async fn close(
        &mut self,
        id: ConnectionId,
        position: i64,
        reason: Reason,
        is_sign: bool,
    ) -> Result<(), TestCaseError> {
        let confirmed = self.fixture.again(&self.gateway).await.confirmed.0;
        let before = self.fixture.store.totals(self.fixture.organisation).await.unwrap();
        let unconfirmed = (position < self.head).then(|| range(position + 1, self.head));
        let mut end = crate::conformance::closed(&self.gateway, id, reason, unconfirmed, false);
        if let Record::Closed { alive_at, .. } = &mut end {
            *alive_at = is_sign.then(|| (self.now)());
        }
        self.fixture.record(vec![end]).await;
        let after = self.fixture.store.totals(self.fixture.organisation).await.unwrap();
        let failed =
            if reason == Reason::NodeLost { 0 } else { self.head - confirmed.max(position) };
        prop_assert_eq!(after.failed_attempts - before.failed_attempts, failed);
        Ok(())
    }
}

async fn run_steps(
    store: &dyn Store,
    now: &(dyn Fn() -> Timestamp + Sync),
    wait: &(dyn Fn(Duration) + Sync),
    (replicas, declared): (usize, bool),
    steps: &[Step],
) -> Result<(), TestCaseError> {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    if declared {
        let replicas = Some(i64::try_from(replicas).unwrap());
        let change = GatewayChange { replicas, ..GatewayChange::default() };
        store.update_gateway(&fixture.actor(), gateway.id, change).await.unwrap();
    }
    let mut world = World {
        fixture,
        gateway,
        now,
        declared,
        replicas: (0..replicas).map(|_| Replica::default()).collect(),
        dead: Vec::new(),
        head: 0,
        opened_at: now(),
        proven_until: None,
    };
    for step in steps {
        if let Step::Waits(duration) = step {
            wait(*duration);
        }
        world.apply(step).await?;
    }
    Ok(())
}

fn run(
    cases: u32,
    check: impl Fn(&tokio::runtime::Runtime, (usize, bool), &[Step]) -> Result<(), TestCaseError>,
) {
    let cases = std::env::var("MODEL_CASES").ok().and_then(|it| it.parse().ok()).unwrap_or(cases);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for kind in [(1, false), (2, false), (3, false), (2, true), (3, true)] {
        let mut runner = proptest::test_runner::TestRunner::new(config.clone());
        let outcome = runner.run(&steps(kind.0), |steps| check(&runtime, kind, &steps));
        if let Err(failure) = outcome {
            panic!("replicas, declared: {kind:?}: {failure}");
        }
    }
}

#[test]
fn each_replica_gets_every_event_whatever_happens_and_however_time_passes() {
    run(400, |runtime, kind, steps| {
        let clock = Arc::new(AtomicI64::new(Timestamp::now().micros()));
        let ticking = Arc::clone(&clock);
        let now = move || Timestamp::from_micros(ticking.fetch_add(1, Ordering::Relaxed));
        let wait = |duration: Duration| {
            let micros = i64::try_from(duration.as_micros()).unwrap();
            clock.fetch_add(micros, Ordering::Relaxed);
        };
        let database = MemoryDatabase::new(Arc::new(now.clone()));
        let store = MemoryStore::open(&database, NodeId::new(), Wake::default());
        runtime.block_on(run_steps(store.as_ref(), &now, &wait, kind, steps))
    });
}

#[test]
fn the_embedded_store_keeps_the_same_positions() {
    run(12, |runtime, kind, steps| {
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let store = store_sqlite::open_with(directory.path(), NodeId::new(), Wake::default())
                .await
                .unwrap();
            let outcome = run_steps(store.as_ref(), &Timestamp::now, &drop, kind, steps).await;
            store.close().await;
            outcome
        })
    });
}

#[test]
fn the_shared_store_keeps_the_same_positions() {
    let database = Database::new();
    run(12, |runtime, kind, steps| {
        runtime.block_on(async {
            let store =
                store_postgres::open_with(&database, NodeId::new(), Wake::default()).await.unwrap();
            let outcome = run_steps(store.as_ref(), &Timestamp::now, &drop, kind, steps).await;
            store.close().await;
            outcome
        })
    });
}
