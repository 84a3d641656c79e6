//! Streams each gateway's log to its connections and has every outcome
//! recorded. One [`lane`] per connection waits, a [`window`] decides, the
//! [`registry`] knows who is there, the [`recorder`] writes down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, GatewayKey, OrganisationKey, Reason};
use crate::socket::{LaneEnd, frame, websocket};
use crate::store::{NewConnection, Opened, Record, Store, StoreError};
use crate::wake::Wake;

mod lane;
mod recorder;
mod registry;
pub mod window;

use recorder::Recorder;
use registry::Registry;

/// Appends closer together than this are swept together; well below the
/// second within which a missed delivery must be on record.
const SWEEP_GATHERS: Duration = Duration::from_millis(100);

/// How delivery behaves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Connections at once.
    pub max_connections: usize,
    /// Time between pings.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// A peer without a sign of life for this long is dead.
    #[serde(with = "humantime_serde")]
    pub heartbeat_timeout: Duration,
    /// A peer that confirms nothing of what is due for this long has failed.
    #[serde(with = "humantime_serde")]
    pub confirmation_timeout: Duration,
    /// Deadline of every write to a socket.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// Failed attempts after which `poison` applies.
    pub max_attempts: u32,
    /// What happens to an event that fails again and again.
    pub poison: Policy,
    /// Unconfirmed events per connection.
    pub window_events: usize,
    /// Unconfirmed bytes per connection.
    pub window_bytes: ByteSize,
}

/// What happens to an event that fails again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// It becomes a dead letter and the stream goes on.
    DeadLetter,
    /// It is tried for ever, and what follows waits.
    Block,
}

impl Options {
    fn window(&self) -> window::Limits {
        window::Limits {
            events: self.window_events.max(1),
            bytes: usize::try_from(self.window_bytes.as_u64()).unwrap_or(usize::MAX),
            confirmation: self.confirmation_timeout,
            max_attempts: (self.poison == Policy::DeadLetter).then_some(self.max_attempts.max(1)),
        }
    }
}

/// A place among the connections, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    _place: OwnedSemaphorePermit,
}

/// Who is to be connected.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The gateway.
    pub gateway: GatewayKey,
    /// Its outside identity.
    pub gateway_id: GatewayId,
    /// Its organisation.
    pub organisation: OrganisationKey,
    /// The public part of the token that it showed.
    pub token: String,
    /// When that token ends, and the connection with it.
    pub token_expires_at: Option<Timestamp>,
    /// `websocket`, …
    pub transport: &'static str,
    /// The peer.
    pub remote_address: String,
}

/// Everything that the lanes share.
#[derive(Debug)]
pub struct Dispatcher {
    parts: Parts,
    places: Arc<Semaphore>,
    draining: AtomicBool,
    lanes: TaskTracker,
}

/// What a lane needs of it.
#[derive(Clone, Debug)]
struct Parts {
    store: StoreHandle,
    wake: Wake,
    options: Options,
    registry: Arc<Registry>,
    recorder: Recorder,
}

/// The store, with a `Debug` that says no more than that it is one.
#[derive(Clone)]
struct StoreHandle(Arc<dyn Store>);

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Dispatcher {
    /// Starts with nobody connected.
    pub fn new(store: Arc<dyn Store>, wake: Wake, options: Options) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(options.max_connections.min(Semaphore::MAX_PERMITS)));
        let recorder = Recorder::spawn(Arc::clone(&store));
        let store = StoreHandle(store);
        Arc::new(Self {
            parts: Parts { store, wake, options, registry: Arc::default(), recorder },
            places,
            draining: AtomicBool::new(false),
            lanes: TaskTracker::new(),
        })
    }

    /// A place for one more connection, if there is one.
    pub fn try_admit(&self) -> Option<Permit> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Permit { _place: place })
    }

    /// Opens a connection in the store and finds where it starts. Comes before
    /// the upgrade, so that a database that is away becomes a refusal.
    pub async fn open(
        self: &Arc<Self>,
        permit: Permit,
        admission: Admission,
    ) -> Result<Session, StoreError> {
        let id = ConnectionId::new();
        // What earlier connections of this gateway confirmed must be on record
        // before its new one asks for a position.
        self.parts.recorder.flush().await;
        let opened = self
            .parts
            .store
            .0
            .open_connection(NewConnection {
                id,
                gateway: admission.gateway,
                token: admission.token.clone(),
                instance: String::new(),
                transport: admission.transport,
                remote_address: admission.remote_address.clone(),
            })
            .await?;
        Ok(Session {
            dispatcher: Arc::clone(self),
            unstarted: Some(Unstarted { id, opened, admission, permit }),
        })
    }

    /// Closes the live sockets that a token opened.
    pub fn close_token(&self, token: &str, reason: Reason) {
        self.parts.registry.close_token(token, reason);
    }

    /// Closes the live sockets of a gateway.
    pub fn close_gateway(&self, gateway: GatewayKey, reason: Reason) {
        self.parts.registry.close_gateway(gateway, reason);
    }

    /// How many live connections a gateway has here.
    pub fn connected(&self, gateway: GatewayKey) -> usize {
        self.parts.registry.connected(gateway)
    }

    /// How many live connections there are here.
    pub fn live(&self) -> usize {
        self.parts.registry.live()
    }

    /// Whether this node is going down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Closes all connections, spread over a time, because unmodified gateways
    /// come back at once; returns when their last receipts are on record.
    pub async fn drain(&self, over: Duration) {
        self.draining.store(true, Ordering::Release);
        let mut live = self.parts.registry.all();
        fastrand::shuffle(&mut live);
        let pause =
            over.checked_div(u32::try_from(live.len()).unwrap_or(u32::MAX)).unwrap_or_default();
        for connection in live {
            connection.close(Reason::Shutdown);
            // The pause is the point: a storm of reconnects is spread here.
            tokio::time::sleep(pause).await;
        }
        self.lanes.close();
        self.lanes.wait().await;
        self.parts.recorder.flush().await;
    }

    /// Has `not_connected` recorded for what nobody was there to receive.
    pub async fn run_sweep(&self, stop: CancellationToken) {
        let mut gateways: Option<Vec<GatewayKey>> = None;
        loop {
            let swept = self.parts.store.0.sweep_not_connected(gateways.as_deref()).await;
            match swept {
                Ok(0) => {}
                Ok(deliveries) => {
                    metrics::counter!("gateway_events_delivery_failures_total", "reason" => Reason::NotConnected.as_str())
                        .increment(deliveries);
                    tracing::warn!(target: "delivery", deliveries, reason = %Reason::NotConnected,
                        "attempts failed: the gateways are not connected");
                }
                Err(error) => {
                    tracing::warn!(%error, "the sweep for missed deliveries failed; it will run again");
                    for gateway in gateways.iter().flatten() {
                        self.parts.wake.unserved(*gateway);
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                unswept = self.parts.wake.unswept() => {
                    tokio::time::sleep(SWEEP_GATHERS).await;
                    gateways = Some(unswept);
                }
            }
        }
    }
}

/// A connection that is open in the store. Dropped before it was started, it
/// records itself as closed.
#[derive(Debug)]
pub struct Session {
    dispatcher: Arc<Dispatcher>,
    /// Taken by [`Session::start`].
    unstarted: Option<Unstarted>,
}

#[derive(Debug)]
struct Unstarted {
    id: ConnectionId,
    opened: Opened,
    admission: Admission,
    permit: Permit,
}

impl Session {
    /// The first frame of the connection.
    pub fn ack_frame(&self) -> Bytes {
        self.unstarted.as_ref().map_or_else(Bytes::new, |unstarted| {
            frame::connection_ack(unstarted.admission.gateway_id, unstarted.id, Timestamp::now())
        })
    }

    /// Deadlines for its transport.
    pub fn transport_limits(&self) -> websocket::Limits {
        websocket::Limits { write_timeout: self.dispatcher.parts.options.write_timeout }
    }

    /// Registers the connection and starts its lane.
    pub fn start(mut self, end: LaneEnd) {
        let Some(Unstarted { id, opened, admission, permit }) = self.unstarted.take() else {
            return;
        };
        let parts = self.dispatcher.parts.clone();
        let (registered, closing) =
            parts.registry.register(admission.gateway, id, &admission.token);
        if self.dispatcher.is_draining() {
            // Drain took its list before this one stood on it.
            registered.close(Reason::Shutdown);
        }
        self.dispatcher.lanes.spawn(async move {
            lane::run(parts, id, opened, admission, end, closing).await;
            drop((registered, permit));
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(unstarted) = self.unstarted.take() {
            self.dispatcher.parts.recorder.put_detached(Record::Closed {
                gateway: unstarted.admission.gateway,
                connection: unstarted.id,
                reason: Reason::ConnectionLost,
                detail: "the upgrade was not completed".to_owned(),
                unconfirmed: None,
                give_up: false,
                at: Timestamp::now(),
            });
        }
    }
}
