//! How the service closes connections.

use reqwest::Method;
use serde_json::json;

use super::peer::{Got, Peer};
use super::resume::publish;
use crate::support::Service;

#[tokio::test]
async fn a_drain_says_when_to_reconnect_and_waits_for_confirmations() {
    let mut service = Service::start_with(&[("SHUTDOWN__DRAIN", "100ms")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 1).await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    peer.event(1).await;
    service.ask_to_end();
    let drain = peer.frame_of("connection.drain").await;
    assert_eq!(drain["reason"], "shutdown");
    assert!(drain["reconnectAfterMs"].is_u64() && drain["graceMs"].is_u64(), "{drain}");
    peer.applied(1).await;
    assert_eq!(peer.closed().await.0, 4001);
    service.ended().await;
    service.restart().await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 1).await;
}

#[tokio::test]
async fn revoked_keys_and_disabled_gateways_must_not_reconnect() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let mut waiting = Peer::greet(&service, &key).await;
    let mut peer = Peer::connect(&service, &key, json!({})).await;
    let tokens = service.api().get(&format!("/gateways/{id}/tokens")).await.expect("tokens");
    let token = tokens["list"][0]["id"].as_str().expect("an id");
    let path = format!("/gateways/{id}/tokens/{token}");
    let revoked = service.api().request(Method::DELETE, &path).send().await.expect("an answer");
    assert!(revoked.status().is_success());
    for peer in [&mut waiting, &mut peer] {
        let (code, error) = peer.closed().await;
        assert_eq!((code, &error["code"]), (4500, &json!("token_revoked")));
    }

    let (id, key) = service.gateway("two").await;
    let mut peer = Peer::connect(&service, &key, json!({})).await;
    let disabled = json!({"disabled": true});
    service.api().patch(&format!("/gateways/{id}"), &disabled).await.expect("disabled");
    let (code, error) = peer.closed().await;
    assert_eq!((code, &error["code"]), (4503, &json!("gateway_disabled")));
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
    assert!(!matches!(futures_util::FutureExt::now_or_never(peer.next()), Some(Got::Closed(_))));
}
