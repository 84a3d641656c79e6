//! Everything in memory, behind one lock: the reference that simulations and
//! model-based tests compare against. Nothing here is durable, and no
//! `database.url` leads here. It answers what the databases answer, errors
//! included, from plain collections that are walked from end to end; what is
//! kept as ranges there is kept as ranges here, because answers show it.
//!
//! The same calls give the same answers: identities are handed in, and time
//! comes from the [`Clock`] that the [`MemoryDatabase`] was made with.

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

mod append;
mod browse;
mod closing;
mod connections;
mod deliveries;
mod expiry;
mod gateways;
mod history;
mod inbox;
mod inbox_verbs;
mod ledger;
mod nodes;
mod positions;
mod record;
mod redrive;
mod retention;
mod tables;
mod tokens;
mod verbs;

use append::Grown;
use tables::Tables;

/// Tells a database the time.
pub(crate) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a database holds, without a server. It outlives the [`MemoryStore`]s
/// that are opened on it, as a file outlives processes that crash. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MemoryDatabase(Arc<Shared>);

struct Shared {
    clock: Clock,
    tables: Mutex<Tables>,
    /// Raised when rows come into the inbox.
    inbox: watch::Sender<u64>,
    /// Who is told that logs have grown.
    nodes: Mutex<BTreeMap<NodeId, Wake>>,
}

impl MemoryDatabase {
    /// An empty one with the organisation `default`.
    pub(crate) fn new(clock: Clock) -> Self {
        let database = Self(Arc::new(Shared {
            clock,
            tables: Mutex::default(),
            inbox: watch::Sender::new(0),
            nodes: Mutex::default(),
        }));
        database.add_organisation("default");
        database
    }

    /// Makes an organisation, or finds it.
    pub(crate) fn add_organisation(&self, name: &str) -> OrganisationKey {
        self.tables().add_organisation(name)
    }

    /// Inserts rows into the inbox, as another program does in a transaction
    /// of its own.
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

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Wake>> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDatabase").finish_non_exhaustive()
    }
}

/// What goes wrong with a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not done, and its caller knows.
    Unavailable,
    /// Its commit fails: it is not done, and its caller does not know.
    UnknownUndone,
    /// Its commit fails: it is done, and its caller does not know. Nobody is woken for it.
    UnknownDone,
    /// It panics: it is not done.
    #[allow(dead_code, reason = "constructed by tests of the dispatcher only")]
    Panic,
}

/// Verbs so far, and what goes wrong with later ones.
#[derive(Debug, Default)]
struct Script {
    verbs: u64,
    faults: BTreeMap<u64, Fault>,
}

/// One node's server on a [`MemoryDatabase`]. A verb is done when it is first
/// polled and answered when it is polled again, so that whoever stops waiting
/// in between has taken nothing back.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    database: MemoryDatabase,
    node: NodeId,
    wake: Wake,
    script: Mutex<Script>,
    is_full: AtomicBool,
    closed: CancellationToken,
    /// The inbox as the last call that waited for it left it.
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

    /// Lets the `nth` verb from now on go wrong; 1 is the next one. A verb
    /// that only reads has no commit: whatever goes wrong, it is unavailable.
    /// What makes nobody wait (`note_use`, `has_room`) and `close` are not counted.
    pub(crate) fn fail(&self, nth: u64, fault: Fault) {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        let nth = script.verbs + nth;
        script.faults.insert(nth, fault);
    }

    /// Lets the disk be full, or not: publishing is refused while it is.
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

    /// Counts a verb; answers what is to go wrong with it.
    fn next_fault(&self) -> Result<Option<Fault>> {
        self.check_open()?;
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.verbs += 1;
        let nth = script.verbs;
        Ok(script.faults.remove(&nth))
    }

    /// Runs a verb that only looks.
    async fn read<T>(&self, look: impl FnOnce(&Tables) -> Result<T>) -> Result<T> {
        let answer = self.next_fault().and_then(|fault| match fault {
            None => look(&self.database.tables()),
            Some(_) => Err(unavailable()),
        });
        tokio::task::yield_now().await;
        answer
    }

    /// Runs a verb that writes. One that answers an error has changed nothing.
    async fn write<T>(&self, work: impl FnOnce(&mut Tables, Timestamp) -> Result<T>) -> Result<T> {
        self.write_then(work, |_| ()).await
    }

    /// The same, and calls `then` right after the commit.
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

    /// Says that logs have grown: with what grew here, and that it grew elsewhere.
    fn appended(&self, grown: Vec<Grown>) {
        for Grown { gateway, head, rows } in grown {
            for (node, wake) in self.database.nodes().iter() {
                if *node != self.node {
                    wake.reached(gateway, head);
                }
            }
            self.wake.appended(gateway, Hint { head, rows: rows.into() });
        }
    }

    fn unserved(&self, gateways: impl IntoIterator<Item = GatewayKey>) {
        gateways.into_iter().for_each(|gateway| self.wake.unserved(gateway));
    }
}

/// An opening that is done and not yet answered: if nobody waits for the
/// answer, nobody will record its end either.
struct Unheard<'a> {
    store: &'a MemoryStore,
    opened: Option<NewConnection>,
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        let Some(new) = self.opened.take() else { return };
        let now = (self.store.database.0.clock)();
        let end = new.unused(now);
        // An end without anything unconfirmed is never refused.
        let _ = self.store.database.tables().record(now, &[end]);
        self.store.unserved([new.gateway]);
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable("the simulation wants it so".to_owned())
}

fn unknown() -> StoreError {
    StoreError::Unknown("the simulation wants it so".to_owned())
}
