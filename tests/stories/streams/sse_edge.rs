//! Server-sent events: bad input, and peers that misuse the stream.

use reqwest::header::{HeaderName, HeaderValue};
use serde_json::json;

use super::sse_peer::{Peer, request};
use super::{closed, ended};
use crate::both_databases::{Backend, on_both};
use crate::reliable::publish;
use crate::support::Service;
use crate::support::http::reply;

on_both! {
    bad_parameters_are_refused_and_name_what_is_wrong
    a_connection_takes_frames_of_its_gateway_only
}

async fn bad_parameters_are_refused_and_name_what_is_wrong(backend: Backend) {
    let service = backend.start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await;
    let (_, key) = service.gateway("one").await;
    let many = vec!["a.b"; 65].join(",");
    for (query, field) in [
        ("?resume=first", "resume"),
        ("?confirm=seen", "confirm"),
        ("?window=many", "window"),
        ("?window=-1", "window"),
        ("?window=4294967296", "window"),
        ("?instance=", "instance"),
        ("?instance=a%0Ab", "instance"),
        (&format!("?instance={}", "a".repeat(65)), "instance"),
        (&format!("?types={many}"), "types"),
        ("?types=a,,b", "types"),
        ("?instance=a&instance=b", "instance"),
        ("?instances=a", "instances"),
    ] {
        let refused = reply(request(&service, &key, query)).await;
        refused.invalid(field, &[]);
        // Without a valid key, nothing else is said.
        reply(request(&service, "gwk_nonsense", query)).await.refusal(401, "unauthorized");
    }
    let epoch = "01890a5d-ac96-774b-bcce-b302099a8057";
    for id in [
        "",
        "x",
        "1",
        epoch,
        &format!("{epoch}."),
        &format!("{epoch}.-1"),
        &format!("{epoch}.+1"),
        &format!("{epoch}.9007199254740992"),
        &format!("{epoch}.9223372036854775808"),
        &format!("{epoch}.1.2"),
        "not-a-uuid.1",
    ] {
        let bad = request(&service, &key, "").header("last-event-id", id);
        reply(bad).await.refusal(400, "bad_request");
    }
    let bytes = HeaderValue::from_bytes(b"\xff").expect("a header");
    reply(request(&service, &key, "").header("last-event-id", bytes))
        .await
        .refusal(400, "bad_request");
    let from_a_page = request(&service, &key, "").header("origin", "https://example.com");
    reply(from_a_page).await.refusal(400, "origin_refused");
    // Nothing of this has opened a connection.
    let shown = service.api().get("/connections").await.expect("connections");
    assert_eq!(shown["count"], 0);
    // The position of another log is answered with a gap.
    let mut peer = Peer::after(&service, &key, "", &format!("{epoch}.7")).await;
    let gap = peer.frame().await;
    assert_eq!((gap.kind.as_str(), &gap.data["reason"]), ("delivery.gap", &json!("epoch")));
}

async fn a_connection_takes_frames_of_its_gateway_only(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let (_, other) = service.gateway("two").await;
    publish(&service, &id, 1, 1).await;
    let mut peer = Peer::connect(&service, &key, "?confirm=applied").await;
    peer.event(1).await;
    let ack = json!({"type": "delivery.ack", "applied": 1}).to_string();
    peer.post_as(&other, ack.clone()).await.refusal(409, "connection_gone");
    peer.post_as("gwk_nonsense", ack.clone()).await.refusal(401, "unauthorized");
    let shown = service.api().get(&format!("/gateways/{id}")).await.expect("shown");
    assert_eq!(shown["confirmed"], 0);
    // A parameter that it does not have is a mistake, and costs no stream.
    let connection = peer.ack["connectionId"].as_str().expect("an id");
    for path in [
        format!("/gateways/connections/{connection}/frames?instance=a"),
        "/gateways/events/instances/a/frames?ack=1".to_owned(),
    ] {
        let request = service.caller(None).request(reqwest::Method::POST, &path);
        let field = if path.contains("ack=") { "ack" } else { "instance" };
        reply(request.header("api-key", &key).body(ack.clone())).await.invalid(field, &[]);
    }
    peer.post_as(&key, ack).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 1).await;
    for unknown in ["x", "01890a5d-ac96-774b-bcce-b302099a8057"] {
        peer.ack["connectionId"] = json!(unknown);
        peer.post(&json!([])).await.refusal(409, "connection_gone");
    }
}

#[tokio::test]
async fn a_compressed_body_is_refused_and_costs_no_stream() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 1).await;
    let mut peer = Peer::connect(&service, &key, "?confirm=applied").await;
    peer.event(1).await;
    let connection = peer.ack["connectionId"].as_str().expect("an id");
    let path = format!("/gateways/connections/{connection}/frames");
    let request = service.caller(None).request(reqwest::Method::POST, &path);
    let encoding = HeaderName::from_static("content-encoding");
    let compressed = request.header("api-key", &key).header(encoding, "gzip").body("x");
    reply(compressed).await.refusal(415, "unsupported_content_encoding");
    peer.applied(1).await;
}

#[tokio::test]
async fn streams_do_not_count_as_http_connections() {
    let service = Service::start_with(&[("SERVER__MAX_HTTP_CONNECTIONS", "4")]).await;
    let (id, key) = service.gateway("one").await;
    let mut peers = Vec::new();
    for _ in 0..10 {
        peers.push(Peer::connect(&service, &key, "").await);
    }
    publish(&service, &id, 1, 1).await;
    for peer in &mut peers {
        peer.event(1).await;
    }
    let stats = service.api().get("/stats").await.expect("served");
    assert_eq!(stats["gatewayConnections"]["totalActive"], 10);
}

#[tokio::test]
async fn a_stream_that_is_not_read_ends_and_harms_no_other() {
    let service = Service::start_with(&[
        ("DELIVERY__WRITE_TIMEOUT", "1s"),
        ("DELIVERY__HEARTBEAT_INTERVAL", "500ms"),
        ("DELIVERY__HEARTBEAT_TIMEOUT", "3s"),
        ("RELIABLE__HEARTBEAT_INTERVAL", "500ms"),
    ])
    .await;
    let (id, key) = service.gateway("one").await;
    let stuck = Peer::connect(&service, &key, "?instance=stuck").await;
    let mut other = Peer::connect(&service, &key, "?instance=other&confirm=applied").await;
    let large = "x".repeat(900_000);
    for number in 1..=8 {
        let event = json!({"type": "gateway.config.updated", "gatewayIds": [id],
            "payload": {"configType": large, "action": "update"}});
        service.api().post("/events", &event).await.expect("accepted");
        other.event(number).await;
        other.applied(number).await;
    }
    let past = format!("/gateways/{id}/connections?status=all");
    let shown = service.eventually(&past, ended).await;
    let reason = closed(&shown).and_then(|it| it["closeReason"].as_str());
    assert!(matches!(reason, Some("write_timeout" | "connection_lost")), "{shown}");
    drop(stuck);
}
