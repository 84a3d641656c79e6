//! Reliable mode over WebSocket: the subprotocol `gateway-events.v1`, one text frame per frame.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{SinkExt as _, StreamExt as _};
use secrecy::SecretString;
use tokio::time::timeout;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::header::{RETRY_AFTER, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, Utf8Bytes};

use super::link::{Closed, ConnectError, Link, Received, Transport};
use crate::client::socket::{Endpoint, Socket, request};
use crate::client::tls::plain;
use crate::transport::frames::{GatewayFrame, Hello, PROTOCOL, ServerFrame};

/// Time to connect and to receive the first frame.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Timeout of a write. The service always reads.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects over WebSocket.
#[derive(Clone, Debug)]
pub struct WebSocket {
    endpoint: Endpoint,
    key: SecretString,
}

impl WebSocket {
    /// Connects to this service with a gateway's key.
    pub fn new(endpoint: Endpoint, key: SecretString) -> Self {
        Self { endpoint, key }
    }

    async fn dial(&self) -> Result<Socket, ConnectError> {
        let failed = |error: &dyn std::fmt::Display| ConnectError::Failed(plain(error.to_string()));
        let mut request = request(&self.endpoint.base, &self.key).map_err(|it| failed(&it))?;
        let protocol = HeaderValue::from_static(PROTOCOL);
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        let stream = self.endpoint.open().await.map_err(|error| failed(&error))?;
        match client_async_with_config(request, stream, None).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(response)) => Err(ConnectError::Refused {
                status: response.status().as_u16(),
                retry_after: retry_after(&response),
            }),
            Err(Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(_))) => {
                Err(ConnectError::Failed(format!(
                    "the service does not support reliable mode, {PROTOCOL}"
                )))
            }
            Err(error) => Err(failed(&error)),
        }
    }
}

/// `Retry-After` in seconds.
fn retry_after<T>(response: &Response<T>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[async_trait]
impl Transport for WebSocket {
    async fn connect(&self, hello: &Hello) -> Result<Box<dyn Link>, ConnectError> {
        let connecting = async {
            let socket = self.dial().await?;
            let mut link = WebSocketLink { socket, first: None, farewell: None };
            let failed = |closed: Closed| ConnectError::Failed(closed.why);
            let first = loop {
                match link.receive().await.map_err(failed)? {
                    Received::Frame(frame @ ServerFrame::Ack(_)) => break frame,
                    // Why the service is about to close the connection is in the close frame, too.
                    Received::Frame(ServerFrame::Error(_)) | Received::Alive => {}
                    Received::Frame(frame) => {
                        let frame_type = frame.frame_type();
                        return Err(ConnectError::Failed(format!(
                            "the first frame was {frame_type} instead of connection.ack"
                        )));
                    }
                }
            };
            link.first = Some(first);
            link.send(&[GatewayFrame::Hello(hello.clone())]).await.map_err(failed)?;
            Ok(link)
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(link)) => Ok(Box::new(link)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ConnectError::Failed("connecting timed out".to_owned())),
        }
    }
}

struct WebSocketLink {
    socket: Socket,
    /// `connection.ack`, which was read before the hello was sent.
    first: Option<ServerFrame>,
    /// The service's close frame.
    farewell: Option<Closed>,
}

#[async_trait]
impl Link for WebSocketLink {
    async fn receive(&mut self) -> Result<Received, Closed> {
        if let Some(first) = self.first.take() {
            return Ok(Received::Frame(first));
        }
        loop {
            let closed = match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return parsed(text.as_bytes()),
                Some(Ok(Message::Ping(_))) => {
                    // Reading a ping queues its pong.
                    match timeout(WRITE_TIMEOUT, self.socket.flush()).await {
                        Ok(Ok(())) => return Ok(Received::Alive),
                        Ok(Err(error)) => Closed::lost(plain(error.to_string())),
                        Err(_) => Closed::lost("the service does not read"),
                    }
                }
                // The closing handshake is completed by reading to the end.
                Some(Ok(Message::Close(frame))) => {
                    self.farewell = frame.map(|frame| {
                        let code = u16::from(frame.code);
                        Closed { code: Some(code), why: format!("{code} {}", frame.reason) }
                    });
                    continue;
                }
                Some(Ok(_)) => return Ok(Received::Alive),
                Some(Err(error)) => Closed::lost(plain(error.to_string())),
                None => Closed::lost("the service closed the connection"),
            };
            return Err(self.farewell.take().unwrap_or(closed));
        }
    }

    async fn send(&mut self, frames: &[GatewayFrame]) -> Result<(), Closed> {
        let writing = async {
            for frame in frames {
                self.socket.feed(Message::Text(text(frame.to_text())?)).await?;
            }
            self.socket.flush().await
        };
        match timeout(WRITE_TIMEOUT, writing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let closed = Closed::lost(plain(error.to_string()));
                Err(self.farewell.take().unwrap_or(closed))
            }
            Err(_) => Err(Closed::lost("the service does not read")),
        }
    }

    async fn close(&mut self) {
        let closing = async {
            // The service may be gone.
            let _ = self.socket.close(None).await;
            while let Some(Ok(_)) = self.socket.next().await {}
        };
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }
}

fn parsed(text: &[u8]) -> Result<Received, Closed> {
    match ServerFrame::parse(text) {
        Ok(Some(frame)) => Ok(Received::Frame(frame)),
        Ok(None) => Ok(Received::Alive),
        Err(error) => Err(Closed::lost(format!("the service sent an invalid frame: {error}"))),
    }
}

/// JSON is UTF-8.
fn text(frame: Bytes) -> Result<Utf8Bytes, Error> {
    Utf8Bytes::try_from(frame).map_err(|error| Error::Utf8(error.to_string()))
}
