//! Server-sent events: delivery, confirmation, and the end of streams.

use serde_json::json;

use super::sse_peer::Peer;
use crate::both_databases::{Backend, on_both};
use crate::reliable::publish;
use crate::support::{Service, pause};

on_both! {
    events_are_streamed_in_order_and_confirmed_by_post
    a_client_continues_after_its_last_message
    received_but_unapplied_events_are_sent_again
    a_stated_position_counts_as_applied
}

/// `EventSource` connects again by itself, to the same address and with the id of the last event that it
/// received.
async fn received_but_unapplied_events_are_sent_again(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let gateway = format!("/gateways/{id}");
    let connections = format!("{gateway}/connections?status=connected");
    let query = "?instance=a&confirm=applied&resume=earliest";
    publish(&service, &id, 1, 3).await;
    let mut peer = Peer::connect(&service, &key, query).await;
    peer.event(1).await;
    peer.event(2).await;
    let last = peer.event(3).await.id.expect("an id");
    peer.applied(1).await;
    service.eventually(&gateway, |shown| shown["confirmed"] == 1).await;
    drop(peer);
    service.eventually(&connections, |shown| shown["count"] == 0).await;
    let mut peer = Peer::after(&service, &key, query, &last).await;
    assert_eq!(peer.resumed().await["from"], 1);
    for sequence in 2..=3 {
        peer.event(sequence).await;
        let shown = service.admin().get(&gateway).await.success();
        assert_eq!(shown["confirmed"], sequence - 1);
        peer.applied(sequence).await;
        service.eventually(&gateway, |shown| shown["confirmed"] == sequence).await;
    }
    drop(peer);
    service.eventually(&connections, |shown| shown["count"] == 0).await;
    // A position below the stored one is where the gateway is now.
    let epoch = last.split('.').next().expect("an epoch");
    let mut peer = Peer::after(&service, &key, query, &format!("{epoch}.1")).await;
    assert_eq!(peer.resumed().await["from"], 1);
    peer.event(2).await;
}

async fn a_stated_position_counts_as_applied(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let gateway = format!("/gateways/{id}");
    publish(&service, &id, 1, 3).await;
    let mut peer = Peer::connect(&service, &key, "?instance=a&confirm=applied").await;
    let second = {
        peer.event(1).await;
        peer.event(2).await.id.expect("an id")
    };
    drop(peer);
    let query = format!("?instance=a&confirm=applied&resume={second}");
    let mut peer = Peer::greet(&service, &key, &query).await;
    assert_eq!(peer.resumed().await["from"], 2);
    service.eventually(&gateway, |shown| shown["confirmed"] == 2).await;
    let last = peer.event(3).await.id.expect("an id");
    drop(peer);
    // The same address, as EventSource uses it.
    let mut peer = Peer::after(&service, &key, &query, &last).await;
    assert_eq!(peer.resumed().await["from"], 2);
    peer.event(3).await;
}

async fn events_are_streamed_in_order_and_confirmed_by_post(backend: Backend) {
    let service = backend.start().await;
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
    assert_eq!(service.invalid_messages("unknown_message_type").await, 1);
}

async fn a_client_continues_after_its_last_message(backend: Backend) {
    let service = backend.start().await;
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
async fn idle_stream_sends_keepalive_comments() {
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
