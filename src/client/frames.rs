//! A gateway's socket without the gateway: frames are handed out as they come,
//! and pings are answered, as the protocol wants it, when what came before them
//! has been taken. For who has thousands of them and measures.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use secrecy::SecretString;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::protocol::Welcome;
use super::socket::{DialError, Endpoint, Socket, dial};

const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no connection, or no more.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Ended {
    /// The service refused with this status.
    #[error("the service refused the connection with status {0}")]
    Refused(u16),
    /// Anything else, in words.
    #[error("the connection of a gateway failed: {0}")]
    Failed(String),
}

impl Ended {
    fn because(why: impl std::fmt::Display) -> Self {
        Self::Failed(why.to_string())
    }
}

/// An acknowledged connection; it breaks off when this is dropped.
pub struct Frames {
    socket: Socket,
}

impl Frames {
    /// Connects and takes the acknowledgement.
    pub async fn connect(endpoint: &Endpoint, key: &SecretString) -> Result<Self, Ended> {
        timeout(DIAL_TIMEOUT, Self::open(endpoint, key))
            .await
            .unwrap_or_else(|_| Err(Ended::because("no connection.ack in time")))
    }

    async fn open(endpoint: &Endpoint, key: &SecretString) -> Result<Self, Ended> {
        let socket = dial(endpoint, key).await.map_err(|error| match error {
            DialError::Refused(status) => Ended::Refused(status),
            DialError::Failed(why) => Ended::Failed(why),
        })?;
        let mut frames = Self { socket };
        let first = frames.next().await?;
        match std::str::from_utf8(&first).ok().and_then(Welcome::read) {
            Some(_) => Ok(frames),
            None => Err(Ended::because("the first frame was no connection.ack")),
        }
    }

    /// The next text frame. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Bytes, Ended> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.into()),
                Some(Ok(Message::Close(frame))) => {
                    let why = frame.map(|it| format!("closed with {} {}", it.code, it.reason));
                    return Err(Ended::Failed(why.unwrap_or_else(|| "closed".to_owned())));
                }
                // Reading on sends the answer to a ping.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Ended::because(error)),
                None => return Err(Ended::because("closed")),
            }
        }
    }

    /// Says good-bye.
    pub async fn close(mut self) {
        // Who is gone already needs none.
        let _ = timeout(Duration::from_secs(2), self.socket.close(None)).await;
    }
}
