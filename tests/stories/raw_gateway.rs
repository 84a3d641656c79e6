//! A gateway that sends exactly what the test says, frame by frame (RFC 6455), and answers nothing
//! by itself.

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::{Service, TEST_TIMEOUT};

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// A frame that the service sent.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).expect("JSON")
    }

    /// The code of a close frame.
    pub(crate) fn code(&self) -> u16 {
        assert_eq!(self.opcode, CLOSE);
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }
}

pub(crate) struct RawGateway {
    stream: TlsStream<TcpStream>,
    pub(crate) connection_id: String,
}

impl RawGateway {
    /// Connects to the service through a port, which may be a fault proxy's, and reads the
    /// acknowledgement.
    pub(crate) async fn connect(service: &Service, port: u16, key: &str) -> Self {
        Self::try_connect(service, port, key).await.expect("admitted")
    }

    /// Likewise. The error is the HTTP status of a refusal.
    pub(crate) async fn try_connect(service: &Service, port: u16, key: &str) -> Result<Self, u16> {
        let mut stream = service.tls(port).await;
        let request = format!(
            "GET /api/internal/v1/ws/gateways/connect HTTP/1.1\r\nHost: localhost:{port}\r\n\
             Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\napi-key: {key}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("it is open");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
        let head = String::from_utf8_lossy(&head);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        match status.unwrap_or_else(|| panic!("no status: {head}")) {
            101 => {}
            status => return Err(status),
        }
        let mut raw = Self { stream, connection_id: String::new() };
        let ack = raw.next().await.expect("a first frame").json();
        assert_eq!(ack["type"], "connection.ack");
        ack["connectionId"].as_str().expect("an id").clone_into(&mut raw.connection_id);
        Ok(raw)
    }

    /// The next frame; `None` if the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(TEST_TIMEOUT, self.read()).await.expect("a frame in time")
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).await.ok()?;
        let length = match head[1] {
            126 => usize::from(self.stream.read_u16().await.ok()?),
            127 => usize::try_from(self.stream.read_u64().await.ok()?).expect("a length"),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(Frame { opcode: head[0] & 0x0f, payload })
    }

    /// The next frame with this opcode.
    pub(crate) async fn next_of(&mut self, opcode: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.opcode == opcode {
                return Some(frame);
            }
        }
    }

    /// The next event. Pings before it are not answered.
    pub(crate) async fn event(&mut self) -> Value {
        self.next_of(TEXT).await.expect("an event").json()
    }

    /// The ping after an event, which contains its sequence. Not answered.
    pub(crate) async fn receipt_asked(&mut self, sequence: i64) {
        let wanted = sequence.to_string();
        while self.next_of(PING).await.expect("a ping").payload != wanted.as_bytes() {}
    }

    pub(crate) async fn pong(&mut self, payload: &str) {
        self.send(true, PONG, payload.as_bytes()).await;
    }

    pub(crate) async fn text(&mut self, text: &str) {
        self.send(true, TEXT, text.as_bytes()).await;
    }

    /// Sends a frame, masked with zeros, which leaves the payload unchanged.
    pub(crate) async fn send(&mut self, is_final: bool, opcode: u8, payload: &[u8]) {
        const MASKED: u8 = 0x80;
        let mut frame = vec![opcode | (u8::from(is_final) << 7)];
        match payload.len() {
            length @ ..126 => frame.push(MASKED + u8::try_from(length).expect("below 126")),
            length => {
                let length = u16::try_from(length).expect("no test sends more");
                frame.push(MASKED + 126);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.write(&frame).await;
    }

    /// Sends bytes that need not be a frame.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("it is open");
        self.stream.flush().await.expect("it is open");
    }

    /// Answers pings until the connection ends or `enough` returns true.
    pub(crate) async fn handle_until(&mut self, mut enough: impl FnMut(&Frame) -> bool) {
        while let Some(frame) = self.next().await {
            if frame.opcode == PING {
                self.send(true, PONG, &frame.payload).await;
            }
            if enough(&frame) {
                return;
            }
        }
    }
}
