//! WebSocket in both modes. Pings are answered as the protocol requires, after the frames before them
//! were returned, which is the receipt of plain mode.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use gateway_events::client::{DialError, Endpoint, Socket};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::{CLOSE_TIMEOUT, ConnectionError, Event};

const HELLO: &str = r#"{"type":"connection.hello","resume":"server","confirm":"applied"}"#;

/// The first frame of every connection.
#[derive(Deserialize)]
struct Acknowledgement<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
}

pub(crate) struct Connection {
    socket: Socket,
    is_reliable: bool,
}

impl Connection {
    pub(super) async fn plain(
        endpoint: &Endpoint,
        key: &SecretString,
    ) -> Result<Self, ConnectionError> {
        let socket = endpoint.dial(key).await.map_err(refused)?;
        Self { socket, is_reliable: false }.acknowledged().await
    }

    pub(super) async fn reliable(
        endpoint: &Endpoint,
        key: &SecretString,
    ) -> Result<Self, ConnectionError> {
        let socket = endpoint.dial_reliable(key).await.map_err(refused)?;
        let mut connection = Self { socket, is_reliable: true }.acknowledged().await?;
        connection.send(HELLO.to_owned()).await?;
        Ok(connection)
    }

    async fn acknowledged(mut self) -> Result<Self, ConnectionError> {
        let first = self.frame().await?;
        match serde_json::from_slice(&first) {
            Ok(Acknowledgement { kind: "connection.ack" }) => Ok(self),
            _ => Err(ConnectionError::new("the first frame is not a connection.ack")),
        }
    }

    pub(super) async fn next(&mut self) -> Result<Event, ConnectionError> {
        loop {
            let frame = self.frame().await?;
            if self.is_reliable && is_control(&frame)? {
                continue;
            }
            return Event::parse(&frame);
        }
    }

    pub(super) async fn acknowledge(&mut self, sequence: i64) -> Result<(), ConnectionError> {
        if !self.is_reliable {
            return Ok(());
        }
        self.send(format!(r#"{{"type":"delivery.ack","applied":{sequence}}}"#)).await
    }

    async fn send(&mut self, frame: String) -> Result<(), ConnectionError> {
        self.socket.send(Message::text(frame)).await.map_err(ConnectionError::new)
    }

    /// Returns the next text frame. Cancel safe.
    async fn frame(&mut self) -> Result<Bytes, ConnectionError> {
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
    pub(super) async fn close(mut self) {
        // The service may have closed the connection already.
        let _ = timeout(CLOSE_TIMEOUT, self.socket.close(None)).await;
    }
}

fn refused(error: DialError) -> ConnectionError {
    match error {
        DialError::Refused(status) => ConnectionError::Refused(status),
        DialError::Failed(cause) => ConnectionError::Failed(cause),
    }
}

/// Whether a frame is not an event; the type is its first member. An error if delivery stops.
pub(super) fn is_control(frame: &[u8]) -> Result<bool, ConnectionError> {
    const GAP: &[u8] = br#"{"type":"delivery.gap""#;
    const ERROR: &[u8] = br#"{"type":"connection.error""#;
    if frame.starts_with(GAP) || frame.starts_with(ERROR) {
        return Err(ConnectionError::new(String::from_utf8_lossy(frame)));
    }
    Ok([br#"{"type":"delivery."#.as_slice(), br#"{"type":"connection."#]
        .iter()
        .any(|prefix| frame.starts_with(prefix)))
}
