//! Headers and queries in the forms that clients and proxies send.

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::log::lines;
use crate::support::http::reply;
use crate::support::{Service, deployed};

#[tokio::test]
async fn an_upgrade_is_recognised_in_several_lines_and_lists() {
    let service = Service::start().await;
    let (_, key) = service.gateway("one").await;
    for headers in [
        "Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: keep-alive, upgrade\r\nUpgrade: h2c\r\nUpgrade: WebSocket\r\n",
    ] {
        let mut tls = service.tls(service.port).await;
        let request = format!(
            "GET /api/internal/v1/ws/gateways/connect HTTP/1.1\r\nHost: localhost\r\n{headers}\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             api-key: {key}\r\n\r\n"
        );
        tls.write_all(request.as_bytes()).await.expect("open");
        let mut status = [0; 12];
        tls.read_exact(&mut status).await.expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 101", "{headers}");
    }
}

#[tokio::test]
async fn a_request_with_two_idempotency_keys_is_refused() {
    let service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    let request = service.admin().request(Method::POST, "/events").json(&deployed(&[&id], "d"));
    let request = request.header("idempotency-key", "a").header("idempotency-key", "b");
    reply(request).await.refusal(400, "bad_request");
    let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("an answer");
    assert_eq!(gateway["head"], 0, "nothing was appended");
}

#[tokio::test]
async fn a_request_with_two_credentials_is_refused() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let caller = service.caller(None);
    let (good, bad) = (format!("Bearer {}", service.token), "Bearer gwa_wrong".to_owned());
    for (first, second) in [(&good, &good), (&good, &bad), (&bad, &good)] {
        let request = caller.request(Method::POST, "/events").json(&deployed(&[&id], "d"));
        let request = request.header("authorization", first).header("authorization", second);
        let refused = reply(request).await;
        refused.refusal(401, "unauthorized");
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
    }
    let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("an answer");
    assert_eq!(gateway["head"], 0, "nothing was appended");
    let manifest = || caller.request(Method::POST, &format!("/gateways/{id}/manifest"));
    let request = manifest().json(&json!({})).header("api-key", &key).header("api-key", &key);
    reply(request).await.refusal(401, "unauthorized");
}

#[tokio::test]
async fn a_compressed_body_is_refused_as_one() {
    let service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    let event = deployed(&[&id], "d").to_string();
    for (encoding, status) in
        [("gzip", 415), ("identity, br", 415), ("identity", 202), ("Identity", 202)]
    {
        let request = service.admin().request(Method::POST, "/events").body(event.clone());
        let answer = reply(request.header("content-encoding", encoding)).await;
        assert_eq!(answer.status, status, "{encoding}: {answer:?}");
        if status == 415 {
            answer.refusal(415, "unsupported_content_encoding");
        }
    }
}

#[tokio::test]
async fn an_offset_in_a_query_may_come_with_a_plus() {
    let service = Service::start().await;
    for path in ["/deliveries", "/deliveries/summary", "/inbox/rejected"] {
        for offset in ["+01:00", "%2B01:00", "-01:00", "Z"] {
            let query =
                format!("{path}?from=2026-01-01T00:00:00{offset}&to=2026-01-02T00:00:00{offset}");
            service.admin().get(&query).await.success();
        }
    }
    let summary = "/deliveries/summary?from=2026-01-01T00:00:00+01:00&to=2026-01-02T00:00:00Z";
    assert_eq!(
        service.admin().get(summary).await.success()["from"],
        json!("2025-12-31T23:00:00.000000Z")
    );
}

#[tokio::test]
async fn a_forwarded_address_is_recorded_without_its_port() {
    let service = Service::start_with(&[("SERVER__TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    for (value, address) in [
        ("198.51.100.7:5555", "198.51.100.7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("198.51.100.8,", "198.51.100.8"),
    ] {
        let request = service.caller(Some("gwa_wrong")).request(Method::GET, "/gateways");
        reply(request.header("x-forwarded-for", value)).await.refusal(401, "unauthorized");
        lines(&service, 1, |line| line["address"] == address).await;
    }
}
