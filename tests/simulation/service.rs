//! The service: one or two nodes on one database, with the real dispatcher, recorder and jobs. A node
//! that crashes loses everything that it has not stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use gateway_events::client::CancellationToken;
use gateway_events::dispatch::{Admission, Dispatcher, Options};
use gateway_events::event::{NodeId, Sequence};
use gateway_events::jobs::Supervisor;
use gateway_events::store::{Health as _, Nodes as _};
use gateway_events::wake::Wake;
use tokio::time::{Instant, sleep_until};

use crate::reference::store::{Fault, MemoryStore};
use crate::world::{World, note, one_in};

/// Events that a connection may have in flight.
pub(crate) const WINDOW: u32 = 6;
/// A gateway must confirm something within this time.
pub(crate) const CONFIRMATION: Duration = Duration::from_secs(20);
/// The interval between heartbeats of nodes.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A node.
pub(crate) struct Node {
    pub(crate) number: u32,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    /// Cancelled when it crashes or has stopped.
    pub(crate) down: CancellationToken,
    jobs: Supervisor,
}

/// All nodes.
pub(crate) struct Service {
    world: Arc<World>,
    nodes: Mutex<Vec<Arc<Node>>>,
    started: AtomicU32,
    /// How many nodes run normally.
    pub(crate) size: usize,
}

impl Service {
    pub(crate) fn new(world: &Arc<World>, size: usize) -> Arc<Self> {
        let (world, nodes) = (Arc::clone(world), Mutex::default());
        Arc::new(Self { world, nodes, started: AtomicU32::new(0), size })
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the nodes that are missing.
    pub(crate) fn start(&self) {
        while self.nodes().len() < self.size {
            let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
            let node = Node::start(&self.world, number, self.size > 1);
            self.nodes().push(Arc::new(node));
        }
    }

    /// Any running node.
    pub(crate) fn any(&self) -> Option<Arc<Node>> {
        let nodes = self.nodes();
        if nodes.is_empty() {
            return None;
        }
        Some(Arc::clone(&nodes[fastrand::usize(..nodes.len())]))
    }

    pub(crate) fn has_stopped(&self, number: u32) -> bool {
        self.nodes().iter().all(|node| node.number != number)
    }

    /// Kills a node.
    pub(crate) async fn crash(&self) {
        let Some(node) = self.any() else { return };
        self.nodes().retain(|other| other.number != node.number);
        note!(self.world, format!("node {}", node.number), "CRASH");
        node.down.cancel();
        node.store.close().await;
        tokio::spawn(async move { node.jobs.stop().await });
    }

    /// Shuts a node down.
    pub(crate) async fn stop(&self) {
        let Some(node) = self.any() else { return };
        self.nodes().retain(|other| other.number != node.number);
        note!(self.world, format!("node {}", node.number), "shuts down");
        node.dispatcher.drain(Duration::from_secs(1)).await;
        node.jobs.stop().await;
        node.store.close().await;
        node.down.cancel();
        note!(self.world, format!("node {}", node.number), "has stopped");
    }

    pub(crate) async fn stop_all(&self) {
        while self.any().is_some() {
            if one_in(2) { self.crash().await } else { self.stop().await }
        }
    }

    /// Makes one of the next operations of a node's store fail.
    pub(crate) fn fail(&self) {
        let Some(node) = self.any() else { return };
        let nth = fastrand::u64(1..12);
        let fault = match fastrand::u8(..3) {
            0 => Fault::Unavailable,
            1 => Fault::UnknownUndone,
            _ => Fault::UnknownDone,
        };
        note!(self.world, format!("node {}", node.number), "operation +{nth} fails: {fault:?}");
        node.store.fail(nth, fault);
    }

    /// A gateway whose key was checked.
    pub(crate) fn admission(&self, gateway: usize) -> Admission {
        let state = self.world.state();
        let known = &state.gateways[gateway];
        Admission {
            gateway: known.key(),
            gateway_id: known.gateway.id,
            gateway_name: known.name.into(),
            organisation: crate::run::organisation(),
            token: known.name.to_owned(),
            token_expires_at: None,
            transport: "memory",
            remote_address: "192.0.2.1".to_owned(),
        }
    }
}

/// Read once, because parsing the defaults takes as long as many events.
static OPTIONS: LazyLock<Options> = LazyLock::new(options);

fn options() -> Options {
    let mut options =
        Options { window_events: 4, confirmation_timeout: CONFIRMATION, ..Options::default() };
    options.reliable.window = WINDOW;
    options
}

impl Node {
    fn start(world: &Arc<World>, number: u32, is_shared: bool) -> Self {
        note!(world, format!("node {number}"), "starts");
        let wake = Wake::default();
        let id = NodeId(uuid::Uuid::from_u128(u128::from(number)));
        let store = MemoryStore::open(&world.database, id, wake.clone());
        let options = OPTIONS.clone();
        let jobs = Supervisor::default();
        let down = CancellationToken::new();
        let waking = wake.clone();
        let dispatcher = Dispatcher::new(Arc::<MemoryStore>::clone(&store), wake, options, &jobs);
        dispatcher.start_sweep(&jobs);
        if is_shared {
            dispatcher.start_revocation(&jobs);
        }
        let (member, stopped, database) =
            (Arc::clone(&store), down.clone(), world.database.clone());
        // What membership and the listener of a node do on the paths that are simulated: the poll finds
        // what no notification has announced.
        let membership = async move {
            loop {
                let mut gateways = waking.subscribed();
                // Each process has another order.
                gateways.sort();
                for gateway in gateways {
                    waking.reached(gateway, Sequence(database.log_of(gateway).1));
                }
                let _ = member.node_heartbeat().await;
                while member.reap_dead_nodes().await.is_ok_and(|it| !it.connections.is_empty()) {}
                sleep_until(Instant::now() + HEARTBEAT).await;
            }
        };
        tokio::spawn(async move { stopped.run_until_cancelled(membership).await });
        Self { number, store, dispatcher, down, jobs }
    }
}
