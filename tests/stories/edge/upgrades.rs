//! Upgrades as they stand on the wire: which are refused although the key is good.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{PATIENCE, Service};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";

fn upgrade(key: &str, headers: &str) -> String {
    format!(
        "GET /api/internal/v1/ws/gateways/connect HTTP/1.1\r\nHost: localhost\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\napi-key: {key}\r\n{headers}\r\n"
    )
}

#[tokio::test]
async fn upgrades_that_the_standard_forbids_are_refused() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let frame = "\u{1}\u{2}abc";
    for (headers, says) in [
        (format!("{VERSION}Sec-WebSocket-Key: abc\r\n"), "16 bytes"),
        (format!("{VERSION}Sec-WebSocket-Key:\r\n"), "16 bytes"),
        (format!("{VERSION}Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEBE=\r\n"), "16 bytes"),
        (format!("{VERSION}{KEY}{KEY}"), "more than one Sec-WebSocket-Key"),
        (format!("{VERSION}{VERSION}{KEY}"), "more than one Sec-WebSocket-Version"),
        (format!("{VERSION}{KEY}Sec-WebSocket-Version: 8\r\n"), "Sec-WebSocket-Version"),
        (format!("{VERSION}{KEY}Content-Length: 5\r\n\r\n{frame}"), "body"),
        (format!("{VERSION}{KEY}Transfer-Encoding: chunked\r\n\r\n0\r\n"), "body"),
    ] {
        let mut stream = service.tls(service.port).await;
        stream.write_all(upgrade(&key, &headers).as_bytes()).await.expect("it is open");
        let mut answer = Vec::new();
        // What was not read of the body may cut off the end of the connection.
        drop(
            tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends"),
        );
        let answer = String::from_utf8(answer).expect("text");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{headers}: {answer}");
        assert!(answer.contains("bad_request") && answer.contains(says), "{headers}: {answer}");
    }
    let path = format!("/gateways/{id}/connections");
    let connections = service.api().get(&path).await.expect("an answer");
    assert_eq!(connections["count"], 0, "none of them was a connection: {connections:#}");
    let path = format!("/gateways/{id}");
    let gateway = service.eventually(&path, |one| one["lastRefusal"].is_object()).await;
    assert_eq!(gateway["lastRefusal"]["code"], "bad_request");
    // What nothing forbids is admitted.
    for headers in [
        format!("{VERSION}{KEY}Content-Length: 0\r\n"),
        format!("{VERSION}{KEY}Sec-WebSocket-Extensions: permessage-deflate\r\n"),
        format!("sec-websocket-version:13\r\nsec-websocket-key:  8J+YgPCfmIDwn5iA8J+YgA==  \r\n"),
    ] {
        let mut stream = service.tls(service.port).await;
        stream.write_all(upgrade(&key, &headers).as_bytes()).await.expect("it is open");
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 101", "{headers}");
    }
}
