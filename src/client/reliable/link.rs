//! What the client needs from a transport: it connects with a hello, and carries frames.

use std::time::Duration;

use async_trait::async_trait;

use crate::transport::frames::{ErrorCode, GatewayFrame, Hello, ServerFrame, close_code};

/// A way to connect to the service: [`WebSocket`](super::WebSocket),
/// [`EventStream`](super::EventStream), [`LongPoll`](super::LongPoll) or [`Grpc`](super::Grpc).
#[async_trait]
pub trait Transport: Send + Sync {
    /// Connects, and transmits the hello. The first frames of the link are `connection.ack`, which long
    /// polling does not have, and the answer to the hello. Has a timeout of its own.
    async fn connect(&self, hello: &Hello) -> Result<Box<dyn Link>, ConnectError>;
}

#[async_trait]
impl<T: Transport + ?Sized> Transport for Box<T> {
    async fn connect(&self, hello: &Hello) -> Result<Box<dyn Link>, ConnectError> {
        (**self).connect(hello).await
    }
}

/// An open connection to the service, over any transport.
#[async_trait]
pub trait Link: Send {
    /// Waits for what the service sends next. Cancel-safe. After an error, nothing more comes.
    async fn receive(&mut self) -> Result<Received, Closed>;

    /// Sends frames, in order. After an error the connection is closed.
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
    /// The transport can't carry what the client's options ask for.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Any other failure.
    #[error("{0}")]
    Failed(String),
}

impl ConnectError {
    /// Whether later attempts will fail, too: the key is not valid (401), the gateway is disabled (403),
    /// or the transport can't do it.
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Refused { status: 401 | 403, .. } | Self::Unsupported(_))
    }
}

/// The end of a connection: its close code, if there was one, and the reason.
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

/// The close code of WebSocket that says the same as a `connection.error` with this code, for transports
/// without close codes. After an unknown one the client reconnects.
pub(super) fn close_code_of(error: &str) -> u16 {
    let code = ErrorCode::ALL.iter().find(|code| code.as_str() == error);
    match code {
        Some(ErrorCode::TokenRevoked | ErrorCode::GatewayDeleted) => close_code::KEY_REVOKED,
        Some(ErrorCode::GatewayDisabled) => close_code::GATEWAY_DISABLED,
        Some(ErrorCode::HeartbeatTimeout) => close_code::HEARTBEAT,
        Some(ErrorCode::ConfirmationTimeout) => close_code::CONFIRMATION_OVERDUE,
        Some(ErrorCode::Replaced) => close_code::REPLACED,
        Some(ErrorCode::Unavailable) | None => 4000,
        Some(_) => close_code::PROTOCOL_ERROR,
    }
}

/// The close code that follows from a frame, if it announces the end of the connection.
pub(super) fn announced(frame: &ServerFrame) -> Option<u16> {
    match frame {
        ServerFrame::Error(error) => Some(close_code_of(&error.code)),
        ServerFrame::Drain(_) => Some(close_code::DRAIN),
        _ => None,
    }
}
