//! Delivers events from the logs to the transports, and records the outcomes. Each connection has a
//! lane that does the I/O and a [`window`] that decides. The [`Dispatcher`] admits, finds and
//! closes connections. This module does not depend on a wire format or on SQL, and its state can be
//! restored from the log: a crash loses no event.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::clock::{Timestamp, millis};
use crate::defaults;
use crate::event::{ConnectionId, GatewayKey, Reason};
use crate::jobs::Supervisor;
use crate::store::supersession::Supersession;
use crate::store::{
    Deleted, NewConnection, Opened, ReplacedConnection, Store, StoreError, UndeliveredRange,
};
use crate::wake::{LogState, Wake};

mod actions;
mod backoff;
mod begin;
mod expiry;
mod failure_log;
mod final_ping;
mod greeted;
mod in_flight;
mod lane;
mod log_reader;
mod outcomes;
mod permit;
mod recorder;
mod registry;
mod reliable;
mod reports;
mod revoked;
mod session;
mod silence;
mod sweep;
pub mod window;

pub use greeted::Greeted;
pub use lane::INVALID_MESSAGES;
pub use permit::Permit;
pub use session::{Admission, Session};

use failure_log::FailureLog;
use recorder::Recorder;
use registry::Registry;
use session::Ready;

/// How many lanes may read the log at once.
const READS: usize = 4;
/// How long a drain, and a gateway that reconnects, wait until the last outcomes are recorded.
const LAST_RECORDS: Duration = Duration::from_secs(10);

/// How long a drain waits for connections to end. Longer than they normally take.
const LAST_LANES: Duration = Duration::from_secs(15);

/// What happens to a poison event, at which too many attempts have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Policy {
    /// It becomes a dead letter, and the stream continues.
    DeadLetter,
    /// It is retried forever, and holds back the events after it.
    Block,
}

impl TryFrom<String> for Policy {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "dead_letter" => Ok(Self::DeadLetter),
            "block" => Ok(Self::Block),
            _ => Err("must be \"dead_letter\" or \"block\""),
        }
    }
}

/// Settings of delivery (`[delivery]`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The maximum number of gateways' sockets.
    pub max_connections: usize,
    /// The maximum number of sockets of one gateway; twice its replicas if that is more.
    pub max_connections_per_gateway: usize,
    /// The interval between pings.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// A connection without activity for this long is closed.
    #[serde(with = "humantime_serde")]
    pub heartbeat_timeout: Duration,
    /// An event that stays unconfirmed for this long has failed.
    #[serde(with = "humantime_serde")]
    pub confirmation_timeout: Duration,
    /// How long a gateway may take to reconnect, after the end of its last connection or a start of
    /// the service, before events for it are recorded as failed.
    #[serde(with = "humantime_serde")]
    pub not_connected_grace: Duration,
    /// A connection whose peer does not read for this long is closed.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// Failed attempts after which an event is a poison event.
    pub max_attempts: u32,
    /// What happens to poison events.
    pub poison: Policy,
    /// The maximum number of unconfirmed events on one connection.
    pub window_events: usize,
    /// The maximum number of bytes of them.
    pub window_bytes: ByteSize,
    /// Settings of gateways that acknowledge events.
    #[serde(skip)]
    pub reliable: ReliableOptions,
}

/// Settings of gateways that acknowledge events (`[reliable]`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReliableOptions {
    /// The time within which a hello is due.
    #[serde(with = "humantime_serde")]
    pub hello_timeout: Duration,
    /// The maximum number of unconfirmed events on one connection.
    pub window: u32,
    /// The maximum number of bytes of them.
    pub window_bytes: ByteSize,
    /// The interval between signs of life.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// A named instance that has not connected for this long is removed.
    #[serde(with = "humantime_serde")]
    pub instance_ttl: Duration,
    /// Where gateways find a snapshot; empty if they are not sent one.
    pub snapshot_url: String,
}

impl Default for ReliableOptions {
    fn default() -> Self {
        defaults::section("reliable")
    }
}

impl Default for Options {
    fn default() -> Self {
        defaults::section("delivery")
    }
}

impl Options {
    /// How long a peer's host may leave sent data unacknowledged. A gateway that handles an event
    /// answers no ping, but its kernel acknowledges the ping. A dead host is detected after the
    /// time until the next ping and this time, which together are `heartbeat_timeout`.
    pub fn unacknowledged(&self) -> Duration {
        const MIN_TIMEOUT: Duration = Duration::from_secs(1);
        self.heartbeat_timeout.saturating_sub(self.heartbeat_interval).max(MIN_TIMEOUT)
    }
}

/// All connections of this node.
pub struct Dispatcher {
    store: Arc<dyn Store>,
    wake: Wake,
    options: Options,
    permits: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    registry: Arc<Registry>,
    recorder: Recorder,
    /// Changes after each commit of the recorder.
    recorded: watch::Sender<()>,
    failures: Arc<FailureLog>,
    lanes: TaskTracker,
    draining: AtomicBool,
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher").field("live", &self.live()).finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// Creates a dispatcher without connections. Starts the recorder, so it needs a runtime.
    pub fn new(
        store: Arc<dyn Store>,
        wake: Wake,
        options: Options,
        jobs: &Supervisor,
    ) -> Arc<Self> {
        let recorded = watch::Sender::new(());
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(options.max_connections.min(Semaphore::MAX_PERMITS))),
            reads: Arc::new(Semaphore::new(READS)),
            registry: Arc::default(),
            recorder: Recorder::start(
                Arc::<dyn Store>::clone(&store),
                Arc::<dyn Store>::clone(&store),
                recorded.clone(),
                jobs,
            ),
            recorded,
            failures: Arc::default(),
            lanes: TaskTracker::new(),
            draining: AtomicBool::new(false),
            store,
            wake,
            options,
        })
    }

    /// A permit for one connection; `None` at the limit and while draining.
    pub fn try_admit(&self) -> Option<Permit> {
        if self.is_draining() {
            return None;
        }
        Arc::clone(&self.permits).try_acquire_owned().ok().map(Permit::new)
    }

    /// The configured limit on the connections of one gateway to this node.
    pub const fn max_connections_per_gateway(&self) -> usize {
        self.options.max_connections_per_gateway
    }

    /// Records a connection and finds where it starts. Completes even if the caller stops waiting,
    /// so that no connection stays recorded as open.
    pub async fn open(
        self: &Arc<Self>,
        permit: Permit,
        admission: Admission,
    ) -> Result<Session, StoreError> {
        let dispatcher = Arc::clone(self);
        let opening = tokio::spawn(async move {
            let id = ConnectionId::new();
            // Subscribes before reading, so that nothing that is appended in between is missed.
            let subscription = dispatcher.wake.subscribe(admission.gateway);
            let connection = admission.connection(id, session::UNNAMED.to_owned());
            dispatcher.settle().await?;
            let opened = dispatcher.store.open_connection(connection.clone()).await;
            let opened = dispatcher.certain(&connection, opened).await?;
            let tracked = dispatcher.lanes.token();
            let token = admission.token.clone();
            let transport = admission.transport;
            let Some((registration, stop)) =
                dispatcher.registry.register(admission.gateway, id, token, transport)
            else {
                dispatcher.recorder.record(connection.unused(Timestamp::now())).await;
                return Err(StoreError::Unavailable("this node is shutting down".to_owned()));
            };
            dispatcher.supersede(admission.gateway, id, &opened).await;
            let ready = Ready {
                registration,
                stop,
                tracked,
                dispatcher,
                permit,
                admission,
                opened,
                subscription,
                reliable: None,
            };
            Ok(Session::new(id, ready))
        });
        opening.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }

    /// The result of opening a connection. If it is unknown, the end of the connection is recorded: it
    /// may be stored as live, although nothing on this node uses it.
    async fn certain<T>(
        &self,
        connection: &NewConnection,
        opened: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Err(StoreError::Unknown(_)) = &opened {
            self.recorder.record(connection.unused(Timestamp::now())).await;
        }
        opened
    }

    /// Withholds what newer events of a backlog supersede, before anything is sent. If that fails or the
    /// node shuts down, the rest is sent. Gateways that reconnect at once take turns.
    async fn supersede(&self, gateway: GatewayKey, connection: ConnectionId, opened: &Opened) {
        if !opened.is_collapsible {
            return;
        }
        let Ok(_turn) = self.reads.acquire().await else { return };
        let mut backlog = Supersession::new(gateway, connection, opened.head);
        while !backlog.is_done && !self.is_draining() {
            backlog = match self.store.supersede(backlog).await {
                Ok(backlog) => backlog,
                Err(error) => {
                    tracing::warn!(%connection, %error, "failed to look for superseded events; they are sent");
                    return;
                }
            };
        }
        if backlog.superseded > 0 {
            tracing::info!(%connection, events = backlog.superseded, "pending events were superseded by newer ones");
        }
    }

    /// A gateway reconnects at once. What its previous connection confirmed must be recorded before
    /// the new one reads its position, or it would be sent again.
    async fn settle(&self) -> Result<(), StoreError> {
        tokio::time::timeout(LAST_RECORDS, self.recorder.flush()).await.map_err(|_| {
            StoreError::Unavailable("earlier outcomes are not recorded yet".to_owned())
        })
    }

    /// The state of a gateway's log, for callers that only read the log. Its head changes when the
    /// log grows, on any node.
    pub fn watch_log(&self, gateway: GatewayKey) -> watch::Receiver<LogState> {
        self.wake.subscribe(gateway).state
    }

    /// Changes when this node has recorded outcomes of deliveries. Outcomes that other nodes or
    /// background jobs record do not change it.
    pub fn watch_recorded(&self) -> watch::Receiver<()> {
        self.recorded.subscribe()
    }

    /// Closes the live sockets that were opened with this token.
    pub fn close_token(&self, token: &str, reason: Reason) {
        self.registry.stop_token(token, reason);
    }

    /// Asks the gateways of these connections to reconnect, because a resync was requested.
    pub fn resync(&self, gateway: GatewayKey, connections: &[ReplacedConnection]) {
        for connection in connections {
            self.registry.stop_connection(gateway, connection.id, Reason::Resync);
        }
    }

    /// Closes a gateway's live sockets.
    pub fn close_gateway(&self, gateway: GatewayKey, reason: Reason) {
        self.registry.stop_gateway(gateway, reason);
    }

    /// Closes the live sockets of a deleted gateway, and logs the deliveries that failed with it.
    pub fn close_deleted(&self, deleted: &Deleted) {
        let detail = "the gateway was deleted";
        for failed in &deleted.undelivered {
            self.failures.count_and_log(failed, Reason::GatewayDeleted, detail);
        }
        self.close_gateway(deleted.key, Reason::GatewayDeleted);
    }

    /// Logs how many lines about failed deliveries were suppressed. Call it every minute.
    pub fn log_suppressed(&self) {
        self.failures.log_suppressed();
    }

    /// A gateway's live connections to this node.
    pub fn connected(&self, gateway: GatewayKey) -> usize {
        self.registry.connected(gateway)
    }

    /// All live connections to this node.
    pub fn live(&self) -> usize {
        self.registry.live()
    }

    /// Whether no connection is admitted any more.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Stops admitting connections and closes all connections, one after another over the given
    /// time, because gateways reconnect without delay and should not all reach the other nodes at
    /// once. Returns when what they confirmed is recorded.
    pub async fn drain(&self, over: Duration) {
        self.draining.store(true, Ordering::SeqCst);
        self.registry.close();
        let stops = self.registry.stops(|_| true);
        let count = u32::try_from(stops.len()).unwrap_or(u32::MAX);
        let (began, gap) = (Instant::now(), over / count.max(1));
        tracing::info!(connections = count, over_ms = millis(over), "draining");
        for (number, stop) in (0..count).zip(stops) {
            if stop.is_closed() {
                continue;
            }
            // Each at a random time around its turn, so that the last one ends in time. The first
            // one need not wait.
            let place = f64::from(number) + fastrand::f64() - 0.5;
            if number > 0 {
                tokio::time::sleep_until(began + gap.mul_f64(place)).await;
            }
            registry::stop(&stop, Reason::Shutdown);
        }
        self.lanes.close();
        // A lane ends within a bounded time, but an upgrade that its peer neither completes nor
        // aborts may not.
        if tokio::time::timeout(LAST_LANES, self.lanes.wait()).await.is_err() {
            tracing::warn!(connections = self.live(), "some connections did not end in time");
        }
        if let Err(error) = self.settle().await {
            tracing::error!(%error, "failed to record the last outcomes; the events are sent again");
        }
    }

    /// Closes the sockets whose connections another node has closed in the database because it
    /// declared this one dead. Their gateways reconnect at once, and are recorded again. Returns
    /// how many there were.
    pub async fn close_lost(&self) -> Result<usize, StoreError> {
        revoked::close_lost(self).await
    }

    /// Starts the jobs that record events for gateways that are not connected, and events that
    /// expire meanwhile.
    pub fn start_sweep(self: &Arc<Self>, jobs: &Supervisor) {
        jobs.start("not_connected_sweep", sweep::INTERVAL, sweep::Sweep::new(Arc::clone(self)));
        jobs.start("expiry", expiry::INTERVAL, expiry::Expiry::new(Arc::clone(self)));
    }

    /// Logs the failed deliveries of an action, and counts them.
    pub fn log_given_up(&self, given_up: &[UndeliveredRange], reason: Reason, detail: &str) {
        for failed in given_up {
            self.failures.count_and_log(failed, reason, detail);
        }
    }

    /// Starts the jobs that notice changes of admins on other nodes: one closes sockets whose
    /// gateway was disabled or whose token was revoked, the other notifies lanes of pauses, resumes,
    /// skips and purges. For nodes that share a database.
    pub fn start_revocation(self: &Arc<Self>, jobs: &Supervisor) {
        jobs.start("revocation", revoked::POLL_INTERVAL, revoked::Poll(Arc::clone(self)));
        jobs.start("actions", actions::POLL_INTERVAL, actions::Poll::new(Arc::clone(self)));
    }
}
