//! Reliable mode over server-sent events. What the client sends are requests of their own, which must
//! reach the node that the stream comes from.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{ACCEPT, HeaderValue, RETRY_AFTER};
use reqwest::{Response, Url};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout;

use super::link::{Closed, ConnectError, Link, Received, Transport};
use crate::client::BASE_PATH;
use crate::client::lines::{Field, Lines};
use crate::client::socket::Endpoint;
use crate::client::tls::plain;
use crate::event::{ConnectionId, EventType};
use crate::transport::frames::{
    Confirm, ErrorCode, GatewayFrame, Hello, MAX_BATCH, Resume, ServerFrame, close_code,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Timeout of a request that sends frames.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// The length of the longest line: that of an event of 16 MiB.
const LONGEST_LINE: usize = 16 * 1024 * 1024;

/// Connects over server-sent events.
#[derive(Clone, Debug)]
pub struct EventStream {
    client: reqwest::Client,
    base: Url,
    key: HeaderValue,
}

impl EventStream {
    /// Connects to this service with a gateway's key. The local address of the endpoint counts, too.
    pub fn new(endpoint: &Endpoint, key: &SecretString) -> Result<Self, ConnectError> {
        let failed = |error: &dyn std::fmt::Display| ConnectError::Failed(plain(error.to_string()));
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(endpoint.tls.as_ref().clone())
            .local_address(endpoint.source)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| failed(&error))?;
        let mut key = HeaderValue::from_str(key.expose_secret()).map_err(|error| failed(&error))?;
        key.set_sensitive(true);
        Ok(Self { client, base: endpoint.base.clone(), key })
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{BASE_PATH}{path}"));
        url
    }

    fn request(&self, hello: &Hello) -> reqwest::RequestBuilder {
        let mut url = self.url("/gateways/stream");
        let resume = match hello.resume {
            Resume::Server | Resume::After(_) => "server",
            Resume::Latest => "latest",
            Resume::Earliest => "earliest",
        };
        let confirm = match hello.confirm {
            Confirm::Received => "received",
            Confirm::Applied => "applied",
        };
        let mut query = url.query_pairs_mut();
        query.append_pair("resume", resume).append_pair("confirm", confirm);
        if let Some(instance) = &hello.instance {
            query.append_pair("instance", instance);
        }
        if let Some(window) = hello.window {
            query.append_pair("window", &window.to_string());
        }
        if let Some(types) = &hello.types {
            let types: Vec<&str> = types.iter().map(EventType::as_str).collect();
            query.append_pair("types", &types.join(","));
        }
        drop(query);
        let request = self.client.get(url).header("api-key", self.key.clone());
        let request = request.header(ACCEPT, "text/event-stream");
        match &hello.resume {
            Resume::After(position) => {
                request.header("last-event-id", format!("{}.{}", position.epoch, position.sequence))
            }
            _ => request,
        }
    }
}

#[async_trait]
impl Transport for EventStream {
    async fn connect(&self, hello: &Hello) -> Result<Box<dyn Link>, ConnectError> {
        let opening = timeout(CONNECT_TIMEOUT, self.request(hello).send()).await;
        let response = match opening {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(ConnectError::Failed(why(&error))),
            Err(_) => return Err(ConnectError::Failed("connecting timed out".to_owned())),
        };
        if !response.status().is_success() {
            let retry_after = response.headers().get(RETRY_AFTER);
            let retry_after = retry_after.and_then(|it| it.to_str().ok()?.parse().ok());
            return Err(ConnectError::Refused {
                status: response.status().as_u16(),
                retry_after: retry_after.map(Duration::from_secs),
            });
        }
        Ok(Box::new(EventStreamLink {
            transport: self.clone(),
            stream: Some(response),
            lines: Lines::new(LONGEST_LINE),
            connection: None,
            code: None,
        }))
    }
}

struct EventStreamLink {
    transport: EventStream,
    stream: Option<Response>,
    lines: Lines,
    connection: Option<ConnectionId>,
    /// The close code that stands for the `connection.error` of the stream.
    code: Option<u16>,
}

#[async_trait]
impl Link for EventStreamLink {
    async fn receive(&mut self) -> Result<Received, Closed> {
        loop {
            match self.lines.next() {
                Some(Field::Data(data)) => return self.parsed(&data),
                Some(Field::Comment) => return Ok(Received::Alive),
                Some(Field::Id(_)) => continue,
                None => {}
            }
            let Some(stream) = &mut self.stream else { return Err(Closed::lost("closed")) };
            let why = match stream.chunk().await {
                Ok(Some(bytes)) => match self.lines.add(&bytes) {
                    Ok(()) => continue,
                    Err(why) => why.to_owned(),
                },
                Ok(None) => "the service ended the stream".to_owned(),
                Err(error) => why(&error),
            };
            return Err(Closed { code: self.code, why });
        }
    }

    async fn send(&mut self, frames: &[GatewayFrame]) -> Result<(), Closed> {
        let Some(connection) = self.connection else {
            return Err(Closed::lost("the stream has not begun with connection.ack"));
        };
        for frames in frames.chunks(MAX_BATCH) {
            let url = self.transport.url(&format!("/gateways/connections/{connection}/frames"));
            let request = self.transport.client.post(url).timeout(SEND_TIMEOUT);
            let request = request.header("api-key", self.transport.key.clone());
            match request.json(frames).send().await {
                Ok(response) if response.status().is_success() => {}
                Ok(response) => {
                    let status = response.status().as_u16();
                    return Err(Closed {
                        code: self.code,
                        why: format!("the service refused frames with status {status}"),
                    });
                }
                Err(error) => return Err(Closed::lost(why(&error))),
            }
        }
        Ok(())
    }

    async fn close(&mut self) {
        self.stream = None;
    }
}

impl EventStreamLink {
    fn parsed(&mut self, data: &str) -> Result<Received, Closed> {
        match ServerFrame::parse(data.as_bytes()) {
            Ok(Some(frame)) => {
                match &frame {
                    ServerFrame::Ack(ack) => self.connection = Some(ack.connection_id),
                    ServerFrame::Error(error) => self.code = Some(code_of(&error.code)),
                    ServerFrame::Drain(_) => self.code = Some(close_code::DRAIN),
                    _ => {}
                }
                Ok(Received::Frame(frame))
            }
            Ok(None) => Ok(Received::Alive),
            Err(error) => Err(Closed::lost(format!("the service sent an invalid frame: {error}"))),
        }
    }
}

/// The close code of WebSocket that says the same as the code of a `connection.error`. An unknown one
/// does not end the client.
fn code_of(error: &str) -> u16 {
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

/// The innermost cause: reqwest's own message only says what was attempted.
fn why(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    plain(cause.to_string())
}
