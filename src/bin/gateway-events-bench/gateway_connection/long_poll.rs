//! Long polling over one HTTP/1.1 connection. Each request acknowledges the events of all answers
//! before it.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use gateway_events::client::Endpoint;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use serde::Deserialize;
use tokio::task::JoinHandle;

use super::http2::{api, key_value};
use super::{ConnectionError, Event, unreadable};
use crate::check::Frame;

/// An answer with events.
#[derive(Deserialize)]
struct Polled<'a> {
    epoch: &'a str,
    #[serde(borrow)]
    events: Vec<Frame<'a>>,
    #[serde(default)]
    gap: Option<serde::de::IgnoredAny>,
}

/// The connection, and the body of the answer; `None` if there was nothing within the wait.
type Answer = (SendRequest<Empty<Bytes>>, Option<Bytes>);

pub(crate) struct Connection {
    host: HeaderValue,
    key: HeaderValue,
    /// `&instance=…`, or nothing.
    instance: String,
    /// The epoch and the sequence of the last event.
    position: Option<(String, i64)>,
    events: VecDeque<Event>,
    polling: Polling,
    driver: JoinHandle<()>,
}

enum Polling {
    Idle(SendRequest<Empty<Bytes>>),
    Waiting(BoxFuture<'static, Result<Answer, ConnectionError>>),
    /// A request has failed.
    Failed,
}

impl Connection {
    pub(super) async fn open(
        endpoint: &Endpoint,
        key: &SecretString,
        instance: Option<usize>,
    ) -> Result<Self, ConnectionError> {
        let stream = endpoint.open().await.map_err(ConnectionError::new)?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(ConnectionError::new)?;
        // If the connection fails, so does the next request.
        let driver = tokio::spawn(async move { drop(connection.await) });
        let base = &endpoint.base;
        let host = format!(
            "{}:{}",
            base.host_str().unwrap_or_default(),
            base.port_or_known_default().unwrap_or(443)
        );
        let mut connection = Self {
            host: HeaderValue::from_str(&host).map_err(ConnectionError::new)?,
            key: key_value(key)?,
            instance: instance.map(|it| format!("&instance=bench-{it}")).unwrap_or_default(),
            position: None,
            events: VecDeque::new(),
            polling: Polling::Idle(sender),
            driver,
        };
        // The service opens the gateway's connection with the first request.
        connection.poll("1ms").await?;
        Ok(connection)
    }

    pub(super) async fn next(&mut self) -> Result<Event, ConnectionError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.poll("25s").await?;
        }
    }

    /// Sends a request, unless one is waiting, and reads its answer. Cancel safe.
    async fn poll(&mut self, wait: &str) -> Result<(), ConnectionError> {
        match std::mem::replace(&mut self.polling, Polling::Failed) {
            Polling::Idle(sender) => {
                let request = self.request(wait)?;
                self.polling = Polling::Waiting(Box::pin(send(sender, request)));
            }
            polling => self.polling = polling,
        }
        let Polling::Waiting(answer) = &mut self.polling else {
            return Err(ConnectionError::new("an earlier request has failed"));
        };
        let answer = answer.await;
        self.polling = Polling::Failed;
        let (sender, body) = answer?;
        self.polling = Polling::Idle(sender);
        let Some(body) = body else { return Ok(()) };
        let polled: Polled<'_> = serde_json::from_slice(&body).map_err(unreadable)?;
        if polled.gap.is_some() {
            return Err(ConnectionError::new("the service answered with a gap"));
        }
        for frame in &polled.events {
            let event = Event::of(frame)?;
            self.events.push_back(event);
            self.position = Some((polled.epoch.to_owned(), event.sequence));
        }
        Ok(())
    }

    fn request(&self, wait: &str) -> Result<Request<Empty<Bytes>>, ConnectionError> {
        let position = match &self.position {
            Some((epoch, sequence)) => {
                format!("&after={epoch}.{sequence}&ack={epoch}.{sequence}")
            }
            None => String::new(),
        };
        let path = format!("/gateways/events?wait={wait}{}{position}", self.instance);
        Request::builder()
            .uri(api(&path))
            .header(HOST, &self.host)
            .header("api-key", &self.key)
            .body(Empty::new())
            .map_err(ConnectionError::new)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn send(
    mut sender: SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
) -> Result<Answer, ConnectionError> {
    sender.ready().await.map_err(ConnectionError::new)?;
    let response = sender.send_request(request).await.map_err(ConnectionError::new)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(ConnectionError::new)?.to_bytes();
    match status {
        StatusCode::OK => Ok((sender, Some(body))),
        StatusCode::NO_CONTENT => Ok((sender, None)),
        _ => Err(ConnectionError::Refused(status.as_u16())),
    }
}
