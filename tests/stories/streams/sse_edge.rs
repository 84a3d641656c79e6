//! Server-sent events: bad input, and peers that misuse the stream.

use reqwest::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::sse_peer::{Peer, request};
use super::{closed, ended};
use crate::reliable::publish;
use crate::support::Service;
use crate::support::http::reply;

#[tokio::test]
async fn bad_parameters_are_refused_and_name_what_is_wrong() {
    let service = Service::start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await;
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

#[tokio::test]
async fn a_connection_takes_frames_of_its_gateway_only() {
    let service = Service::start().await;
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
    peer.post_as(&key, ack).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 1).await;
    for unknown in ["x", "01890a5d-ac96-774b-bcce-b302099a8057"] {
        peer.ack["connectionId"] = json!(unknown);
        peer.post(&json!([])).await.refusal(409, "connection_gone");
    }
}

#[tokio::test]
async fn a_bad_frame_is_refused_and_ends_its_stream_only() {
    let service = Service::start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await;
    let (id, key) = service.gateway("one").await;
    // Without events, because each failed attempt delays the next one.
    let (bad_id, bad_key) = service.gateway("two").await;
    let mut other = Peer::connect(&service, &key, "?confirm=applied&instance=other").await;
    publish(&service, &id, 1, 1).await;
    other.event(1).await;
    let ack = |member: &str, value: Value| json!({"type": "delivery.ack", member: value});
    let hello = json!({"type": "connection.hello", "resume": "server", "confirm": "applied"});
    let many = Value::from(vec![ack("applied", json!(0)); 257]);
    for (body, status, code) in [
        (String::new(), 400, "malformed_frame"),
        ("nonsense".to_owned(), 400, "malformed_frame"),
        ("[{]".to_owned(), 400, "malformed_frame"),
        ("[7]".to_owned(), 400, "malformed_frame"),
        (json!({"applied": 1}).to_string(), 400, "malformed_frame"),
        (json!({"type": "delivery.ack"}).to_string(), 422, "invalid_frame"),
        (ack("applied", json!("1")).to_string(), 422, "invalid_frame"),
        (ack("applied", json!(1_u64 << 63)).to_string(), 422, "invalid_frame"),
        (ack("applied", json!(-1)).to_string(), 422, "invalid_frame"),
        (
            json!([ack("applied", json!(1)), {"type": "delivery.nack"}]).to_string(),
            422,
            "invalid_frame",
        ),
        (hello.to_string(), 422, "invalid_frame"),
        (many.to_string(), 413, "frame_too_large"),
        (json!({"type": "x", "pad": "x".repeat(16 * 1024)}).to_string(), 413, "frame_too_large"),
    ] {
        let mut peer = Peer::connect(&service, &bad_key, "?confirm=applied&instance=a").await;
        let refused = peer.post_as(&bad_key, body.clone()).await;
        refused.refusal(status, code);
        let error = peer.ended().await;
        assert!(error["code"].is_string(), "{body}: {error}");
        peer.post(&json!([])).await.refusal(409, "connection_gone");
    }
    // What contradicts the stream is known only to the lane.
    for (frame, code) in [
        (ack("applied", json!(2)), "beyond_sent"),
        (json!({"type": "delivery.progress", "sequence": 9}), "beyond_sent"),
    ] {
        let mut peer = Peer::connect(&service, &bad_key, "?confirm=applied&instance=a").await;
        assert_eq!(peer.post(&frame).await.status, 204);
        assert_eq!(peer.ended().await["code"], code);
    }
    // None of the frames of an invalid array has counted.
    let shown = service.api().get(&format!("/gateways/{bad_id}")).await.expect("shown");
    assert_eq!(shown["confirmed"], 0);
    other.applied(1).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 1).await;
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
async fn streams_take_no_places_of_http_connections() {
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
