//! Reliable mode over server-sent events. What the client sends are requests of their own, which must
//! reach the node that the stream comes from.

use async_trait::async_trait;
use reqwest::Response;
use reqwest::header::ACCEPT;
use secrecy::SecretString;
use tokio::time::timeout;

use super::link::{Closed, ConnectError, Link, Received, Transport, announced};
use super::requests::{CONNECT_TIMEOUT, Requests, not_connected, why};
use crate::client::lines::{Field, Lines};
use crate::client::socket::Endpoint;
use crate::event::EventType;
use crate::transport::frames::{Confirm, Credit, GatewayFrame, Hello, Resume, ServerFrame};

/// The length of the longest line: that of an event of 16 MiB.
const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// Connects over server-sent events. The id of the event at the position to resume from is not checked.
#[derive(Clone, Debug)]
pub struct EventStream(Requests);

impl EventStream {
    /// Connects to this service with a gateway's key. The local address of the endpoint counts, too.
    pub fn new(endpoint: &Endpoint, key: &SecretString) -> Result<Self, ConnectError> {
        Ok(Self(Requests::new(endpoint, key)?))
    }

    async fn open(&self, hello: &Hello) -> Result<Response, ConnectError> {
        let resume = match &hello.resume {
            Resume::Server => "server".to_owned(),
            Resume::Latest => "latest".to_owned(),
            Resume::Earliest => "earliest".to_owned(),
            Resume::After(position) => format!("{}.{}", position.epoch, position.sequence),
        };
        let confirm = match hello.confirm {
            Confirm::Received => "received",
            Confirm::Applied => "applied",
        };
        let mut query = vec![("resume", resume), ("confirm", confirm.to_owned())];
        query.extend(hello.instance.clone().map(|instance| ("instance", instance)));
        query.extend(hello.window.map(|window| ("window", window.to_string())));
        query.extend(hello.envelope.map(|envelope| ("envelope", envelope.as_str().to_owned())));
        if let Some(types) = &hello.types {
            let types: Vec<&str> = types.iter().map(EventType::as_str).collect();
            query.push(("types", types.join(",")));
        }
        let request = self.0.get(&["stream"], &query).header(ACCEPT, "text/event-stream");
        match request.send().await {
            Ok(response) if response.status().is_success() => Ok(response),
            Ok(response) => Err(not_connected(&response)),
            Err(error) => Err(ConnectError::Failed(why(&error))),
        }
    }
}

#[async_trait]
impl Transport for EventStream {
    async fn connect(&self, hello: &Hello) -> Result<Box<dyn Link>, ConnectError> {
        let connecting = async {
            let mut link = EventStreamLink {
                requests: self.0.clone(),
                stream: Some(self.open(hello).await?),
                lines: Lines::new(MAX_LINE_BYTES),
                first: None,
                connection: None,
                code: None,
            };
            let failed = |closed: Closed| ConnectError::Failed(closed.why);
            let first = loop {
                match link.receive().await.map_err(failed)? {
                    Received::Frame(frame) => break frame,
                    Received::Alive => {}
                }
            };
            let ServerFrame::Ack(ack) = &first else {
                let why = "the first frame was another one than connection.ack";
                return Err(ConnectError::Failed(why.to_owned()));
            };
            link.connection = Some(ack.connection_id.to_string());
            link.first = Some(first);
            // The request has no parameter for it.
            if let Some(bytes) = hello.window_bytes {
                let credit = Credit { window: None, window_bytes: Some(bytes) };
                link.send(&[GatewayFrame::Credit(credit)]).await.map_err(failed)?;
            }
            Ok(link)
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(link)) => Ok(Box::new(link)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ConnectError::Failed("connecting timed out".to_owned())),
        }
    }
}

struct EventStreamLink {
    requests: Requests,
    stream: Option<Response>,
    lines: Lines,
    /// `connection.ack`, which was read when the stream was opened.
    first: Option<ServerFrame>,
    /// The id of the connection.
    connection: Option<String>,
    /// The close code that follows from the last frames.
    code: Option<u16>,
}

#[async_trait]
impl Link for EventStreamLink {
    async fn receive(&mut self) -> Result<Received, Closed> {
        if let Some(first) = self.first.take() {
            return Ok(Received::Frame(first));
        }
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
        let Some(connection) = &self.connection else {
            return Err(Closed::lost("the stream has not begun with connection.ack"));
        };
        let sent = self.requests.send(&["connections", connection, "frames"], frames).await;
        sent.map_err(|closed| Closed { code: self.code.or(closed.code), ..closed })
    }

    async fn close(&mut self) {
        self.stream = None;
    }
}

impl EventStreamLink {
    fn parsed(&mut self, data: &str) -> Result<Received, Closed> {
        match ServerFrame::parse(data.as_bytes()) {
            Ok(Some(frame)) => {
                self.code = announced(&frame).or(self.code);
                Ok(Received::Frame(frame))
            }
            Ok(None) => Ok(Received::Alive),
            Err(error) => Err(Closed::lost(format!("the service sent an invalid frame: {error}"))),
        }
    }
}
