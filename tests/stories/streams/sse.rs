//! Server-sent events: delivery, confirmation, and the end of streams.

use serde_json::json;

use super::sse_peer::{Peer, request};
use crate::both_databases::{On, on_both};
use crate::reliable::publish;
use crate::support::http::reply;
use crate::support::{Service, pause};

on_both! {
    events_are_streamed_in_order_and_confirmed_by_post
    a_client_continues_after_its_last_message
}

async fn events_are_streamed_in_order_and_confirmed_by_post(on: On) {
    let service = on.start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 3).await;
    let mut peer = Peer::greet(&service, &key, "?instance=a&confirm=applied").await;
    assert_eq!((&peer.ack["gatewayId"], &peer.ack["head"]), (&json!(id), &json!(3)));
    assert!((1_000..4_000).contains(&peer.retry.expect("a time")));
    assert_eq!(peer.resumed().await["pending"], 3);
    for sequence in 1..=3 {
        assert_eq!(peer.event(sequence).await.data["previous"], sequence - 1);
    }
    publish(&service, &id, 4, 4).await;
    peer.event(4).await;
    let frames = json!([
        {"type": "delivery.ack", "received": 4},
        {"type": "delivery.ack", "applied": 3},
        {"type": "of.the.future"},
    ]);
    assert_eq!(peer.post(&frames).await.status, 204);
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 3).await;
    peer.applied(4).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 4).await;
    let shown = service.api().get("/connections").await.expect("connections");
    assert_eq!(shown["list"][0]["transport"], "sse");
    assert_eq!(service.invalid_messages("unknown message type").await, 1);
}

async fn a_client_continues_after_its_last_message(on: On) {
    let service = on.start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 2).await;
    let mut peer = Peer::connect(&service, &key, "?instance=a").await;
    peer.event(1).await;
    let last = peer.event(2).await.id.expect("an id");
    drop(peer);
    let connections = format!("/gateways/{id}/connections?status=connected");
    service.eventually(&connections, |shown| shown["count"] == 0).await;
    publish(&service, &id, 3, 3).await;
    let failed = "/deliveries?status=failed&reason=not_connected";
    service.eventually(failed, |shown| shown["count"] == 1).await;
    let mut peer = Peer::after(&service, &key, "?instance=a&resume=earliest", &last).await;
    assert_eq!(peer.resumed().await["from"], 2);
    peer.event(3).await;
    assert_eq!(peer.post(&json!({"type": "delivery.ack", "received": 3})).await.status, 204);
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 3).await;
    // The position that the service stores.
    drop(peer);
    let mut peer = Peer::greet(&service, &key, "?instance=a").await;
    assert_eq!(peer.resumed().await["from"], 3);
}

#[tokio::test]
async fn a_rejected_event_is_a_dead_letter_and_a_retried_one_comes_again() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 2).await;
    let mut peer = Peer::connect(&service, &key, "?instance=a&confirm=applied").await;
    peer.event(1).await;
    peer.event(2).await;
    let nack =
        json!({"type": "delivery.nack", "sequence": 1, "code": "overloaded", "retryable": true});
    assert_eq!(peer.post(&nack).await.status, 204);
    assert_eq!(peer.event(1).await.data["attempt"], 2);
    peer.event(2).await;
    let nack = json!({"type": "delivery.nack", "sequence": 2, "code": "invalid", "retryable": false, "detail": "no"});
    let frames = json!([{"type": "delivery.ack", "applied": 1}, nack]);
    assert_eq!(peer.post(&frames).await.status, 204);
    let failed = "/deliveries?status=failed&reason=invalid";
    service.eventually(failed, |shown| shown["count"] == 1).await;
}

#[tokio::test]
async fn a_filter_and_a_window_are_parameters() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let query = "?instance=a&confirm=applied&window=1&types=gateway.config.updated,secret.deleted";
    let mut peer = Peer::connect(&service, &key, query).await;
    publish(&service, &id, 1, 1).await;
    for _ in 0..2 {
        let event = json!({"type": "gateway.config.updated", "gatewayIds": [id],
            "payload": {"configType": "cache", "action": "update"}});
        service.api().post("/events", &event).await.expect("accepted");
    }
    assert_eq!(peer.event(2).await.data["type"], "gateway.config.updated");
    peer.applied(2).await;
    peer.event(3).await;
    peer.applied(3).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 3).await;
}

#[tokio::test]
async fn an_idle_stream_has_comments_and_lives() {
    let service = Service::start_with(&[
        ("RELIABLE__HEARTBEAT_INTERVAL", "200ms"),
        ("DELIVERY__HEARTBEAT_INTERVAL", "300ms"),
        ("DELIVERY__HEARTBEAT_TIMEOUT", "1s"),
    ])
    .await;
    let (id, key) = service.gateway("one").await;
    let mut peer = Peer::connect(&service, &key, "").await;
    assert_eq!(peer.ack["heartbeatMs"], 200);
    for _ in 0..10 {
        peer.comment().await;
    }
    pause(std::time::Duration::from_millis(1500)).await;
    publish(&service, &id, 1, 1).await;
    peer.event(1).await;
}

#[tokio::test]
async fn a_stream_ends_with_its_key_its_gateway_and_its_node() {
    let mut service = Service::start_with(&[("SHUTDOWN__DRAIN", "100ms")]).await;
    let (id, key) = service.gateway("one").await;
    let mut peer = Peer::connect(&service, &key, "").await;
    let tokens = service.api().get(&format!("/gateways/{id}/tokens")).await.expect("tokens");
    let token = tokens["list"][0]["id"].as_str().expect("an id");
    service.api().delete(&format!("/gateways/{id}/tokens/{token}")).await.expect("revoked");
    assert_eq!(peer.ended().await["code"], "token_revoked");
    reply(request(&service, &key, "")).await.refusal(401, "unauthorized");

    let (id, key) = service.gateway("two").await;
    let mut peer = Peer::connect(&service, &key, "").await;
    let disabled = json!({"disabled": true});
    service.api().patch(&format!("/gateways/{id}"), &disabled).await.expect("disabled");
    assert_eq!(peer.ended().await["code"], "gateway_disabled");
    reply(request(&service, &key, "")).await.refusal(403, "gateway_disabled");

    let (id, key) = service.gateway("three").await;
    publish(&service, &id, 1, 1).await;
    let mut peer = Peer::connect(&service, &key, "?instance=a&confirm=applied").await;
    peer.event(1).await;
    service.ask_to_end();
    let mut drain = peer.frame().await;
    while drain.kind == "delivery.mark" {
        drain = peer.frame().await;
    }
    assert_eq!(drain.kind, "connection.drain");
    peer.applied(1).await;
    peer.ended().await;
    service.ended().await;
    service.restart().await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 1).await;
}
