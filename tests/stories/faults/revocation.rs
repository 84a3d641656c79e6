//! Revoked and expired keys, and keys of disabled gateways.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::raw_gateway::{CLOSE, RawGateway};
use crate::support::{Service, deployed};

/// Creates another key; returns its id and the key.
async fn another_key(
    service: &Service,
    gateway: &str,
    body: serde_json::Value,
) -> (String, String) {
    let path = format!("/gateways/{gateway}/tokens");
    let token = service.api().post(&path, &body).await.expect("a token");
    let text = |name: &str| token[name].as_str().expect("text").to_owned();
    (text("id"), text("token"))
}

#[tokio::test]
async fn a_revoked_key_closes_its_own_sockets_and_no_others() {
    let service = Service::start().await;
    let (id, old_key) = service.gateway("one").await;
    let tokens = service.api().get(&format!("/gateways/{id}/tokens")).await.expect("tokens");
    let old = tokens["list"][0]["id"].as_str().expect("an id").to_owned();
    let (_, new_key) = another_key(&service, &id, json!({})).await;
    let mut closing = Vec::new();
    for _ in 0..3 {
        closing.push(RawGateway::connect(&service, service.port, &old_key).await);
    }
    let mut staying = RawGateway::connect(&service, service.port, &new_key).await;
    service.api().delete(&format!("/gateways/{id}/tokens/{old}")).await.expect("revoked");
    for socket in &mut closing {
        assert_eq!(socket.next_of(CLOSE).await.expect("a close frame").code(), 1008);
    }
    assert_eq!(service.connect(&old_key).await.err().expect("refused").0, 401);
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    assert_eq!(staying.event().await["sequence"], 1);
    drop(closing);
    let path = format!("/gateways/{id}");
    service.eventually(&path, |gateway| gateway["connections"] == 1).await;
}

#[tokio::test]
async fn a_disabled_gateway_loses_its_sockets_and_is_refused_until_it_is_enabled() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let (_, other_key) = another_key(&service, &id, json!({})).await;
    let mut sockets = Vec::new();
    for key in [&key, &other_key] {
        sockets.push(RawGateway::connect(&service, service.port, key).await);
    }
    let path = format!("/gateways/{id}");
    service.api().patch(&path, &json!({"disabled": true})).await.expect("disabled");
    for socket in &mut sockets {
        assert_eq!(socket.next_of(CLOSE).await.expect("a close frame").code(), 1008);
    }
    drop(sockets);
    assert_eq!(service.connect(&key).await.err().expect("refused").0, 403);
    assert_eq!(service.connect(&other_key).await.err().expect("refused").0, 403);
    // A wrong key reveals nothing about the gateway.
    let mut forged = key.clone();
    forged.pop();
    assert_eq!(service.connect(&forged).await.err().expect("refused").0, 401);
    let past = format!("{path}/connections");
    let closed = |page: &serde_json::Value| {
        page["list"]
            .as_array()
            .is_some_and(|list| list.iter().all(|one| one["closeReason"] == "gateway_disabled"))
    };
    service.eventually(&past, closed).await;
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("kept for it");
    service.api().patch(&path, &json!({"disabled": false})).await.expect("enabled");
    service.connected(&key).await.expect(1..=1).await;
}

#[tokio::test]
async fn connection_ends_when_its_key_expires() {
    const KEY_LIFETIME: Duration = Duration::from_secs(2);
    let service = Service::start().await;
    let (id, lasting_key) = service.gateway("one").await;
    let mut lasting = RawGateway::connect(&service, service.port, &lasting_key).await;
    let before = Instant::now();
    let body = json!({"expiresInSeconds": KEY_LIFETIME.as_secs()});
    let (_, key) = another_key(&service, &id, body).await;
    let mut socket = RawGateway::connect(&service, service.port, &key).await;
    assert_eq!(socket.next_of(CLOSE).await.expect("a close frame").code(), 1008);
    assert!(before.elapsed() >= KEY_LIFETIME, "closed after only {:?}", before.elapsed());
    assert_eq!(service.connect(&key).await.err().expect("refused").0, 401);
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    assert_eq!(lasting.event().await["sequence"], 1);
}
