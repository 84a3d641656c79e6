//! Connections that are no sockets: how many there may be, and how long each
//! may take.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{PATIENCE, Service};

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
