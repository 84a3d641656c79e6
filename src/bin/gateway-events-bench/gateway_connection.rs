//! A gateway's WebSocket connection without the gateway's logic: it returns events as
//! raw text frames. Pings are answered as the protocol requires, after the frames
//! before them were returned. Thousands of them fit in one process.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use gateway_events::client::{DialError, Endpoint, Socket};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    /// The service refused the upgrade with this status.
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

/// The first frame of every connection.
#[derive(Deserialize)]
struct Acknowledgement<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
}

/// An acknowledged connection. Dropping it closes the TCP connection.
pub(crate) struct GatewayConnection {
    socket: Socket,
}

impl GatewayConnection {
    /// Connects and waits for `connection.ack`.
    pub(crate) async fn connect(
        endpoint: &Endpoint,
        key: &SecretString,
    ) -> Result<Self, ConnectionError> {
        timeout(DIAL_TIMEOUT, Self::open(endpoint, key))
            .await
            .unwrap_or_else(|_| Err(ConnectionError::new("no connection.ack in time")))
    }

    async fn open(endpoint: &Endpoint, key: &SecretString) -> Result<Self, ConnectionError> {
        let socket = endpoint.dial(key).await.map_err(|error| match error {
            DialError::Refused(status) => ConnectionError::Refused(status),
            DialError::Failed(cause) => ConnectionError::Failed(cause),
        })?;
        let mut connection = Self { socket };
        let first = connection.next().await?;
        match serde_json::from_slice(&first) {
            Ok(Acknowledgement { kind: "connection.ack" }) => Ok(connection),
            _ => Err(ConnectionError::new("the first frame is not a connection.ack")),
        }
    }

    /// Returns the next text frame. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Bytes, ConnectionError> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.into()),
                Some(Ok(Message::Close(frame))) => {
                    let cause = frame.map(|it| format!("closed with {} {}", it.code, it.reason));
                    return Err(ConnectionError::Failed(cause.unwrap_or("closed".to_owned())));
                }
                // The pong is sent by the next read.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(ConnectionError::new(error)),
                None => return Err(ConnectionError::new("closed")),
            }
        }
    }

    /// Sends a close frame.
    pub(crate) async fn close(mut self) {
        // The service may have closed the connection already.
        let _ = timeout(CLOSE_TIMEOUT, self.socket.close(None)).await;
    }
}
