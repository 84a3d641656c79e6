//! A backlog is sent in few writes, because each write costs a TLS record and a system call.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

use crate::support::{Service, TEST_TIMEOUT, deployed};

const EVENTS: usize = 60;

/// Counts incoming TLS records.
struct Counting {
    tcp: TcpStream,
    records: Arc<AtomicUsize>,
    header: Vec<u8>,
    rest_of_record: usize,
}

impl Counting {
    fn count(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.rest_of_record > 0 {
                let part = self.rest_of_record.min(bytes.len());
                self.rest_of_record -= part;
                bytes = &bytes[part..];
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            // A record header: type, version and length.
            if let [_, _, _, high, low] = self.header[..] {
                self.rest_of_record = usize::from(u16::from_be_bytes([high, low]));
                self.header.clear();
                self.records.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.tcp).poll_read(context, buffer);
        self.count(&buffer.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(context)
    }
}

#[tokio::test]
async fn a_burst_is_sent_in_few_writes() {
    let service = Service::start().await;
    let (id, key) = service.gateway("away").await;
    let batch: Vec<Value> =
        (0..EVENTS).map(|number| deployed(&[&id], &format!("d-{number}"))).collect();
    service.api().post("/events", &batch).await.expect("accepted");
    let records = Arc::new(AtomicUsize::new(0));
    let tcp = TcpStream::connect(("127.0.0.1", service.port)).await.expect("it listens");
    let counted = Arc::clone(&records);
    let tcp = Counting { tcp, records: counted, header: Vec::new(), rest_of_record: 0 };
    let config = service.trust().client_config().expect("a TLS client");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.expect("TLS");
    let url = format!("wss://localhost:{}/api/internal/v1/ws/gateways/connect", service.port);
    let mut request = url.into_client_request().expect("a request");
    request.headers_mut().insert("api-key", key.parse().expect("a header"));
    let (mut socket, _) = tokio_tungstenite::client_async(request, tls).await.expect("admitted");
    let before = records.load(Ordering::Relaxed);
    let mut texts = 0;
    let receiving = async {
        // Including the acknowledgement.
        while texts < EVENTS + 1 {
            match socket.next().await.expect("a frame").expect("a frame") {
                Message::Text(_) => texts += 1,
                Message::Ping(_) => socket.flush().await.expect("it is open"),
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, receiving).await.expect("in time");
    let records = records.load(Ordering::Relaxed) - before;
    // An event and its ping are two frames.
    assert!(records < EVENTS / 2, "{records} records for {EVENTS} events");
}
