//! Timeouts of connections that are not gateways' sockets.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use crate::support::{Service, TEST_TIMEOUT};

pub(super) type Stream = TlsStream<TcpStream>;

const REQUEST: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Requests `/livez` and reads the whole response.
pub(super) async fn request_livez(stream: &mut Stream) {
    stream.write_all(REQUEST).await.expect("it is open");
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok\n") {
        answer.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
}

/// Waits until the service closes the connection; returns how long that took.
pub(super) async fn cut(stream: &mut Stream) -> Duration {
    let since = Instant::now();
    let mut rest = Vec::new();
    // A reset is as good as a close.
    drop(timeout(TEST_TIMEOUT, stream.read_to_end(&mut rest)).await.expect("it ends"));
    since.elapsed()
}

#[tokio::test]
async fn an_idle_connection_has_more_time_than_a_head() {
    const HEAD: Duration = Duration::from_millis(500);
    const IDLE: Duration = Duration::from_secs(3);
    let service =
        Service::start_with(&[("SERVER__HEADER_TIMEOUT", "500ms"), ("SERVER__IDLE_TIMEOUT", "3s")])
            .await;
    let mut kept = service.tls(service.port).await;
    request_livez(&mut kept).await;
    // The first request is due at once. Its end also shows that this much time has passed.
    let mut silent = service.tls(service.port).await;
    let took = cut(&mut silent).await;
    assert!(took < IDLE, "{took:?}");
    request_livez(&mut kept).await;
    // A head that has begun is due soon, even if bytes of it keep arriving.
    let since = Instant::now();
    kept.write_all(b"GET /livez HTTP/1.1\r\n").await.expect("it is open");
    let (mut reading, mut writing) = tokio::io::split(kept);
    let mut trickle = tokio::time::interval(HEAD / 10);
    let trickling = async {
        loop {
            trickle.tick().await;
            if writing.write_all(b"X: y\r\n").await.is_err() || writing.flush().await.is_err() {
                return;
            }
        }
    };
    let mut rest = Vec::new();
    let ended = timeout(TEST_TIMEOUT, async {
        tokio::select! {
            () = trickling => {}
            _ = reading.read_to_end(&mut rest) => {}
        }
    });
    ended.await.expect("it ends");
    let took = since.elapsed();
    assert!(took >= HEAD && took < IDLE, "{took:?}");
    // Without a byte, after the longer timeout.
    let mut idle = service.tls(service.port).await;
    let since = Instant::now();
    request_livez(&mut idle).await;
    cut(&mut idle).await;
    assert!(since.elapsed() >= IDLE, "{:?}", since.elapsed());
}
