//! What the client needs from a transport: it connects with a hello, and carries frames.

use std::time::Duration;

use async_trait::async_trait;

use crate::transport::frames::{GatewayFrame, Hello, ServerFrame, close_code};

/// A way to connect to the service, such as [`WebSocket`](super::WebSocket) and
/// [`EventStream`](super::EventStream).
#[async_trait]
pub trait Transport: Send + Sync {
    /// Connects, and transmits the hello. The first frames of the link are `connection.ack` and the
    /// answer to the hello. Has a timeout of its own.
    async fn connect(&self, hello: &Hello) -> Result<Box<dyn Link>, ConnectError>;
}

/// An open connection.
#[async_trait]
pub trait Link: Send {
    /// Waits for what the service sends next. Cancel-safe. After an error, nothing more comes.
    async fn receive(&mut self) -> Result<Received, Closed>;

    /// Sends frames, in order.
    async fn send(&mut self, frames: &[GatewayFrame]) -> Result<(), Closed>;

    /// Closes the connection. What was sent before arrives first.
    async fn close(&mut self);
}

/// What a link has received.
#[derive(Debug)]
pub enum Received {
    /// A frame.
    Frame(ServerFrame),
    /// A sign of life, such as a ping, or a frame of an unknown type.
    Alive,
}

/// Why no connection was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The service refused with this HTTP status.
    #[error("the service refused the connection with status {status}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The value of `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// Any other failure.
    #[error("{0}")]
    Failed(String),
}

impl ConnectError {
    /// Whether the service will refuse later attempts, too: the key is not valid (401), or the gateway
    /// is disabled (403).
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Refused { status: 401 | 403, .. })
    }
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The close code, if the service sent one.
    pub code: Option<u16>,
    /// The reason, for people.
    pub why: String,
}

impl Closed {
    /// An end without a close code.
    pub fn lost(why: impl Into<String>) -> Self {
        Self { code: None, why: why.into() }
    }

    /// Whether the client must not reconnect.
    pub fn is_final(&self) -> bool {
        self.code.is_some_and(close_code::is_final)
    }
}
