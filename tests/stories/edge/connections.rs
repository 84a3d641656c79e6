//! Connections that are no sockets: how many there may be, and how long each
//! may take.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use crate::support::{PATIENCE, Service};

type Stream = TlsStream<TcpStream>;

const REQUEST: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Asks whether the service lives, and takes the whole answer.
async fn ask(stream: &mut Stream) {
    stream.write_all(REQUEST).await.expect("it is open");
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok\n") {
        answer.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
}

/// Waits until the service ends the connection; returns how long that took.
async fn cut(stream: &mut Stream) -> Duration {
    let since = Instant::now();
    let mut rest = Vec::new();
    // Cut off is as good as closed.
    drop(timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it ends"));
    since.elapsed()
}

#[tokio::test]
async fn too_many_connections_are_closed_at_once_and_sockets_are_none_of_them() {
    let settings = [("SERVER__MAX_HTTP_CONNECTIONS", "2"), ("SERVER__HANDSHAKE_TIMEOUT", "10m")];
    let service = Service::start_with(&settings).await;
    let (_, key) = service.gateway("one").await;
    // More sockets than there are places.
    let sockets = [
        service.connected(&key).await,
        service.connected(&key).await,
        service.connected(&key).await,
    ];
    let mut held = Vec::new();
    let filling = timeout(PATIENCE, async {
        loop {
            let tcp = TcpStream::connect(("127.0.0.1", service.port)).await;
            let mut tcp = tcp.expect("it listens");
            // Whoever is let in has to speak first; whoever is not is told by the end.
            match timeout(Duration::from_millis(500), tcp.read_u8()).await {
                Err(_) => held.push(tcp),
                Ok(Err(_)) => return,
                Ok(Ok(byte)) => panic!("it speaks before us: {byte}"),
            }
        }
    });
    filling.await.expect("the places come to an end");
    assert!(held.len() <= 2, "{} places", held.len());
    assert!(service.log().contains("server.max_http_connections"), "{}", service.log());
    drop(held);
    let mut tries = tokio::time::interval(Duration::from_millis(20));
    let stats = timeout(PATIENCE, async {
        loop {
            tries.tick().await;
            if let Ok(stats) = service.api().get("/stats").await {
                return stats;
            }
        }
    });
    let stats = stats.await.expect("places that are given up are free");
    assert_eq!(stats["gatewayConnections"]["totalActive"], 3);
    drop(sockets);
}

#[tokio::test]
async fn a_kept_connection_may_be_silent_for_longer_than_a_head_may_take() {
    const HEAD: Duration = Duration::from_millis(500);
    const IDLE: Duration = Duration::from_secs(3);
    let service =
        Service::start_with(&[("SERVER__HEADER_TIMEOUT", "500ms"), ("SERVER__IDLE_TIMEOUT", "3s")])
            .await;
    let mut kept = service.tls(service.port).await;
    ask(&mut kept).await;
    // The first request is due at once. Its end also tells that so much time has passed.
    let mut silent = service.tls(service.port).await;
    let took = cut(&mut silent).await;
    assert!(took < IDLE, "{took:?}");
    ask(&mut kept).await;
    // A head that has begun is due soon, even if bytes of it keep coming.
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
    let ended = timeout(PATIENCE, async {
        tokio::select! {
            () = trickling => {}
            _ = reading.read_to_end(&mut rest) => {}
        }
    });
    ended.await.expect("it ends");
    let took = since.elapsed();
    assert!(took >= HEAD && took < IDLE, "{took:?}");
    // And without anything, at the longer time.
    let mut idle = service.tls(service.port).await;
    let since = Instant::now();
    ask(&mut idle).await;
    cut(&mut idle).await;
    assert!(since.elapsed() >= IDLE, "{:?}", since.elapsed());
}
