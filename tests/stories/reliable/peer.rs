//! A gateway that acknowledges events, frame by frame as the test says. It answers pings.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::streams::{check, check_refused, check_sent};
use crate::support::{Service, TEST_TIMEOUT};

pub(crate) const PROTOCOL: &str = "gateway-events.v1";

/// What the service sent.
#[derive(Debug)]
pub(crate) enum Incoming {
    Frame(Value),
    /// The connection was closed with this code; zero if it ended without one.
    Closed(u16),
}

pub(crate) struct Peer {
    stream: WebSocketStream<TlsStream<TcpStream>>,
    /// The first frame.
    pub(crate) ack: Value,
    /// What the test has sent.
    sent: Vec<String>,
}

/// A hello with these members, which replace the defaults.
pub(crate) fn hello(members: &Value) -> Value {
    let mut hello = json!({"type": "connection.hello", "resume": "server", "confirm": "applied"});
    let object = hello.as_object_mut().expect("an object");
    object.extend(members.as_object().expect("an object").clone());
    hello
}

impl Peer {
    /// Connects and reads the acknowledgement, but says no hello.
    pub(crate) async fn greet(service: &Service, key: &str) -> Self {
        Self::greet_through(service, service.port, key).await
    }

    /// Likewise, through another port.
    pub(crate) async fn greet_through(service: &Service, port: u16, key: &str) -> Self {
        let url = format!("wss://localhost:{port}/api/internal/v1/ws/gateways/connect");
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("api-key", key.parse().expect("a header"));
        let protocol = PROTOCOL.parse().expect("a header");
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        let tls = service.tls(port).await;
        let (stream, answer) =
            tokio_tungstenite::client_async(request, tls).await.expect("admitted");
        let chosen = answer.headers().get("sec-websocket-protocol");
        assert_eq!(chosen.map(reqwest::header::HeaderValue::as_bytes), Some(PROTOCOL.as_bytes()));
        let mut peer = Self { stream, ack: Value::Null, sent: Vec::new() };
        peer.ack = peer.frame().await;
        assert_eq!(peer.ack["type"], "connection.ack");
        peer
    }

    /// Connects, says hello with these members besides the required ones, and reads where delivery
    /// starts.
    pub(crate) async fn connect(service: &Service, key: &str, members: Value) -> Self {
        let mut peer = Self::greet(service, key).await;
        peer.hello(members).await;
        let resumed = peer.frame().await;
        assert_eq!(resumed["type"], "connection.resumed", "{resumed}");
        peer
    }

    /// Says hello with these members, which replace the defaults.
    pub(crate) async fn hello(&mut self, members: Value) {
        self.send(&hello(&members)).await;
    }

    /// Likewise, with members that need not be valid.
    pub(crate) async fn invalid_hello(&mut self, members: Value) {
        self.text(&hello(&members).to_string()).await;
    }

    /// Sends a frame, which must be valid.
    pub(crate) async fn send(&mut self, frame: &Value) {
        check_sent("reliable", frame);
        self.text(&frame.to_string()).await;
    }

    /// Sends a text, which need not be a frame.
    pub(crate) async fn text(&mut self, text: &str) {
        self.sent.push(text.to_owned());
        self.message(Message::text(text)).await;
    }

    pub(crate) async fn message(&mut self, message: Message) {
        if let Message::Binary(_) = &message {
            self.sent.push("no text".to_owned());
        }
        self.stream.send(message).await.expect("it is open");
    }

    pub(crate) async fn applied(&mut self, sequence: i64) {
        self.send(&json!({"type": "delivery.ack", "applied": sequence})).await;
    }

    /// The next frame or the end.
    pub(crate) async fn next(&mut self) -> Incoming {
        loop {
            let next = tokio::time::timeout(TEST_TIMEOUT, self.stream.next()).await;
            match next.expect("a frame in time") {
                Some(Ok(Message::Text(text))) => {
                    let frame = serde_json::from_str(text.as_str()).expect("JSON");
                    check("reliable", &frame);
                    if frame["type"] == "connection.error" {
                        check_refused(&self.sent, frame["code"].as_str().expect("a code"));
                    }
                    return Incoming::Frame(frame);
                }
                Some(Ok(Message::Ping(_))) => drop(self.stream.flush().await),
                Some(Ok(Message::Close(frame))) => {
                    // Answers it.
                    drop(self.stream.flush().await);
                    return Incoming::Closed(frame.map_or(0, |frame| frame.code.into()));
                }
                Some(Err(_)) | None => return Incoming::Closed(0),
                Some(Ok(_)) => {}
            }
        }
    }

    /// The next frame.
    pub(crate) async fn frame(&mut self) -> Value {
        match self.next().await {
            Incoming::Frame(frame) => frame,
            closed @ Incoming::Closed(_) => panic!("{closed:?}"),
        }
    }

    /// The next frame of this type. Others before it must be marks.
    pub(crate) async fn frame_of(&mut self, frame_type: &str) -> Value {
        loop {
            let frame = self.frame().await;
            if frame["type"] == frame_type {
                return frame;
            }
            assert_eq!(frame["type"], "delivery.mark", "{frame}");
        }
    }

    /// The next event, which must have this sequence. Marks before it are ignored.
    pub(crate) async fn event(&mut self, sequence: i64) -> Value {
        loop {
            let frame = self.frame().await;
            if frame["type"] != "delivery.mark" {
                assert_eq!(frame["sequence"], sequence, "{frame}");
                return frame;
            }
        }
    }

    /// Reads to the close; returns its code and the `connection.error` before it.
    pub(crate) async fn closed(&mut self) -> (u16, Value) {
        let mut error = Value::Null;
        loop {
            match self.next().await {
                Incoming::Frame(frame) if frame["type"] == "connection.error" => error = frame,
                Incoming::Frame(_) => {}
                Incoming::Closed(code) => return (code, error),
            }
        }
    }

    /// The service must have received everything that was sent so far: it answers a ping, which
    /// arrives after that. Marks before the answer are ignored.
    pub(crate) async fn settled(&mut self) {
        self.message(Message::Ping("settled".into())).await;
        loop {
            let next = tokio::time::timeout(TEST_TIMEOUT, self.stream.next()).await;
            match next.expect("a pong in time") {
                Some(Ok(Message::Pong(payload))) if payload == "settled".as_bytes() => return,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(text))) if text.contains("\"delivery.mark\"") => {}
                other => panic!("sent meanwhile: {other:?}"),
            }
        }
    }

    /// Nothing but marks may arrive before the service answers a ping.
    pub(crate) async fn receives_nothing(&mut self) {
        // The lane sends after it has received; the second round trip is after that.
        for _ in 0..2 {
            self.settled().await;
        }
    }
}
