//! Upgrades as they stand on the wire: which are refused although the key is good, and
//! that nothing follows a refused one on its connection.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::connections::{Stream, request_livez};
use crate::support::{Service, TEST_TIMEOUT};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const PROBE: &str = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn upgrade(key: &str, headers: &str) -> String {
    format!(
        "GET /api/internal/v1/ws/gateways/connect HTTP/1.1\r\nHost: localhost\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\napi-key: {key}\r\n{headers}\r\n"
    )
}

/// Sends it, and a request behind it; returns all that comes until the service closes.
async fn last_answer(mut stream: Stream, request: &str) -> Answer {
    stream.write_all(format!("{request}{PROBE}").as_bytes()).await.expect("it is open");
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    // A connection that was to be upgraded ends without the closing alert of TLS.
    drop(tokio::time::timeout(TEST_TIMEOUT, reading).await.expect("it is closed in time"));
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let problem = serde_json::from_str(body).unwrap_or_else(|_| panic!("not one body: {answer}"));
    Answer { head: head.to_ascii_lowercase(), problem }
}

/// A refusal: its head in lower case, and its problem document.
struct Answer {
    head: String,
    problem: Value,
}

impl Answer {
    #[track_caller]
    fn is(&self, status: u16, code: &str) {
        let Self { head, problem } = self;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{code}: {head}");
        assert_eq!(problem["code"], code, "{problem:#}");
        assert!(head.contains("\r\ncontent-type: application/problem+json"), "{head}");
        assert!(head.contains("\r\nconnection: close"), "{code}: {head}");
    }
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
            tokio::time::timeout(TEST_TIMEOUT, stream.read_to_end(&mut answer))
                .await
                .expect("it ends"),
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
    // Unusual but valid headers are accepted.
    for headers in [
        format!("{VERSION}{KEY}Content-Length: 0\r\n"),
        format!("{VERSION}{KEY}Sec-WebSocket-Extensions: permessage-deflate\r\n"),
        "sec-websocket-version:13\r\nsec-websocket-key:  8J+YgPCfmIDwn5iA8J+YgA==  \r\n".to_owned(),
    ] {
        let mut stream = service.tls(service.port).await;
        stream.write_all(upgrade(&key, &headers).as_bytes()).await.expect("it is open");
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 101", "{headers}");
    }
}

#[tokio::test]
async fn nothing_follows_a_refused_upgrade_on_its_connection() {
    let settings = [("DELIVERY__MAX_CONNECTIONS", "1"), ("LIMITS__ATTEMPTS_PER_MINUTE", "3")];
    let service = Service::start_with(&settings).await;
    let kept = async || {
        let mut stream = service.tls(service.port).await;
        request_livez(&mut stream).await;
        stream
    };
    let (disabled, of_disabled) = service.gateway("disabled").await;
    let change = json!({"disabled": true});
    service.api().patch(&format!("/gateways/{disabled}"), &change).await.expect("disabled");
    let (_, key) = service.gateway("one").await;
    let (_, only) = service.gateway("only").await;
    let good = upgrade(&key, &format!("{VERSION}{KEY}"));
    let held = service.connected(&only).await;
    for (request, status, code) in [
        (good, 503, "connection_limit"),
        (
            upgrade(&key, &format!("{VERSION}{KEY}Origin: https://page.example\r\n")),
            400,
            "origin_refused",
        ),
        (upgrade(&key, &format!("{VERSION}Sec-WebSocket-Key: abc\r\n")), 400, "bad_request"),
        (upgrade(&of_disabled, &format!("{VERSION}{KEY}")), 403, "gateway_disabled"),
        (upgrade(&key, &format!("{KEY}Sec-WebSocket-Version: 12\r\n")), 426, "upgrade_required"),
    ] {
        let answer = last_answer(kept().await, &request).await;
        answer.is(status, code);
        let names_version = answer.head.contains("\r\nsec-websocket-version: 13");
        assert_eq!(names_version, status == 426, "{}", answer.head);
    }
    drop(held);
    let bad = upgrade("gwk_nonsense", &format!("{VERSION}{KEY}"));
    for _ in 0..3 {
        last_answer(kept().await, &bad).await.is(401, "unauthorized");
    }
    last_answer(kept().await, &bad).await.is(429, "too_many_attempts");
}
