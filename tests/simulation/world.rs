//! What is known of a run: what was published, what each replica has applied and confirmed, the trace,
//! and the first broken promise. Service, network and gateways report to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gateway_events::client::reliable::StoredPosition;
use gateway_events::event::{Epoch, EventId, GatewayKey, Reason};
use gateway_events::store::Gateway;
use tokio::time::Instant;

use crate::bugs::Bug;
use crate::network::Line;
use crate::reference::store::MemoryDatabase;

/// The types of events. Some replicas want the first one only.
pub(crate) const TYPES: [&str; 2] = ["api.deployed", "subscription.created"];

/// How a gateway's replicas speak to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Reliable,
    /// Reliable mode, with messages that no gateway should send.
    Hostile,
}

/// Where a replica of reliable mode stores its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// By itself, after the event was applied: a crash in between repeats the event.
    Separate,
    /// In the transaction that applies the event.
    Transactional,
}

/// A published event.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: EventId,
    /// The index of its type.
    pub(crate) event_type: usize,
    pub(crate) payload: String,
    /// Whether it had expired when it was published.
    pub(crate) is_expired: bool,
}

/// A gateway's log, as the service has answered. A restore begins another one.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) epoch: Epoch,
    /// The first has sequence 1.
    pub(crate) rows: Vec<Row>,
}

/// What a copy of the database has about a gateway.
pub(crate) struct Copied {
    pub(crate) log: Log,
    pub(crate) given_up: BTreeMap<i64, bool>,
    pub(crate) settled: BTreeSet<i64>,
    /// Which replicas it knows.
    pub(crate) is_known: Vec<bool>,
}

/// How far a replica has come in one log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Everything up to here is in the replica's state, because it read a snapshot or began here.
    pub(crate) base: i64,
    /// Events that it has applied or rejected.
    pub(crate) applied: BTreeSet<i64>,
    /// Events that it refused for good.
    pub(crate) rejected: BTreeSet<i64>,
    /// Those that it has not applied since, on a repeat.
    pub(crate) rejected_last: BTreeSet<i64>,
    /// The highest sequence that it has confirmed.
    pub(crate) confirmed: i64,
    /// The highest sequence that its connections were sent.
    pub(crate) sent: i64,
}

/// A replica of a gateway. Everything here survives a crash of its process.
pub(crate) struct Replica {
    /// The name in its hello; `None` for unnamed connections.
    pub(crate) name: Option<String>,
    /// Whether it wants events of the first type only.
    pub(crate) is_filtered: bool,
    pub(crate) storage: Storage,
    pub(crate) position: Option<StoredPosition>,
    /// Whether the service knows a position of it: a connection of it was accepted, and if a copy of the
    /// database was restored since, before that was made.
    pub(crate) is_known: bool,
    pub(crate) progress: BTreeMap<Epoch, Progress>,
    /// The number of its newest connection, and when delivery began there.
    pub(crate) connection: Option<(u32, Instant)>,
    /// Events of the current log that it has rejected: they are not sent to it again, even if it has
    /// forgotten that.
    pub(crate) rejected: BTreeSet<i64>,
}

/// A gateway.
pub(crate) struct Known {
    pub(crate) name: &'static str,
    pub(crate) gateway: Gateway,
    pub(crate) kind: Kind,
    /// Whether all instances must confirm.
    pub(crate) needs_all: bool,
    /// The last one is current.
    pub(crate) logs: Vec<Log>,
    pub(crate) replicas: Vec<Replica>,
    /// Deliveries that were dead letters at any time: a position that has passed one stays where it is
    /// when a late confirmation revives it.
    /// False for those that no replica has rejected.
    pub(crate) given_up: BTreeMap<i64, bool>,
    /// Deliveries that are on record as confirmed.
    pub(crate) settled: BTreeSet<i64>,
    /// Rejections that reached a node, which must be on record some time later.
    pub(crate) rejections: Vec<Rejection>,
}

/// A rejection that reached a node.
pub(crate) struct Rejection {
    pub(crate) sequence: i64,
    pub(crate) node: u32,
    pub(crate) by: String,
}

/// Which replica of which gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) gateway: usize,
    pub(crate) replica: usize,
}

/// The state of a run.
pub(crate) struct State {
    pub(crate) gateways: Vec<Known>,
    /// The events of a request that was not answered yet, with the gateways that each is for.
    pub(crate) pending: Vec<(Row, Vec<usize>)>,
    /// Open connections.
    pub(crate) lines: Vec<(Id, Arc<Line>)>,
    /// Whether faults are injected.
    pub(crate) is_faulty: bool,
    broken: Option<String>,
    trace: Option<Vec<String>>,
}

/// The state of a run, shared by all its tasks, which run on one thread.
pub(crate) struct World {
    start: Instant,
    pub(crate) bug: Option<Bug>,
    pub(crate) database: MemoryDatabase,
    state: Mutex<State>,
}

/// Adds a line to the trace: who, and what happened.
macro_rules! note {
    ($world:expr, $who:expr, $($what:tt)+) => {
        if $world.is_traced() {
            $world.note(&$who, &format!($($what)+));
        }
    };
}
pub(crate) use note;

impl World {
    pub(crate) fn new(database: MemoryDatabase, bug: Option<Bug>, is_traced: bool) -> Self {
        let state = State {
            gateways: Vec::new(),
            pending: Vec::new(),
            lines: Vec::new(),
            is_faulty: true,
            broken: None,
            trace: is_traced.then(Vec::new),
        };
        Self { start: Instant::now(), bug, database, state: Mutex::new(state) }
    }

    /// The state. Never held across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.state().trace.is_some()
    }

    pub(crate) fn note(&self, who: &dyn Display, what: &str) {
        let at = self.start.elapsed();
        if let Some(trace) = &mut self.state().trace {
            trace.push(format!("{:>9.3}  {who:<14}  {what}", at.as_secs_f64()));
        }
    }

    /// The promise does not hold.
    pub(crate) fn broken(&self, promise: &str, how: impl Display) {
        let mut state = self.state();
        if state.broken.is_none() {
            state.broken = Some(format!("{promise}: {how}"));
            drop(state);
            note!(self, "check", "BROKEN {promise}: {how}");
        }
    }

    pub(crate) fn verdict(&self) -> Option<String> {
        self.state().broken.clone()
    }

    pub(crate) fn take_trace(&self) -> Vec<String> {
        self.state().trace.take().unwrap_or_default()
    }

    pub(crate) fn is_faulty(&self) -> bool {
        self.state().is_faulty
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// The name of a replica in the trace.
    pub(crate) fn label(&self, id: Id) -> String {
        let state = self.state();
        let known = &state.gateways[id.gateway];
        let name = known.replicas[id.replica].name.as_deref().unwrap_or("-");
        format!("{}/{}{}", known.name, id.replica, if name == "-" { "-" } else { "" })
    }
}

impl Known {
    pub(crate) fn key(&self) -> GatewayKey {
        self.gateway.key
    }

    pub(crate) fn log(&self) -> &Log {
        &self.logs[self.logs.len() - 1]
    }

    /// Whether an event was given up at any time, and not because a replica has rejected it.
    pub(crate) fn was_given_up(&self, sequence: i64) -> bool {
        self.given_up.get(&sequence) == Some(&false)
    }

    pub(crate) fn head(&self) -> i64 {
        length(&self.log().rows)
    }

    /// What a copy of the database has now.
    pub(crate) fn copied(&self) -> Copied {
        Copied {
            log: self.log().clone(),
            given_up: self.given_up.clone(),
            settled: self.settled.clone(),
            is_known: self.replicas.iter().map(|it| it.is_known).collect(),
        }
    }
}

impl Log {
    pub(crate) fn row(&self, sequence: i64) -> Option<&Row> {
        self.rows.get(usize::try_from(sequence - 1).ok()?)
    }
}

impl Replica {
    pub(crate) fn in_log(&mut self, epoch: Epoch) -> &mut Progress {
        self.progress.entry(epoch).or_default()
    }

    /// Whether an event must be delivered to this replica.
    pub(crate) fn wants(&self, row: &Row) -> bool {
        !(row.is_expired || self.is_filtered && row.event_type != 0)
    }
}

impl Progress {
    pub(crate) fn has(&self, sequence: i64) -> bool {
        sequence <= self.base || self.applied.contains(&sequence)
    }
}

/// Dead letters for whose events no delivery is due any more. Those that a replica has rejected are
/// still delivered to others.
pub(crate) struct GivenUp(Vec<(i64, i64, Reason)>);

impl GivenUp {
    pub(crate) fn of(database: &MemoryDatabase, gateway: GatewayKey) -> Self {
        Self(database.dead_letters_of(gateway))
    }

    pub(crate) fn has(&self, sequence: i64) -> bool {
        let those = self.0.iter().filter(|(_, _, reason)| !reason.is_reported());
        those.into_iter().any(|(first, last, _)| (*first..=*last).contains(&sequence))
    }

    /// The dead letters, for any reason.
    pub(crate) fn all(&self) -> impl Iterator<Item = (i64, bool)> {
        let each = |(first, last, reason): &(i64, i64, Reason)| {
            let is_rejected = reason.is_reported();
            (*first..=*last).map(move |it| (it, is_rejected))
        };
        self.0.iter().flat_map(each)
    }

    /// Whether it is a dead letter for any reason.
    pub(crate) fn is_dead(&self, sequence: i64) -> bool {
        self.0.iter().any(|(first, last, _)| (*first..=*last).contains(&sequence))
    }
}

pub(crate) fn length<T>(rows: &[T]) -> i64 {
    i64::try_from(rows.len()).unwrap_or(i64::MAX)
}

/// Whether something with this chance happens: one in `n`.
pub(crate) fn one_in(n: u32) -> bool {
    fastrand::u32(..n) == 0
}
