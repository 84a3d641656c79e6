//! Server-sent events over HTTP/2. A task sends the acknowledgements, each with the highest sequence
//! that there is when the one before it is answered.

use bytes::{Bytes, BytesMut};
use gateway_events::client::Endpoint;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::Method;
use hyper::body::Incoming;
use secrecy::SecretString;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::http2::{Http2, Requests, api};
use super::websocket::is_control;
use super::{ConnectionError, Event, unreadable};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Acknowledgement<'a> {
    connection_id: &'a str,
}

pub(crate) struct Connection {
    stream: Stream,
    acknowledged: watch::Sender<i64>,
    acknowledging: JoinHandle<ConnectionError>,
    // Dropped last, because it ends the streams.
    _http: Http2,
}

impl Connection {
    pub(super) async fn open(
        endpoint: &Endpoint,
        key: &SecretString,
    ) -> Result<Self, ConnectionError> {
        let http = Http2::connect(endpoint, key).await?;
        let mut requests = http.requests();
        let request = requests.request(Method::GET, &api("/gateways/stream?confirm=applied"));
        let response = requests.send(request, Empty::new()).await?;
        let mut stream = Stream { body: response.into_body(), bytes: BytesMut::new() };
        let first = stream.data().await?;
        let Acknowledgement { connection_id } =
            serde_json::from_slice(&first).map_err(unreadable)?;
        let path = api(&format!("/gateways/connections/{connection_id}/frames"));
        let (acknowledged, highest) = watch::channel(0);
        let acknowledging = tokio::spawn(acknowledge(requests, path, highest));
        Ok(Self { stream, acknowledged, acknowledging, _http: http })
    }

    pub(super) async fn next(&mut self) -> Result<Event, ConnectionError> {
        loop {
            let data = tokio::select! {
                biased;
                data = self.stream.data() => data?,
                failed = &mut self.acknowledging => return Err(match failed {
                    Ok(error) => error,
                    Err(error) => ConnectionError::new(error),
                }),
            };
            if !is_control(&data)? {
                return Event::parse(&data);
            }
        }
    }

    pub(super) fn acknowledge(&self, sequence: i64) {
        // Fails if the task has ended, which `next` reports.
        let _ = self.acknowledged.send(sequence);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.acknowledging.abort();
    }
}

/// Sends acknowledgements until one fails.
async fn acknowledge(
    mut requests: Requests,
    path: String,
    mut highest: watch::Receiver<i64>,
) -> ConnectionError {
    loop {
        if let Err(error) = highest.changed().await {
            return ConnectionError::new(error);
        }
        let sequence = *highest.borrow_and_update();
        let frame = format!(r#"{{"type":"delivery.ack","applied":{sequence}}}"#);
        let request = requests.request(Method::POST, &path);
        if let Err(error) = requests.send(request, Full::new(Bytes::from(frame))).await {
            return error;
        }
    }
}

/// The stream and what was read of it.
struct Stream {
    body: Incoming,
    bytes: BytesMut,
}

impl Stream {
    /// Returns the next line of data, which is a whole frame: payloads of measurements have no line
    /// breaks. Cancel safe.
    async fn data(&mut self) -> Result<Bytes, ConnectionError> {
        loop {
            while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                let line = self.bytes.split_to(end + 1);
                if line.starts_with(b"data: ") {
                    return Ok(line.freeze().slice(b"data: ".len()..end));
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.bytes.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(ConnectionError::new(error)),
                None => return Err(ConnectionError::new("the service ended the stream")),
            }
        }
    }
}
