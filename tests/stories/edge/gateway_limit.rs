//! The limit on the open connections of one gateway to a node: a gateway that leaks
//! connections keeps no other one out, and one that restarts never meets the limit.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::log::lines;
use crate::both_databases::{Backend, on_both};
use crate::support::http::reply;
use crate::support::{Service, Socket, TEST_TIMEOUT};

on_both! {
    declared_replicas_raise_the_limit
}

const CODE: &str = "gateway_connection_limit";
const SETTING: &str = "delivery.max_connections_per_gateway";

async fn connected(service: &Service, key: &str, count: usize) -> Vec<Socket> {
    futures_util::future::join_all((0..count).map(|_| service.connected(key))).await
}

async fn is_refused(service: &Service, key: &str) {
    let (status, body) = service.connect(key).await.err().expect("refused");
    assert!(status == 503 && body.contains(CODE), "{status} {body}");
}

async fn until_connected(service: &Service, key: &str) -> Socket {
    let mut attempts = tokio::time::interval(Duration::from_millis(50));
    let connecting = async {
        loop {
            attempts.tick().await;
            match service.connect(key).await {
                Ok(socket) => return socket,
                Err((status, body)) => assert_eq!(status, 503, "{body}"),
            }
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, connecting).await.expect("admitted in time")
}

#[tokio::test]
async fn leaked_connections_do_not_exclude_other_gateways() {
    let settings = [
        ("DELIVERY__MAX_CONNECTIONS", "6"),
        ("DELIVERY__MAX_CONNECTIONS_PER_GATEWAY", "5"),
        ("LIMITS__ATTEMPTS_PER_MINUTE", "1000"),
    ];
    let service = Service::start_with(&settings).await;
    let (id, leaking) = service.gateway("leaking").await;
    let (_, other) = service.gateway("other").await;
    let mut leaked = connected(&service, &leaking, 5).await;

    let upgrade = service
        .caller(None)
        .request(Method::GET, "/ws/gateways/connect")
        .header("api-key", &leaking)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let refused = reply(upgrade).await;
    let problem = refused.refusal(503, CODE);
    assert!(problem["detail"].as_str().expect("text").contains(SETTING), "{problem}");
    assert_eq!(refused.headers["retry-after"], "1");
    for _ in 0..100 {
        is_refused(&service, &leaking).await;
    }
    service.connected(&other).await;

    // The operator learns of it: once per source and kind, a few times a minute.
    let of = |line: &serde_json::Value| {
        line["message"] == "refused a connection" && line["code"] == CODE
    };
    let line = lines(&service, 1, of).await.remove(0);
    assert_eq!((&line["gateway"], &line["gateway_name"]), (&json!(id), &json!("leaking")));
    let written = service.log().matches(CODE).count();
    assert!(written <= 30, "{written} lines");
    let series = format!("gateway_events_connection_attempts_refused_total{{code=\"{CODE}\"}} 101");
    assert!(service.metrics().await.contains(&series), "{series}");
    let path = format!("/gateways/{id}");
    service.eventually(&path, |gateway| gateway["lastRefusal"]["code"] == CODE).await;

    // A connection that ends makes room for another one.
    drop(leaked.pop());
    leaked.push(until_connected(&service, &leaking).await);
    is_refused(&service, &leaking).await;
}

/// Replicas whose hosts vanished leave connections that look open for a while: as many
/// as there are replicas must not keep those out that take their place.
async fn declared_replicas_raise_the_limit(backend: Backend) {
    let settings =
        [("DELIVERY__MAX_CONNECTIONS_PER_GATEWAY", "2"), ("LIMITS__ATTEMPTS_PER_MINUTE", "1000")];
    let service = backend.start_with(&settings).await;
    let (id, key) = service.gateway("cluster").await;
    let path = format!("/gateways/{id}");
    service.admin().patch(&path, &json!({"replicas": 20})).await.success();
    let _vanished = connected(&service, &key, 20).await;
    let mut replicas = connected(&service, &key, 20).await;
    is_refused(&service, &key).await;
    service.admin().patch(&path, &json!({"replicas": 21})).await.success();
    replicas.push(until_connected(&service, &key).await);
}
