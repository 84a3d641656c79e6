//! A store in memory, behind one lock: the reference that simulations and model-based tests compare
//! with. It is not durable and no `database.url` selects it. It returns what the databases return,
//! including errors, from plain collections that it scans completely. Ranges are stored as ranges,
//! because results show them.
//!
//! The same calls return the same results: ids are arguments, and the time comes from the [`Clock`]
//! of the [`MemoryDatabase`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use gateway_events::clock::Timestamp;
use gateway_events::event::{GatewayKey, NodeId, OrganisationKey};
use gateway_events::store::{InboxContent, NewConnection, Result, StoreError};
use gateway_events::wake::{Hint, Wake};

mod actions;
mod alerts;
mod append;
mod audit;
mod browse;
mod bulk;
mod closing;
mod connections;
mod console_sessions;
mod credentials;
mod deliveries;
mod diagnosis;
mod event_types;
mod expiry;
pub(crate) mod fault_hook;
mod feed;
mod gateways;
mod health;
mod history;
mod inbox;
mod inbox_edit;
mod instances;
mod ledger;
mod log;
mod maintenance;
mod nodes;
mod positions;
mod record;
mod redrive;
mod resync;
mod retention;
mod rollout;
mod supersession;
mod tables;

use append::Grown;
use fault_hook::{FaultHook, NoFaults};
use tables::Tables;

/// Returns the current time.
pub(crate) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The contents of a database, without a server. It outlives the [`MemoryStore`]s that are opened
/// on it, as a file outlives crashed processes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MemoryDatabase(Arc<Shared>);

struct Shared {
    clock: Clock,
    tables: Mutex<Tables>,
    /// Incremented when rows are inserted into the inbox.
    inbox: watch::Sender<u64>,
    /// The nodes to notify when logs grow.
    nodes: Mutex<BTreeMap<NodeId, Wake>>,
    /// Deliberate bugs.
    fault_hook: Mutex<Arc<dyn FaultHook>>,
}

impl MemoryDatabase {
    /// An empty database with the organisation `default`.
    pub(crate) fn new(clock: Clock) -> Self {
        let database = Self(Arc::new(Shared {
            clock,
            tables: Mutex::default(),
            inbox: watch::Sender::new(0),
            nodes: Mutex::default(),
            fault_hook: Mutex::new(Arc::new(NoFaults)),
        }));
        database.add_organisation("default");
        database
    }

    /// Creates an organisation, or returns the existing one.
    pub(crate) fn add_organisation(&self, name: &str) -> OrganisationKey {
        self.tables().add_organisation(name)
    }

    /// Inserts rows into the inbox, as another program does in its own transaction.
    pub(crate) fn insert_into_inbox(&self, rows: Vec<InboxContent>) {
        let now = (self.0.clock)();
        let mut tables = self.tables();
        for row in rows {
            tables.insert_into_inbox(now, row);
        }
        drop(tables);
        self.0.inbox.send_modify(|version| *version += 1);
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault_hook(&self) -> Arc<dyn FaultHook> {
        Arc::clone(&self.0.fault_hook.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Wake>> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDatabase").finish_non_exhaustive()
    }
}

/// A fault to inject into an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not done, and fails.
    Unavailable,
    /// Its commit fails with unknown outcome, and it is not done.
    UnknownUndone,
    /// Its commit fails with unknown outcome, but it is done. No lane is woken for it.
    UnknownDone,
    /// It panics and is not done.
    #[allow(dead_code, reason = "constructed by tests of the dispatcher only")]
    Panic,
}

/// The number of operations so far, and the faults of later ones.
#[derive(Debug, Default)]
struct Script {
    operations: u64,
    faults: BTreeMap<u64, Fault>,
}

/// A node's store on a [`MemoryDatabase`]. An operation is done when it is first polled, and
/// returns when it is polled again, so a caller that stops waiting in between has not undone it.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    database: MemoryDatabase,
    node: NodeId,
    wake: Wake,
    script: Mutex<Script>,
    is_full: AtomicBool,
    closed: CancellationToken,
    /// The version of the inbox that the last waiting call has seen.
    inbox: tokio::sync::Mutex<Option<watch::Receiver<u64>>>,
}

impl MemoryStore {
    /// Opens a database, and registers the node.
    pub(crate) fn open(database: &MemoryDatabase, node: NodeId, wake: Wake) -> Arc<Self> {
        database.tables().register_node((database.0.clock)(), node);
        database.nodes().insert(node, wake.clone());
        Arc::new(Self {
            database: database.clone(),
            node,
            wake,
            script: Mutex::default(),
            is_full: AtomicBool::new(false),
            closed: CancellationToken::new(),
            inbox: tokio::sync::Mutex::default(),
        })
    }

    /// Injects a fault into the `nth` operation from now on; 1 is the next one. An operation that
    /// only reads has no commit, so with any fault it is unavailable. Operations that don't wait
    /// (`note_use`, `has_room`) and `close` are not counted.
    pub(crate) fn fail(&self, nth: u64, fault: Fault) {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        let nth = script.operations + nth;
        script.faults.insert(nth, fault);
    }

    /// Sets whether the disk is full, so that publishing is refused.
    pub(crate) fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }

    fn check_space(&self) -> Result<()> {
        if self.is_full.load(Ordering::Relaxed) { Err(StoreError::StorageFull) } else { Ok(()) }
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.is_cancelled() {
            return Err(StoreError::Unavailable("the database is closed".to_owned()));
        }
        Ok(())
    }

    /// Counts an operation; returns the fault to inject.
    fn next_fault(&self) -> Result<Option<Fault>> {
        self.check_open()?;
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.operations += 1;
        let nth = script.operations;
        Ok(script.faults.remove(&nth))
    }

    /// Runs an operation that only reads.
    async fn read<T>(&self, read: impl FnOnce(&Tables) -> Result<T>) -> Result<T> {
        let answer = self.next_fault().and_then(|fault| match fault {
            None => read(&self.database.tables()),
            Some(_) => Err(unavailable()),
        });
        tokio::task::yield_now().await;
        answer
    }

    /// Runs an operation that writes. If it returns an error, it has changed nothing.
    async fn write<T>(&self, work: impl FnOnce(&mut Tables, Timestamp) -> Result<T>) -> Result<T> {
        self.write_then(work, |_| ()).await
    }

    /// Likewise, and calls `then` right after the commit.
    async fn write_then<T>(
        &self,
        work: impl FnOnce(&mut Tables, Timestamp) -> Result<T>,
        then: impl FnOnce(&T),
    ) -> Result<T> {
        let answer = self.commit(work, then);
        tokio::task::yield_now().await;
        answer
    }

    fn commit<T>(
        &self,
        work: impl FnOnce(&mut Tables, Timestamp) -> Result<T>,
        then: impl FnOnce(&T),
    ) -> Result<T> {
        let fault = self.next_fault()?;
        match fault {
            Some(Fault::Unavailable) => return Err(unavailable()),
            Some(Fault::UnknownUndone) => return Err(unknown()),
            Some(Fault::Panic) => panic!("a fault of the store, for a test"),
            Some(Fault::UnknownDone) | None => {}
        }
        let now = (self.database.0.clock)();
        let done = work(&mut self.database.tables(), now)?;
        if fault.is_some() {
            return Err(unknown());
        }
        then(&done);
        Ok(done)
    }

    /// Wakes the lanes of this node with the new rows, and those of other nodes without.
    fn appended(&self, grown: Vec<Grown>) {
        for Grown { gateway, head, rows } in grown {
            for (node, wake) in self.database.nodes().iter() {
                if *node != self.node {
                    wake.reached(gateway, head);
                }
            }
            self.wake.appended(gateway, Hint::new(head, rows));
        }
    }

    fn request_sweep(&self, gateways: impl IntoIterator<Item = GatewayKey>) {
        gateways.into_iter().for_each(|gateway| self.wake.request_sweep(gateway));
    }
}

/// An opening that is done but has not returned yet. If its caller stops waiting, the end is
/// recorded here.
struct PendingOpening<'a> {
    store: &'a MemoryStore,
    opened: Option<NewConnection>,
}

impl Drop for PendingOpening<'_> {
    fn drop(&mut self) {
        let Some(new) = self.opened.take() else { return };
        let now = (self.store.database.0.clock)();
        let end = new.unused(now);
        // An end without unconfirmed deliveries is never refused.
        let _ = self.store.database.tables().record(now, &[end]);
        self.store.request_sweep([new.gateway]);
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("injected fault".to_owned())
}

fn unknown() -> StoreError {
    StoreError::Unknown("injected fault".to_owned())
}
