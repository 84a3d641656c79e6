//! The gateway's end of a socket.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::TEST_TIMEOUT;

/// A gateway's socket. The test controls every frame.
pub(crate) struct Socket {
    pub(super) stream: WebSocketStream<TlsStream<TcpStream>>,
}

impl Socket {
    /// The next JSON frame; pings before it are answered, as gateways do. `None` when the
    /// connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let text = self.next_text().await?;
        let frame = serde_json::from_str(&text).expect("JSON");
        super::streams::check("plain", &frame);
        Some(frame)
    }

    /// The text of the next JSON frame.
    pub(crate) async fn next_text(&mut self) -> Option<String> {
        loop {
            let next = tokio::time::timeout(TEST_TIMEOUT, self.stream.next())
                .await
                .expect("a frame in time");
            match next {
                Some(Ok(Message::Text(text))) => return Some(text.as_str().to_owned()),
                // Reading has queued the pong; flushing sends it.
                Some(Ok(Message::Ping(_))) => drop(self.stream.flush().await),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Waits for the next ping, ignoring other frames.
    pub(crate) async fn pinged(&mut self) {
        loop {
            let next = tokio::time::timeout(TEST_TIMEOUT, self.stream.next()).await;
            match next.expect("a ping in time").expect("it is open").expect("a frame") {
                Message::Ping(_) => return self.stream.flush().await.expect("it is open"),
                Message::Close(frame) => panic!("it was closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// The next JSON frame; pings before it are not answered.
    pub(crate) async fn unanswered(&mut self) -> Value {
        loop {
            let next = tokio::time::timeout(TEST_TIMEOUT, self.stream.next()).await;
            match next.expect("a frame in time").expect("it is open").expect("a frame") {
                Message::Text(text) => return serde_json::from_str(text.as_str()).expect("JSON"),
                Message::Close(frame) => panic!("it was closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// Waits for a ping and answers it. False if an event comes first.
    pub(crate) async fn pinged_before_text(&mut self) -> bool {
        loop {
            match self.stream.next().await.expect("it is open").expect("a frame") {
                Message::Ping(_) => {
                    self.stream.flush().await.expect("it is open");
                    return true;
                }
                Message::Text(_) => return false,
                Message::Close(frame) => panic!("it was closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// Reads events with these sequences, in order.
    pub(crate) async fn expect(&mut self, sequences: std::ops::RangeInclusive<i64>) -> Vec<Value> {
        let mut events = Vec::new();
        for sequence in sequences {
            let event = self.next().await.expect("an event");
            assert_eq!(event["sequence"], sequence, "{event}");
            events.push(event);
        }
        events
    }

    /// Answers pings until the connection ends.
    pub(crate) async fn until_closed(&mut self) {
        while self.next().await.is_some() {}
    }

    pub(crate) async fn send(&mut self, message: Message) {
        self.stream.send(message).await.expect("it is open");
    }

    /// Serves the socket in the background, so that pings are answered.
    pub(crate) fn serve(mut self) -> tokio::task::JoinHandle<Vec<Value>> {
        tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(event) = self.next().await {
                seen.push(event);
            }
            seen
        })
    }
}
