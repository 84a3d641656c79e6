//! A gateway that receives server-sent events and confirms them by `POST`.

use gateway_events::client::BASE_PATH;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::http::{Reply, reply};
use crate::support::streams::{check_request, check_streamed};
use crate::support::{Service, TEST_TIMEOUT};

/// A message of a stream.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: String,
    pub(crate) id: Option<String>,
    pub(crate) data: Value,
}

pub(crate) struct Peer {
    client: Client,
    base: String,
    key: String,
    response: reqwest::Response,
    text: String,
    /// Comments that were read.
    pub(crate) comments: usize,
    /// The value of `retry:`.
    pub(crate) retry: Option<u64>,
    /// The first frame.
    pub(crate) ack: Value,
}

fn client(service: &Service) -> Client {
    let config = service.trust().client_config().expect("a TLS client");
    let client = Client::builder().tls_backend_preconfigured(config.as_ref().clone()).no_proxy();
    client.build().expect("a client")
}

/// The request for a stream.
pub(crate) fn request(service: &Service, key: &str, query: &str) -> RequestBuilder {
    let url = format!("https://localhost:{}{BASE_PATH}/gateways/stream{query}", service.port);
    client(service).get(url).header("api-key", key)
}

impl Peer {
    /// Opens a stream and reads its first frame.
    pub(crate) async fn greet(service: &Service, key: &str, query: &str) -> Self {
        Self::send(service, key, request(service, key, query)).await
    }

    /// Likewise, after a message.
    pub(crate) async fn after(service: &Service, key: &str, query: &str, id: &str) -> Self {
        let request = request(service, key, query).header("last-event-id", id);
        Self::send(service, key, request).await
    }

    async fn send(service: &Service, key: &str, request: RequestBuilder) -> Self {
        let (client_of_stream, request) = request.build_split();
        let request = request.expect("a request");
        let url = request.url().clone();
        let response = client_of_stream.execute(request).await.expect("an answer");
        assert_eq!(response.status(), 200);
        check_request(&Method::GET, &url, None, 200, "");
        let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(header("content-type"), "text/event-stream");
        assert_eq!(header("x-accel-buffering"), "no");
        assert!(header("cache-control").contains("no-transform"));
        assert!(!response.headers().contains_key("content-encoding"));
        let base = format!("https://localhost:{}{BASE_PATH}", service.port);
        let mut peer = Self {
            client: client(service),
            base,
            key: key.to_owned(),
            response,
            text: String::new(),
            comments: 0,
            retry: None,
            ack: Value::Null,
        };
        let first = peer.frame().await;
        assert_eq!(first.kind, "connection.ack");
        peer.ack = first.data;
        peer
    }

    /// Opens a stream, and reads where delivery starts.
    pub(crate) async fn connect(service: &Service, key: &str, query: &str) -> Self {
        let mut peer = Self::greet(service, key, query).await;
        peer.resumed().await;
        peer
    }

    pub(crate) async fn resumed(&mut self) -> Value {
        let resumed = self.frame().await;
        assert_eq!(resumed.kind, "connection.resumed", "{resumed:?}");
        resumed.data
    }

    /// The next block of lines; `None` at the end of the stream.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                return Some(block.trim_end_matches('\n').to_owned());
            }
            let chunk = timeout(TEST_TIMEOUT, self.response.chunk()).await.expect("in time");
            self.text.push_str(std::str::from_utf8(&chunk.ok()??).expect("text"));
        }
    }

    /// The next message; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            let block = self.block().await?;
            let (mut kind, mut id, mut data) = (None, None, Vec::new());
            for line in block.lines() {
                match line.split_once(": ").expect("a field") {
                    ("", _) => self.comments += 1,
                    ("retry", time) => self.retry = time.parse().ok(),
                    ("event", value) => kind = Some(value.to_owned()),
                    ("id", value) => id = Some(value.to_owned()),
                    ("data", value) => data.push(value.to_owned()),
                    other => panic!("{other:?}"),
                }
            }
            if let Some(kind) = kind {
                let data = serde_json::from_str(&data.join("\n")).expect("JSON");
                check_streamed(&kind, id.as_deref(), &data);
                return Some(Message { kind, id, data });
            }
        }
    }

    pub(crate) async fn frame(&mut self) -> Message {
        self.next().await.expect("the stream continues")
    }

    /// Waits for a comment.
    pub(crate) async fn comment(&mut self) {
        let before = self.comments;
        while self.comments == before {
            let block = self.block().await.expect("the stream continues");
            self.comments += usize::from(block.starts_with(':'));
        }
    }

    /// The next event, which must have this sequence.
    pub(crate) async fn event(&mut self, sequence: i64) -> Message {
        loop {
            let message = self.frame().await;
            if message.kind != "delivery.mark" {
                assert_eq!(
                    (message.kind.as_str(), &message.data["sequence"]),
                    ("message", &json!(sequence))
                );
                let epoch = message.data["epoch"].as_str().expect("an epoch");
                assert_eq!(message.id, Some(format!("{epoch}.{sequence}")));
                return message;
            }
        }
    }

    /// Reads to the end; returns the last `connection.error`.
    pub(crate) async fn ended(&mut self) -> Value {
        let mut error = Value::Null;
        while let Some(message) = self.next().await {
            if message.kind == "connection.error" {
                error = message.data;
            }
        }
        error
    }

    /// Posts to the connection, with a key.
    pub(crate) async fn post_as(&self, key: &str, body: impl Into<reqwest::Body>) -> Reply {
        let id = self.ack["connectionId"].as_str().expect("an id");
        let url = format!("{}/gateways/connections/{id}/frames", self.base);
        reply(self.client.post(url).header("api-key", key).body(body)).await
    }

    pub(crate) async fn post(&self, frames: &Value) -> Reply {
        self.post_as(&self.key, frames.to_string()).await
    }

    pub(crate) async fn applied(&self, sequence: i64) {
        let answer = self.post(&json!({"type": "delivery.ack", "applied": sequence})).await;
        assert_eq!(answer.status, 204, "{}", answer.body);
    }
}
