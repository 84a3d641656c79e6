//! How the service closes connections.

use serde_json::{Value, json};

use super::peer::{Incoming, Peer};
use super::publish;
use crate::both_databases::{Backend, on_both};
use crate::support::{Service, deployed};

on_both! {
    every_event_that_was_unconfirmed_at_the_end_has_an_attempt
}

async fn every_event_that_was_unconfirmed_at_the_end_has_an_attempt(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let mut events = ["d-1", "d-2", "d-3"].map(|deployment| deployed(&[&id], deployment));
    events[1]["type"] = json!("api.undeployed");
    service.api().post("/events", &json!(events)).await.expect("accepted");
    let hello = json!({"instance": "a", "types": ["api.deployed"]});
    let mut peer = Peer::connect(&service, &key, hello).await;
    peer.event(1).await;
    peer.event(3).await;
    drop(peer);
    let lost = |page: &Value| {
        let rows = page["list"].as_array().expect("rows");
        let mut lost: Vec<_> = rows.iter().filter_map(|row| row["sequence"].as_i64()).collect();
        lost.sort_unstable();
        lost
    };
    let path = format!("/deliveries?gatewayId={id}&reason=connection_lost");
    service.eventually(&path, |page| lost(page) == [1, 3]).await;
}

#[tokio::test]
async fn a_revoked_key_ends_connections_whose_hello_is_awaited() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let mut waiting = Peer::greet(&service, &key).await;
    let tokens = service.api().get(&format!("/gateways/{id}/tokens")).await.expect("tokens");
    let token = tokens["list"][0]["id"].as_str().expect("an id");
    service.api().delete(&format!("/gateways/{id}/tokens/{token}")).await.expect("revoked");
    let (code, error) = waiting.closed().await;
    assert_eq!((code, &error["code"]), (4500, &json!("token_revoked")));
}

#[tokio::test]
async fn a_paused_gateway_gets_nothing_and_continues_afterwards() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    let pause = json!({"reason": "an upgrade"});
    service.api().post(&format!("/gateways/{id}/pause"), &pause).await.expect("paused");
    publish(&service, &id, 1, 1).await;
    peer.receives_nothing().await;
    service.api().post(&format!("/gateways/{id}/resume"), &json!({})).await.expect("resumed");
    peer.event(1).await;
    // The gateway closes it.
    peer.applied(1).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 1).await;
    assert!(!matches!(
        futures_util::FutureExt::now_or_never(peer.next()),
        Some(Incoming::Closed(_))
    ));
}
