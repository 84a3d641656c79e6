//! A gateway's connection over any transport, without the gateway's logic: it returns the parts of
//! events that are checked, and acknowledges them. Thousands of them fit in one process.

use std::time::Duration;

use gateway_events::client::Endpoint;
use secrecy::SecretString;
use tokio::time::timeout;

use crate::check::Frame;
use crate::payload::Stamp;
use crate::transport::Transport;

mod event_stream;
mod grpc;
mod http2;
mod long_poll;
mod websocket;

const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// The service refused the connection with this status.
    #[error("the service refused the connection with status {0}")]
    Refused(u16),
    /// Any other cause.
    #[error("the connection of a gateway failed: {0}")]
    Failed(String),
}

impl ConnectionError {
    fn new(cause: impl std::fmt::Display) -> Self {
        Self::Failed(cause.to_string())
    }
}

/// An event as a gateway received it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) sequence: i64,
    pub(crate) stamp: Stamp,
}

impl Event {
    /// The event of a frame in JSON; an error if the frame is not that of a published event.
    fn of(frame: &Frame<'_>) -> Result<Self, ConnectionError> {
        let Frame { kind, sequence, payload } = frame;
        let stamp = payload.ok_or_else(|| {
            ConnectionError::Failed(format!("received a {kind} that was not published"))
        })?;
        Ok(Self { sequence: *sequence, stamp })
    }

    fn parse(json: &[u8]) -> Result<Self, ConnectionError> {
        Self::of(&serde_json::from_slice(json).map_err(unreadable)?)
    }
}

fn unreadable(error: impl std::fmt::Display) -> ConnectionError {
    ConnectionError::Failed(format!("a frame can't be parsed: {error}"))
}

/// An acknowledged connection. Dropping it closes the TCP connection.
pub(crate) enum GatewayConnection {
    WebSocket(Box<websocket::Connection>),
    EventStream(event_stream::Connection),
    LongPoll(long_poll::Connection),
    Grpc(grpc::Connection),
}

impl GatewayConnection {
    /// Connects and waits for `connection.ack`. An instance has one connection over long polling; on
    /// other transports it is not named.
    pub(crate) async fn connect(
        transport: Transport,
        endpoint: &Endpoint,
        key: &SecretString,
        instance: Option<usize>,
    ) -> Result<Self, ConnectionError> {
        let connecting = async {
            Ok(match transport {
                Transport::WebSocket => {
                    Self::WebSocket(Box::new(websocket::Connection::plain(endpoint, key).await?))
                }
                Transport::WebSocketV1 => {
                    Self::WebSocket(Box::new(websocket::Connection::reliable(endpoint, key).await?))
                }
                Transport::EventStream => {
                    Self::EventStream(event_stream::Connection::open(endpoint, key).await?)
                }
                Transport::LongPoll => {
                    Self::LongPoll(long_poll::Connection::open(endpoint, key, instance).await?)
                }
                Transport::Grpc => Self::Grpc(grpc::Connection::open(endpoint, key).await?),
            })
        };
        timeout(DIAL_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(ConnectionError::new("no connection.ack in time")))
    }

    /// Returns the next event. Cancel safe. Over long polling, this acknowledges all events that it
    /// returned before.
    pub(crate) async fn next(&mut self) -> Result<Event, ConnectionError> {
        match self {
            Self::WebSocket(connection) => connection.next().await,
            Self::EventStream(connection) => connection.next().await,
            Self::LongPoll(connection) => connection.next().await,
            Self::Grpc(connection) => connection.next().await,
        }
    }

    /// Acknowledges everything up to a sequence, unless the transport has receipts of its own: the
    /// pongs of plain mode, and the requests of long polling.
    pub(crate) async fn acknowledge(&mut self, sequence: i64) -> Result<(), ConnectionError> {
        match self {
            Self::WebSocket(connection) => connection.acknowledge(sequence).await,
            Self::EventStream(connection) => {
                connection.acknowledge(sequence);
                Ok(())
            }
            Self::LongPoll(_) => Ok(()),
            Self::Grpc(connection) => connection.acknowledge(sequence),
        }
    }

    /// Closes the connection.
    pub(crate) async fn close(self) {
        if let Self::WebSocket(connection) = self {
            connection.close().await;
        }
    }
}
