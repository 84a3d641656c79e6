//! One run: a world made by its seed, steps with faults, and then a healed world in which everyone must
//! catch up.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::{
    CorrelationId, Event, EventId, EventType, GatewayId, OrganisationKey, Sequence,
};
use gateway_events::store::{
    Actions as _, Actor, Confirmation, Credentials as _, GatewayChange, Gateways as _, Labels,
    Log as _, Maintenance as _, NewEvent, NewToken, Principal, Publish, Published, RetentionLimits,
    Target, TrimMark,
};
use gateway_events::transport::frames::Credit;
use serde_json::value::RawValue;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::bugs::{Bug, BugHook};
use crate::gateway::Process;
use crate::promises;
use crate::reference::store::MemoryDatabase;
use crate::reference::store::fault_hook::Copy;
use crate::service::Service;
use crate::world::{
    Copied, Id, Kind, Known, Log, Replica, Row, Storage, TYPES, World, note, one_in,
};
use crate::{hostile, plain};

/// Steps with faults.
const STEPS: usize = 26;
/// Everyone must have caught up this long after the last fault.
const CATCH_UP: Duration = Duration::from_mins(4);
const WHY: &str = "requested by the simulation";

/// The outcome of a run.
pub(crate) struct Outcome {
    /// The promise that was broken, and how.
    pub(crate) broken: Option<String>,
    pub(crate) trace: Vec<String>,
    /// Events that were published.
    pub(crate) published: usize,
}

thread_local! {
    /// The message of the first panic on this thread.
    pub(crate) static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a seed, with a deliberate bug if there is one.
pub(crate) fn run(seed: u64, bug: Option<Bug>, is_traced: bool) -> Outcome {
    fastrand::seed(seed);
    PANIC.take();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let mut outcome = runtime.block_on(async {
        let mut run = Run::start(bug, is_traced).await;
        run.faults().await;
        run.end_faults().await;
        let published = run.published;
        Outcome { broken: run.world.verdict(), trace: run.world.take_trace(), published }
    });
    drop(runtime);
    if let Some(panic) = PANIC.take() {
        outcome.broken.get_or_insert(format!("nothing panics: {panic}"));
    }
    outcome
}

/// The organisation `default`, which a database has from its start.
pub(crate) fn organisation() -> OrganisationKey {
    OrganisationKey(1)
}

fn actor() -> Actor {
    Principal::access_token("6kzj2v7qmw4t", "simulation", None, None)
        .in_organisation(organisation())
}

struct Run {
    world: Arc<World>,
    service: Arc<Service>,
    processes: BTreeMap<Id, Process>,
    tasks: Vec<JoinHandle<()>>,
    /// A copy of the database, and what it has about each gateway.
    copy: Option<(Copy, Vec<Copied>)>,
    /// By how much the database's clock is wrong, in microseconds.
    skew: Arc<AtomicI64>,
    published: usize,
}

impl Run {
    async fn start(bug: Option<Bug>, is_traced: bool) -> Self {
        let skew = Arc::new(AtomicI64::new(0));
        let wrong = Arc::clone(&skew);
        let clock = Arc::new(move || {
            let now = Timestamp::now().micros();
            Timestamp::from_micros(now + wrong.load(Ordering::Relaxed))
        });
        let database = MemoryDatabase::new(clock);
        if let Some(bug) = bug {
            database.set_fault_hook(Arc::new(BugHook::new(bug)));
        }
        let world = Arc::new(World::new(database, bug, is_traced));
        let nodes = if one_in(4) { 2 } else { 1 };
        let service = Service::new(&world, nodes);
        service.start();
        let mut run = Self {
            world,
            service,
            processes: BTreeMap::new(),
            tasks: Vec::new(),
            copy: None,
            skew,
            published: 0,
        };
        run.add("alpha", Kind::Reliable).await;
        run.add("beta", if one_in(2) { Kind::Reliable } else { Kind::Plain }).await;
        run.add("gamma", Kind::Plain).await;
        if one_in(2) {
            run.add("mallory", Kind::Hostile).await;
        }
        for id in run.ids() {
            run.connect(id);
        }
        run
    }

    fn ids(&self) -> Vec<Id> {
        let state = self.world.state();
        let of = |(gateway, known): (usize, &Known)| {
            (0..known.replicas.len())
                .map(move |replica| Id { gateway, replica })
                .collect::<Vec<_>>()
        };
        state.gateways.iter().enumerate().flat_map(of).collect()
    }

    /// Registers a gateway with one or two replicas.
    async fn add(&mut self, name: &'static str, kind: Kind) {
        let count = if kind == Kind::Hostile { 1 } else { fastrand::usize(1..=2) };
        let is_named = kind != Kind::Plain && !(kind == Kind::Reliable && one_in(5));
        let needs_all = kind == Kind::Reliable && is_named && one_in(2);
        let node = self.service.any().expect("a node");
        let number = self.world.state().gateways.len() as u128 + 1;
        let id = GatewayId(uuid::Uuid::from_u128(number));
        let replicas = if is_named { 1 } else { i64::try_from(count).expect("few") };
        let created =
            node.store.create_gateway(&actor(), id, name, &Labels::default(), replicas).await;
        let gateway = created.expect("no fault is injected yet");
        let token = NewToken { id: name.to_owned(), digest: [1; 32], expires_at: None };
        node.store.create_gateway_token(&actor(), id, token).await.expect("no fault yet");
        if needs_all {
            let confirmation = Some(Confirmation::All);
            let change = GatewayChange { confirmation, ..GatewayChange::default() };
            node.store.update_gateway(&actor(), id, change).await.expect("no fault yet");
        }
        let epoch = self.world.database.log_of(gateway.key).0;
        let replica = |nth: usize| Replica {
            name: is_named.then(|| format!("{name}-{nth}")),
            is_filtered: kind == Kind::Reliable && one_in(4),
            storage: if one_in(2) { Storage::Separate } else { Storage::Transactional },
            position: None,
            is_known: false,
            progress: BTreeMap::new(),
            connection: None,
            rejected: BTreeSet::new(),
        };
        let replicas = (0..count).map(replica).collect();
        let logs = vec![Log { epoch, rows: Vec::new() }];
        self.world.state().gateways.push(Known {
            name,
            gateway,
            kind,
            needs_all,
            logs,
            replicas,
            given_up: BTreeMap::new(),
            settled: BTreeSet::new(),
            rejections: Vec::new(),
        });
    }

    /// Starts the process of a replica.
    fn connect(&mut self, id: Id) {
        let (world, service) = (Arc::clone(&self.world), Arc::clone(&self.service));
        let kind = self.world.state().gateways[id.gateway].kind;
        match kind {
            Kind::Plain => self.tasks.push(tokio::spawn(plain::run(world, service, id))),
            Kind::Hostile => self.tasks.push(tokio::spawn(hostile::run(world, service, id))),
            Kind::Reliable => {
                self.processes.entry(id).or_insert_with(|| Process::start(&world, &service, id));
            }
        }
    }

    async fn faults(&mut self) {
        for _ in 0..STEPS {
            let pause = if one_in(6) { fastrand::u64(1000..9000) } else { fastrand::u64(0..500) };
            sleep_until(Instant::now() + Duration::from_millis(pause)).await;
            self.step().await;
            promises::check_store(&self.world, &self.service);
            if self.world.verdict().is_some() {
                return;
            }
        }
    }

    async fn step(&mut self) {
        match fastrand::u8(..100) {
            0..=43 => self.publish().await,
            44..=57 => self.service.fail(),
            58..=67 => self.break_line(),
            68..=74 => self.crash_client(),
            75..=79 => self.start_clients(),
            80..=83 => self.restart_service().await,
            84..=85 => self.copy_or_restore().await,
            86..=88 => self.change_credit(),
            89..=91 => self.administer().await,
            92..=93 => self.trim().await,
            94..=95 => {
                let skew = fastrand::i64(-2_000_000..2_000_000);
                note!(self.world, "clock", "the database's clock is off by {skew} us");
                self.skew.store(skew, Ordering::Relaxed);
            }
            _ => self.lose_position(),
        }
    }

    /// Publishes some events in one request, or repeats the last one that was not answered.
    async fn publish(&mut self) {
        if self.world.state().pending.is_empty() {
            let count = fastrand::usize(1..=3);
            let rows = (0..count).map(|_| self.draw()).collect();
            self.world.state().pending = rows;
        }
        for _ in 0..3 {
            let Some(node) = self.service.any() else { return };
            let pending = self.world.state().pending.clone();
            let events = pending.iter().map(|(row, of)| Ok(self.event(row, of))).collect();
            let publish = Publish { organisation: organisation(), events, idempotency: None };
            match node.store.append(publish).await {
                Ok(Published::Done(answers)) => return self.published(answers),
                Ok(other) => {
                    self.world.broken("what is valid is accepted", format!("{other:?}"));
                    return;
                }
                Err(error) => note!(self.world, "publisher", "{error}"),
            }
        }
    }

    fn draw(&mut self) -> (Row, Vec<usize>) {
        self.published += 1;
        let number = self.published;
        let gateways = self.world.state().gateways.len();
        let mut of: Vec<usize> = (0..gateways).filter(|_| one_in(2)).collect();
        if of.is_empty() {
            of.push(fastrand::usize(..gateways));
        }
        let row = Row {
            id: EventId::new(format!("e-{number}")).expect("an id"),
            event_type: usize::from(one_in(4)),
            payload: format!("{{\"number\":{number}}}"),
            is_expired: one_in(14),
        };
        (row, of)
    }

    fn event(&self, row: &Row, of: &[usize]) -> NewEvent {
        let state = self.world.state();
        let target = of.iter().map(|nth| state.gateways[*nth].gateway.id).collect();
        NewEvent {
            event: Arc::new(Event {
                id: row.id.clone(),
                event_type: EventType::new(TYPES[row.event_type]).expect("a type"),
                payload: RawValue::from_string(row.payload.clone()).expect("JSON"),
                correlation_id: CorrelationId::new(row.id.as_str()).expect("an id"),
                user_id: None,
                occurred_at: Timestamp::now(),
                expires_at: row.is_expired.then(|| Timestamp::from_micros(1)),
                traceparent: None,
                attributes: None,
            }),
            is_named: true,
            target: Target::Gateways(target),
            digest: [1; 32],
            collapse: None,
            artifact_id: None,
            deployment_id: None,
        }
    }

    /// Compares an answer with what is known.
    fn published(
        &self,
        answers: Vec<Result<gateway_events::store::Appended, gateway_events::store::Refusal>>,
    ) {
        let mut state = self.world.state();
        let pending = std::mem::take(&mut state.pending);
        let mut broken = None;
        for ((row, of), answer) in pending.into_iter().zip(answers) {
            let Ok(appended) = answer else {
                broken = Some(format!("{} was refused", row.id));
                continue;
            };
            for nth in of {
                let known = &mut state.gateways[nth];
                let delivery =
                    appended.deliveries.iter().find(|it| it.gateway_id == known.gateway.id);
                let sequence = delivery.map_or(0, |it| it.sequence.0);
                let next = known.head() + 1;
                let name = known.name;
                let Some(log) = known.logs.last_mut() else { continue };
                if sequence == next {
                    log.rows.push(row.clone());
                } else if log.row(sequence).is_none_or(|it| it.id != row.id) {
                    broken = Some(format!("{name}: {} got {sequence} instead of {next}", row.id));
                }
            }
        }
        drop(state);
        note!(self.world, "publisher", "published up to e-{}", self.published);
        if let Some(how) = broken {
            self.world.broken("an accepted event has a sequence of its own", how);
        }
    }

    /// Breaks a connection, with or without notice.
    fn break_line(&self) {
        let mut state = self.world.state();
        state.lines.retain(|(_, line)| Arc::strong_count(line) > 1);
        if state.lines.is_empty() {
            return;
        }
        let nth = fastrand::usize(..state.lines.len());
        let (id, line) = state.lines.swap_remove(nth);
        drop(state);
        if one_in(2) {
            note!(self.world, self.world.label(id), "connection reset");
            line.reset();
        } else {
            note!(self.world, self.world.label(id), "connection half open");
            line.silence();
        }
    }

    fn crash_client(&mut self) {
        let all: Vec<Id> = self.processes.keys().copied().collect();
        if all.is_empty() {
            return;
        }
        let id = all[fastrand::usize(..all.len())];
        if let Some(process) = self.processes.remove(&id) {
            process.crash(&self.world, id);
        }
        if one_in(2) {
            self.connect(id);
        }
    }

    fn start_clients(&mut self) {
        let kind = |id: &Id| self.world.state().gateways[id.gateway].kind;
        let all = self.ids().into_iter().filter(|id| kind(id) == Kind::Reliable);
        for id in all.collect::<Vec<_>>() {
            self.connect(id);
        }
    }

    async fn restart_service(&mut self) {
        if one_in(2) {
            self.service.crash().await;
        } else {
            self.service.stop().await;
        }
        if one_in(2) {
            let pause = Duration::from_millis(fastrand::u64(10..4000));
            sleep_until(Instant::now() + pause).await;
        }
        self.service.start();
    }

    async fn copy_or_restore(&mut self) {
        if !self.world.state().pending.is_empty() {
            return;
        }
        match self.copy.take() {
            None => {
                let copied = self.world.state().gateways.iter().map(Known::copied).collect();
                note!(self.world, "operator", "copies the database");
                self.copy = Some((self.world.database.copy(), copied));
            }
            Some((copy, copied)) => {
                self.service.stop_all().await;
                note!(self.world, "operator", "restores the copy");
                self.world.database.restore(&copy, self.world.has(Bug::ReuseNumber));
                self.restored(copied);
                self.service.start();
            }
        }
    }

    /// What replicas have of the restored logs is what they had of the former ones.
    fn restored(&mut self, copied: Vec<Copied>) {
        let mut state = self.world.state();
        for (known, copied) in state.gateways.iter_mut().zip(copied) {
            let before = known.log().epoch;
            let epoch = self.world.database.log_of(known.gateway.key).0;
            let Copied { log: Log { rows, .. }, given_up, settled, is_known } = copied;
            let head = crate::world::length(&rows);
            known.given_up = given_up;
            known.settled = settled;
            known.rejections.clear();
            let positions = self.world.database.positions_of(known.gateway.key);
            for (replica, was_known) in known.replicas.iter_mut().zip(is_known) {
                replica.rejected.clear();
                // A replica that the copy does not know is a new one.
                replica.is_known &= match &replica.name {
                    Some(name) => positions.iter().any(|it| it.name == *name),
                    None => was_known,
                };
                let mut progress = replica.progress.get(&before).cloned().unwrap_or_default();
                progress.base = progress.base.min(head);
                progress.confirmed = progress.confirmed.min(head);
                progress.sent = progress.sent.min(head);
                progress.applied.retain(|it| *it <= head);
                progress.rejected.retain(|it| *it <= head);
                progress.rejected_last.clear();
                replica.progress.insert(epoch, progress);
            }
            known.logs.push(Log { epoch, rows });
        }
    }

    fn change_credit(&self) {
        let all: Vec<Id> = self.processes.keys().copied().collect();
        if all.is_empty() {
            return;
        }
        let id = all[fastrand::usize(..all.len())];
        let window = if one_in(2) { 0 } else { fastrand::u32(1..8) };
        note!(self.world, self.world.label(id), "sets its window to {window}");
        // Events have up to some hundred bytes.
        let window_bytes = one_in(3).then(|| fastrand::u64(1..2000));
        self.processes[&id].client.set_window(Credit { window: Some(window), window_bytes });
    }

    /// An admin pauses or resumes a gateway, or skips an event.
    async fn administer(&mut self) {
        let Some(node) = self.service.any() else { return };
        let nth = fastrand::usize(..self.world.state().gateways.len());
        let (id, name, head) = {
            let state = self.world.state();
            let known = &state.gateways[nth];
            (known.gateway.id, known.name, known.head())
        };
        match fastrand::u8(..4) {
            0 => {
                note!(self.world, "admin", "pauses {name}");
                let _ = node.store.pause_gateway(&actor(), id, Some(WHY), false).await;
            }
            1 => {
                note!(self.world, "admin", "resumes {name}");
                let _ = node.store.resume_gateway(&actor(), id, false).await;
            }
            _ => {
                let sequence = Sequence(fastrand::i64(head - 4..=head));
                note!(self.world, "admin", "skips {sequence} of {name}");
                let skipped = node.store.skip_delivery(&actor(), id, sequence, WHY, false).await;
                if skipped.is_ok_and(|skipped| skipped.changed) {
                    // A later confirmation makes it delivered.
                    let known = &mut self.world.state().gateways[nth];
                    known.given_up.insert(sequence.0, false);
                }
            }
        }
    }

    /// Trims the logs, mostly what is confirmed.
    async fn trim(&self) {
        const LONG: Duration = Duration::from_hours(1000);
        let Some(node) = self.service.any() else { return };
        let limits = RetentionLimits {
            max_age: LONG,
            max_events: 3,
            hard_max_age: LONG,
            hard_max_events: if one_in(2) { 6 } else { i64::MAX / 2 },
            dead_letter_max_age: LONG,
            orphaned_cursor_max_age: LONG,
            instance_max_age: LONG,
            audit_max_age: LONG,
            batch: 1000,
        };
        note!(self.world, "retention", "trims, at most {} are kept", limits.hard_max_events);
        let _ = node.store.trim(&limits, &mut TrimMark::default()).await;
    }

    /// The disk of a replica is lost, except what it has applied.
    fn lose_position(&mut self) {
        let all: Vec<Id> = self.processes.keys().copied().collect();
        if all.is_empty() {
            return;
        }
        let id = all[fastrand::usize(..all.len())];
        if let Some(process) = self.processes.remove(&id) {
            process.crash(&self.world, id);
        }
        let mut state = self.world.state();
        let replica = &mut state.gateways[id.gateway].replicas[id.replica];
        // An unnamed replica that names no position starts at any position of the gateway.
        if replica.name.is_some() && replica.storage == Storage::Separate {
            replica.position = None;
            drop(state);
            note!(self.world, self.world.label(id), "loses its position");
        } else {
            drop(state);
        }
        self.connect(id);
    }

    /// Ends all faults. Then everyone must catch up.
    async fn end_faults(&mut self) {
        if self.world.verdict().is_some() {
            return;
        }
        note!(self.world, "simulation", "HEALED");
        self.world.state().is_faulty = false;
        self.skew.store(0, Ordering::Relaxed);
        self.service.start();
        self.start_clients();
        for process in self.processes.values() {
            process.client.set_window(Credit { window: Some(8), window_bytes: None });
        }
        let deadline = Instant::now() + CATCH_UP;
        self.resume_all(deadline).await;
        loop {
            if !self.world.state().pending.is_empty() {
                self.publish().await;
            }
            promises::check_store(&self.world, &self.service);
            let waiting = self.world.state().pending.len();
            let left = match waiting {
                0 => promises::unfinished(&self.world),
                _ => Some(format!("{waiting} events are not accepted")),
            };
            let Some(left) = left else { break };
            if self.world.verdict().is_some() {
                return;
            }
            if Instant::now() > deadline {
                return self.world.broken("everyone catches up", left);
            }
            sleep_until(Instant::now() + Duration::from_secs(1)).await;
        }
        self.end().await;
    }

    async fn resume_all(&self, deadline: Instant) {
        let ids: Vec<GatewayId> =
            self.world.state().gateways.iter().map(|it| it.gateway.id).collect();
        for id in ids {
            while let Some(node) = self.service.any() {
                // Lanes are not notified of a change whose outcome is unknown. Where that can happen, a node
                // polls for changes; here, another change follows.
                let _ = node.store.pause_gateway(&actor(), id, Some(WHY), false).await;
                let resumed = node.store.resume_gateway(&actor(), id, false).await;
                if resumed.is_ok_and(|it| it.changed) || Instant::now() > deadline {
                    break;
                }
            }
        }
    }

    /// All gateways disconnect: nothing may count as connected any more.
    async fn end(&mut self) {
        for (_, process) in std::mem::take(&mut self.processes) {
            process.stop().await;
        }
        for task in self.tasks.drain(..) {
            task.abort();
        }
        for (_, line) in self.world.state().lines.drain(..) {
            line.reset();
        }
        let deadline = Instant::now() + Duration::from_mins(2);
        loop {
            promises::check_store(&self.world, &self.service);
            let left = promises::connected(&self.world);
            let Some(left) = left.filter(|_| self.world.verdict().is_none()) else { return };
            if Instant::now() > deadline {
                return self.world.broken("a connection that has ended is recorded as ended", left);
            }
            sleep_until(Instant::now() + Duration::from_secs(2)).await;
        }
    }
}
