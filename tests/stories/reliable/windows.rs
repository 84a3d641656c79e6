//! Windows, credit and acknowledgements.

use serde_json::json;

use super::peer::Peer;
use super::resume::{publish, with_events};
use crate::both_databases::{On, on_both};
use crate::support::{Service, get};

on_both! {
    acknowledgements_move_the_position_at_their_level
}

#[tokio::test]
async fn no_more_than_the_window_is_sent_and_credit_replaces_it() {
    let (service, id, key) = with_events(&On::Embedded, 10).await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a", "window": 0})).await;
    peer.receives_nothing().await;
    peer.credit(json!({"window": 2})).await;
    peer.event(1).await;
    peer.event(2).await;
    peer.receives_nothing().await;
    peer.applied(1).await;
    peer.event(3).await;
    peer.receives_nothing().await;
    peer.credit(json!({"window": 4})).await;
    peer.event(4).await;
    peer.event(5).await;
    peer.receives_nothing().await;
    peer.credit(json!({"window": 0})).await;
    peer.applied(5).await;
    peer.receives_nothing().await;
    peer.credit(json!({"window": 100})).await;
    for sequence in 6..=10 {
        peer.event(sequence).await;
    }
    peer.applied(10).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 10).await;
}

#[tokio::test]
async fn the_window_in_bytes_lets_a_larger_event_through_alone() {
    let (service, _, key) = with_events(&On::Embedded, 3).await;
    let hello = json!({"instance": "a", "windowBytes": 10});
    let mut peer = Peer::connect(&service, &key, hello).await;
    for sequence in 1..=3 {
        peer.event(sequence).await;
        peer.receives_nothing().await;
        peer.applied(sequence).await;
    }
    peer.credit(json!({"windowBytes": 0})).await;
    peer.settled().await;
}

#[tokio::test]
async fn the_servers_window_is_the_limit() {
    let service = Service::start_with(&[("RELIABLE__WINDOW", "2")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 3).await;
    let mut peer = Peer::connect(&service, &key, json!({"window": 100})).await;
    peer.event(1).await;
    peer.event(2).await;
    peer.receives_nothing().await;
}

async fn acknowledgements_move_the_position_at_their_level(on: On) {
    let (service, id, key) = with_events(&on, 6).await;
    let confirmed = format!("/gateways/{id}");
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    for sequence in 1..=6 {
        peer.event(sequence).await;
    }
    peer.send(&json!({"type": "delivery.ack", "received": 6})).await;
    peer.send(&json!({"type": "delivery.ack", "received": 6, "applied": 2})).await;
    service.eventually(&confirmed, |shown| shown["confirmed"] == 2).await;
    // Backwards is ignored.
    peer.applied(1).await;
    peer.applied(4).await;
    service.eventually(&confirmed, |shown| shown["confirmed"] == 4).await;
    let path = format!("/gateways/{id}/log?after=0");
    let log = get(&service.api(), &path).await.expect("the log");
    assert_eq!(log["list"][3]["state"], "delivered", "{log:#}");
    assert_eq!(log["list"][4]["state"], "pending", "{log:#}");
    drop(peer);
    // An instance that confirms by what it has received.
    let mut peer =
        Peer::connect(&service, &key, json!({"instance": "a", "confirm": "received"})).await;
    publish(&service, &id, 7, 7).await;
    peer.event(7).await;
    peer.send(&json!({"type": "delivery.ack", "received": 7})).await;
    service.eventually(&confirmed, |shown| shown["confirmed"] == 7).await;
}
