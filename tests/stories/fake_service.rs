//! A fake service that misbehaves as the real one can't: TLS and the upgrade are real, and the test
//! sends the rest.

use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use gateway_events::client::Url;
use gateway_events::client::tls::Trust;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::TEST_TIMEOUT;

pub(crate) struct FakeService {
    listener: TcpListener,
    tls: TlsAcceptor,
    /// Contains its certificate.
    directory: TempDir,
}

impl FakeService {
    pub(crate) async fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
        let made = made.expect("a certificate");
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("certificate.pem"), made.cert.pem()).expect("written");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a TLS server");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        Self { listener, tls: TlsAcceptor::from(Arc::new(config)), directory }
    }

    pub(crate) fn url(&self) -> Url {
        let port = self.listener.local_addr().expect("an address").port();
        Url::parse(&format!("https://localhost:{port}")).expect("an address")
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::CaFile(self.directory.path().join("certificate.pem"))
    }

    /// Begins TLS with each peer that connects, and expects that it fails.
    pub(crate) async fn accept_handshakes(&self) {
        loop {
            if let Ok((stream, _)) = self.listener.accept().await {
                drop(self.tls.accept(stream).await);
            }
        }
    }

    /// The next connection, before any request was read.
    async fn accept(&self) -> TlsStream<TcpStream> {
        let accepted = tokio::time::timeout(TEST_TIMEOUT, self.listener.accept()).await;
        let (tcp, _) = accepted.expect("a connection in time").expect("a connection");
        self.tls.accept(tcp).await.expect("TLS")
    }

    /// Answers the next request with this status.
    pub(crate) async fn refuse(&self, status: u16) {
        let mut stream = self.accept().await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a request"));
        }
        let answer =
            format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.expect("it listens");
        stream.shutdown().await.expect("it listens");
    }

    /// Reads the next request, and answers it with this JSON or, without one, only closes the
    /// connection. Returns the request's head.
    pub(crate) async fn answer(&self, json: Option<&str>) -> String {
        let mut stream = self.accept().await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a request"));
        }
        let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a number"))];
        stream.read_exact(&mut body).await.expect("a body");
        if let Some(json) = json {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{json}",
                json.len()
            );
            stream.write_all(answer.as_bytes()).await.expect("it listens");
        }
        stream.shutdown().await.expect("it listens");
        head
    }

    /// The next socket, without an acknowledgement.
    pub(crate) async fn upgrade(&self) -> Peer {
        let stream = self.accept().await;
        Peer { stream: tokio_tungstenite::accept_async(stream).await.expect("an upgrade") }
    }

    /// The next socket, acknowledged.
    pub(crate) async fn welcome(&self) -> Peer {
        let mut peer = self.upgrade().await;
        let ack = json!({"type": "connection.ack", "gatewayId": "g", "connectionId": "c",
                         "timestamp": "2026-01-01T00:00:00Z"});
        peer.send(Message::text(ack.to_string())).await;
        peer
    }
}

/// A gateway's socket, on the side of the service.
pub(crate) struct Peer {
    stream: WebSocketStream<TlsStream<TcpStream>>,
}

impl Peer {
    pub(crate) async fn send(&mut self, message: Message) {
        self.stream.send(message).await.expect("it is open");
    }

    /// Sends an event; the gateway must be connected.
    pub(crate) async fn event(&mut self, sequence: i64) {
        assert!(self.still_sends(sequence).await, "the gateway has gone");
    }

    /// Sends an event; returns whether the gateway is still connected.
    pub(crate) async fn still_sends(&mut self, sequence: i64) -> bool {
        let event = json!({"type": "api.deployed", "sequence": sequence,
            "payload": {"apiId": "a-1", "deploymentId": "d-1", "performedAt": "2026-01-01T00:00:00Z"},
            "timestamp": "2026-01-01T00:00:00Z", "correlationId": "c-1"});
        self.stream.send(Message::text(event.to_string())).await.is_ok()
    }

    /// The gateway's next message; `None` when it has disconnected.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        let next = tokio::time::timeout(TEST_TIMEOUT, self.stream.next()).await;
        next.expect("a frame in time")?.ok()
    }

    /// Waits until the gateway has disconnected.
    pub(crate) async fn until_gone(mut self) {
        while self.next().await.is_some() {}
    }

    pub(crate) async fn close(mut self, code: u16) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
        self.send(Message::Close(Some(frame))).await;
        self.until_gone().await;
    }
}
