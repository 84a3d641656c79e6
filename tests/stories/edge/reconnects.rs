//! Rate limits of authenticated gateways: a fleet that reconnects does not wait, and a gateway that
//! connects in a loop is slowed down.

use futures_util::future::join_all;

use crate::both_databases::Backend;
use crate::support::{Service, Socket};

/// Opens this many connections at once, each at the first attempt.
async fn fleet(service: &Service, key: &str, count: usize) -> Vec<Socket> {
    join_all((0..count).map(|_| service.connected(key))).await
}

/// How many short connections are admitted before one is refused.
async fn until_refused(service: &Service, key: &str, most: usize) -> usize {
    for admitted in 0..most {
        match service.connect(key).await {
            Ok(socket) => drop(socket),
            Err((status, body)) => {
                assert_eq!(status, 429, "{body}");
                return admitted;
            }
        }
    }
    panic!("{most} were admitted");
}

#[tokio::test]
async fn a_hundred_replicas_of_one_gateway_are_admitted_at_once_before_and_after_a_restart() {
    let mut service = Service::start().await;
    let (id, key) = service.gateway("cluster").await;
    let first = fleet(&service, &key, 100).await;
    service.kill().await;
    drop(first);
    service.restart().await;
    let again = fleet(&service, &key, 100).await;
    let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("an answer");
    assert_eq!(gateway["connections"], 100);
    drop(again);
}

#[tokio::test]
async fn a_gateway_can_restart_twelve_times_in_a_minute_and_then_must_wait() {
    let service = Service::start().await;
    let (_, key) = service.gateway("controller").await;
    // The service may notice the end of a connection after the next one begins.
    assert!(until_refused(&service, &key, 200).await >= 13);
    // No other gateway is affected, and this one receives how long to wait.
    let (_, other) = service.gateway("other").await;
    service.connected(&other).await;
    let request = service.caller(None).request(reqwest::Method::GET, "/ws/gateways/connect");
    let refused = crate::support::http::reply(request.header("api-key", &key)).await;
    refused.refusal(429, "too_many_attempts");
    let wait: u64 = refused.headers["retry-after"].to_str().expect("text").parse().expect("secs");
    assert!((1..=60).contains(&wait), "{wait}");
}

/// The database records what the gateway held, on this node before a restart or on another node:
/// after 20 connections, 2 × 20 + 10 more are admitted.
async fn earlier_connections_count(first: Service, second: Option<Service>) {
    let mut first = first;
    let (id, key) = first.gateway("cluster").await;
    let held = fleet(&first, &key, 20).await;
    let path = format!("/gateways/{id}");
    first.eventually(&path, |gateway| gateway["connections"] == 20).await;
    first.kill().await;
    drop(held);
    let service = if let Some(second) = second {
        second
    } else {
        first.restart().await;
        first
    };
    assert!(until_refused(&service, &key, 400).await >= 50);
}

#[tokio::test]
async fn connections_before_a_restart_count() {
    earlier_connections_count(Service::start().await, None).await;
}

#[tokio::test]
async fn connections_on_another_node_count() {
    let backend = Backend::postgres();
    let first = backend.start().await;
    let second = first.another().await;
    earlier_connections_count(first, Some(second)).await;
}

#[tokio::test]
async fn a_gateway_that_never_held_a_connection_has_ten_attempts_a_minute() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let disabled = serde_json::json!({"disabled": true});
    service.api().patch(&format!("/gateways/{id}"), &disabled).await.expect("disabled");
    for nth in 1..=12 {
        let (status, _) = service.connect(&key).await.err().expect("refused");
        assert_eq!(status, if nth <= 10 { 403 } else { 429 }, "attempt {nth}");
    }
}
