//! A client in reliable mode (subprotocol `gateway-events.v1`): for gateways that confirm what they
//! have applied.
//!
//! ```no_run
//! # use gateway_events::client::{Endpoint, reliable::*};
//! # async fn run(endpoint: Endpoint, handler: impl Handler + 'static) -> Result<(), ClientError> {
//! let transport = WebSocket::new(endpoint, "gwk_…".to_owned().into());
//! let options = Options { instance: Some("berlin-1".to_owned()), ..Options::default() };
//! let client = Client::new(transport, FilePosition::new("position.json"), handler, options);
//! client.run(gateway_events::client::CancellationToken::new()).await
//! # }
//! ```
//!
//! A [`Transport`] connects, a [`Handler`] handles events one after another, and a [`PositionStore`]
//! stores how far it has come. The client confirms only what is in the store. It reconnects after lost
//! connections and resumes after the stored position, so no event is lost, and an event is repeated
//! only if the process crashed between applying it and storing the position.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::event::{EventType, GatewayId};
use crate::transport::frames::{Credit, INSTANCE_CHARACTERS};

mod driver;
mod event_stream;
#[cfg(test)]
mod fixture;
mod grpc;
mod handler;
mod link;
mod long_poll;
mod position;
mod requests;
pub mod state;
mod websocket;

pub use crate::transport::frames::{
    Confirm, DeliveryGap, Envelope, EventFrame, GapReason, NackCode, Position, Resume,
};
pub use event_stream::EventStream;
pub use grpc::Grpc;
pub use handler::{Handler, Notice, Outcome, SnapshotError};
pub use link::{Closed, ConnectError, Link, Received, Transport};
pub use long_poll::LongPoll;
pub use position::{
    FilePosition, MAX_REJECTIONS, MemoryPosition, PositionError, PositionStore, StoredPosition,
};
pub use websocket::WebSocket;

/// Parses the name of an [instance](Options::instance). What passes can still be refused: the service
/// accepts some names of existing instances only.
pub fn parse_instance(text: &str) -> Result<String, String> {
    let is_valid = (1..=INSTANCE_CHARACTERS).contains(&text.chars().count())
        && !text.chars().any(char::is_control);
    is_valid.then(|| text.to_owned()).ok_or_else(|| {
        format!("must have 1 to {INSTANCE_CHARACTERS} characters, none of them a control character")
    })
}

/// Options of a client.
#[derive(Clone, Debug)]
pub struct Options {
    /// A stable name of this replica of the gateway, 1 to 64 characters. The service stores a position
    /// for it. `None` shares the position of all unnamed connections.
    pub instance: Option<String>,
    /// Where to start if no position is stored. By default from the position that the service has.
    pub start: Resume,
    /// How many events the service may send ahead of their confirmation; its limit if `None`.
    pub window: Option<u32>,
    /// How many bytes of events the service may send ahead of their confirmation; its limit if `None`.
    pub window_bytes: Option<u64>,
    /// The event types to receive, at most 64; all if `None`.
    pub types: Option<Vec<EventType>>,
    /// What a confirmation means. By default `applied`.
    pub confirm: Confirm,
    /// The form in which events are transmitted; [`Envelope::CloudEvents`] has the
    /// [attributes](EventFrame::attributes) with which they were published. `None` leaves it to the service.
    pub envelope: Option<Envelope>,
    /// How many events are stored and confirmed together, at most.
    pub batch: u32,
    /// How long a confirmation may wait for others.
    pub batch_delay: Duration,
    /// How often to report that an event is still being handled. Must be well below the service's
    /// `delivery.confirmation_timeout` (60 s).
    pub progress_interval: Duration,
    /// The pauses between connections, with full jitter.
    pub backoff: Backoff,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            instance: None,
            start: Resume::Server,
            window: None,
            window_bytes: None,
            types: None,
            confirm: Confirm::Applied,
            envelope: None,
            batch: 32,
            batch_delay: Duration::from_millis(20),
            progress_interval: Duration::from_secs(15),
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_mins(1)),
        }
    }
}

/// Why a client stopped and does not reconnect.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The service refused the connection with this HTTP status: the key is not valid (401), or the
    /// gateway is disabled (403).
    #[error("the service refused the connection with status {0}")]
    Refused(u16),
    /// The transport can't carry what the options ask for.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The service closed the connection with a code after which clients do not reconnect.
    #[error("the service closed the connection: {why}")]
    Closed {
        /// The close code, 4500 to 4999.
        code: u16,
        /// The reason.
        why: String,
    },
    /// The position can't be read or stored.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// The stored position is of another gateway. Nothing was handled.
    #[error(
        "the stored position is of gateway {stored}, but the key is that of gateway {connected}; use that gateway's key, or another position store"
    )]
    OtherGateway {
        /// The gateway of the position.
        stored: GatewayId,
        /// The gateway of the key.
        connected: GatewayId,
    },
}

/// A client of the service.
pub struct Client {
    transport: Box<dyn Transport>,
    store: Arc<dyn PositionStore>,
    handler: Arc<dyn Handler>,
    options: Options,
    credit: watch::Sender<Credit>,
}

impl Client {
    /// A client that is not connected.
    pub fn new(
        transport: impl Transport + 'static,
        store: impl PositionStore + 'static,
        handler: impl Handler + 'static,
        options: Options,
    ) -> Self {
        Self {
            transport: Box::new(transport),
            store: Arc::new(store),
            handler: Arc::new(handler),
            options,
            credit: watch::Sender::new(Credit::default()),
        }
    }

    /// Changes the window, while the client runs or before. 0 pauses delivery; omitted members stay as
    /// they are.
    pub fn set_window(&self, credit: Credit) {
        self.credit.send_modify(|current| {
            current.window = credit.window.or(current.window);
            current.window_bytes = credit.window_bytes.or(current.window_bytes);
        });
    }

    /// Connects, handles events and reconnects, until it is stopped or can't go on. After `stop`, the
    /// event that is being handled is finished, stored and confirmed. Dropping the future ends the
    /// connection at once; nothing is lost by it.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), ClientError> {
        driver::Driver::start(self, stop).await?.run().await
    }
}
