//! From the log to the sockets, and back to the ledger.

pub mod window;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, GatewayKey, OrganisationKey, Reason};
use crate::socket::{LaneEnd, websocket};
use crate::store::{Store, StoreError};
use crate::wake::Wake;

/// What becomes of an event that fails again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// It becomes a dead letter, and the stream goes on.
    DeadLetter,
    /// It is tried for ever, and holds back what follows.
    Block,
}

/// Settings of delivery.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Sockets open at once.
    pub max_connections: usize,
    /// How often a gateway is pinged.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// Without a sign of life this long, a gateway is gone.
    #[serde(with = "humantime_serde")]
    pub heartbeat_timeout: Duration,
    /// Without a confirmation this long, an event has failed.
    #[serde(with = "humantime_serde")]
    pub confirmation_timeout: Duration,
    /// Without reading this long, a gateway is gone.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// Attempts at an event before it is poison.
    pub max_attempts: u32,
    /// What becomes of poison.
    pub poison: Policy,
    /// Events on their way to one connection, unconfirmed.
    pub window_events: usize,
    /// Bytes of them.
    pub window_bytes: ByteSize,
}

/// Who is to be admitted.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The gateway.
    pub gateway: GatewayKey,
    /// Its outside identity.
    pub gateway_id: GatewayId,
    /// Its organisation.
    pub organisation: OrganisationKey,
    /// The public part of its token.
    pub token: String,
    /// When that expires.
    pub token_expires_at: Option<Timestamp>,
    /// `websocket`, …
    pub transport: &'static str,
    /// The peer's address.
    pub remote_address: String,
}

/// The right to one connection.
#[derive(Debug)]
pub struct Permit;

/// A connection before its socket.
#[derive(Debug)]
pub struct Session;

impl Session {
    /// The connection's identity.
    pub fn id(&self) -> ConnectionId {
        ConnectionId::new()
    }

    /// The first frame.
    pub fn ack_frame(&self) -> Bytes {
        Bytes::new()
    }

    /// The transport's limits.
    pub fn transport_limits(&self) -> websocket::Limits {
        websocket::Limits { write_timeout: Duration::ZERO, close_timeout: Duration::ZERO }
    }

    /// Starts delivery.
    pub fn start(self, lane_end: LaneEnd) {
        let _ = lane_end;
    }
}

/// All live connections of this node.
#[derive(Debug)]
pub struct Dispatcher;

impl Dispatcher {
    /// With nothing connected.
    pub fn new(store: Arc<dyn Store>, wake: Wake, options: Options) -> Arc<Self> {
        let _ = (store, wake, options);
        Arc::new(Self)
    }

    /// A permit, unless the limit is reached.
    pub fn try_admit(&self) -> Option<Permit> {
        None
    }

    /// Opens a connection.
    pub async fn open(self: &Arc<Self>, permit: Permit, admission: Admission) -> Result<Session, StoreError> {
        let _ = (permit, admission);
        Err(StoreError::Unavailable("not yet".into()))
    }

    /// Closes a token's sockets.
    pub fn close_token(&self, token: &str, reason: Reason) {
        let _ = (token, reason);
    }

    /// Closes a gateway's sockets.
    pub fn close_gateway(&self, gateway: GatewayKey, reason: Reason) {
        let _ = (gateway, reason);
    }

    /// A gateway's live connections.
    pub fn connected(&self, gateway: GatewayKey) -> usize {
        let _ = gateway;
        0
    }

    /// All live connections.
    pub fn live(&self) -> usize {
        0
    }

    /// Whether the node is draining.
    pub fn is_draining(&self) -> bool {
        false
    }

    /// Closes all.
    pub async fn drain(&self, over: Duration) {
        let _ = over;
    }

    /// Sweeps.
    pub async fn run_sweep(&self, stop: CancellationToken) {
        stop.cancelled().await;
    }
}
