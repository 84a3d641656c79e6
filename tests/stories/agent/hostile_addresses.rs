//! Local addresses that refuse, hang, break off or flood.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::product::{Answer, Product, Request, status};
use super::{Agent, confirmed, failures, publish, until, why};
use crate::both_databases::{Backend, on_both};
use crate::support::Service;

on_both! {
    a_backlog_that_is_answered_with_500_is_rejected_in_order_and_redriven_in_order
}

/// Each event is given up at once, and none is skipped or handed over twice, also by a later agent.
async fn a_backlog_that_is_answered_with_500_is_rejected_in_order_and_redriven_in_order(
    backend: Backend,
) {
    const EVENTS: i64 = 60;
    const BEFORE_THE_KILL: usize = 20;
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let deployments: Vec<String> = (1..=EVENTS).map(|number| format!("d-{number}")).collect();
    publish(&service, &id, &deployments.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let is_broken = Arc::new(AtomicBool::new(true));
    let broken = Arc::clone(&is_broken);
    let product = Product::start(move |_| {
        if broken.load(Ordering::SeqCst) { status(500, "", "no disk") } else { status(200, "", "") }
    })
    .await;
    let arguments = ["--forward-to", &product.url];
    let agent = Agent::start(&service, &key, &arguments);
    product.requested(BEFORE_THE_KILL).await;
    agent.kill().await;
    let agent = Agent::start(&service, &key, &arguments);
    confirmed(&service, &id, EVENTS).await;
    let failed = failures(&service, &id, deployments.len()).await;
    for (delivery, sequence) in failed.iter().zip(1..) {
        assert_eq!(delivery["sequence"], sequence);
        assert_eq!(why(delivery), ("apply_failed", "status 500: no disk"));
    }
    let mut received: Vec<_> = product.requests().iter().map(Request::sequence).collect();
    // The event that was handed over when the agent was killed may be handed over again.
    let all = received.len();
    received.dedup();
    assert!(received.iter().copied().eq(1..=EVENTS) && all <= received.len() + 1, "{received:?}");

    is_broken.store(false, Ordering::SeqCst);
    let redrive = json!({"filter": {"reason": "apply_failed", "gatewayId": id}});
    let redriven = service.api().post("/deliveries/redrive", &redrive).await.expect("redriven");
    confirmed(&service, &id, 2 * EVENTS).await;
    let received = product.requests().split_off(all);
    let sequences: Vec<_> = received.iter().map(Request::sequence).collect();
    assert!(sequences.iter().copied().eq(EVENTS + 1..=2 * EVENTS), "{redriven}: {sequences:?}");
    let bodies: Vec<serde_json::Value> =
        received.iter().map(|it| serde_json::from_str(&it.body).expect("JSON")).collect();
    let applied: Vec<_> = bodies.iter().filter_map(|it| it["deploymentId"].as_str()).collect();
    assert_eq!(applied, deployments, "in the order in which they were published");
    agent.stop().await;
}

/// A listening socket whose queue is full: the kernel ignores further attempts to connect.
fn full_listener() -> (Socket, String, Vec<TcpStream>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&address.into()).expect("a port");
    listener.listen(0).expect("it listens");
    let address = listener.local_addr().expect("an address").as_socket().expect("of IP");
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue is never full");
    }
    (listener, format!("http://{address}/events"), queued)
}

/// Nothing was sent, so nothing counts as an attempt, however long it takes.
#[tokio::test]
async fn an_address_to_which_connecting_hangs_is_awaited_without_a_failed_attempt() {
    let service = Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", "1")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1", "d-2"]).await;
    let (listener, url, queued) = full_listener();
    let agent = Agent::start(&service, &key, &["--timeout", "2s", "--forward-to", &url]);
    let hung = || agent.log().matches("the product is not available").count();
    until(|| hung() >= 3, || agent.log()).await;
    let reasons: BTreeSet<String> = agent
        .log()
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|line| Some(line["fields"]["reason"].as_str()?.to_owned()))
        .collect();
    let says = |reason: &String| reason.contains(&url) && reason.contains("timed out");
    assert!(reasons.iter().all(says), "{reasons:?}");
    failures(&service, &id, 0).await;
    drop(queued);
    let product = Product::start_on(listener.into(), |_| status(200, "", ""));
    let received = product.requested(2).await;
    let received: Vec<_> = received.iter().map(|it| (it.sequence(), it.times)).collect();
    assert_eq!(received, [(1, 1), (2, 1)]);
    confirmed(&service, &id, 2).await;
    failures(&service, &id, 0).await;
    agent.stop().await;
}

/// Its kernel takes the connection and the request; it is stopped, or its threads are all busy.
#[tokio::test]
async fn a_product_that_accepts_no_connection_gets_its_events_once_it_does() {
    let service = Service::start_with(&[("DELIVERY__POISON", "block")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1", "d-2"]).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/events", listener.local_addr().expect("an address"));
    let agent = Agent::start(&service, &key, &["--timeout", "1s", "--forward-to", &url]);
    let timeouts = || agent.log().matches("no response within 1 s").count();
    // More often than an event is tried that is given up.
    until(|| timeouts() >= 6, || agent.log()).await;
    let shown = service.api().get(&format!("/gateways/{id}")).await.expect("the gateway");
    assert_eq!(shown["confirmed"], 0);
    let product = Product::start_on(listener, |_| status(200, "", ""));
    confirmed(&service, &id, 2).await;
    // Requests that the agent has given up arrive, too.
    let mut received: Vec<_> = product.requests().iter().map(Request::sequence).collect();
    received.dedup();
    assert_eq!(received, [1, 2]);
    agent.stop().await;
}

#[tokio::test]
async fn a_product_that_is_away_is_awaited_without_a_failed_attempt() {
    let service = Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", "1")]).await;
    let (id, key) = service.gateway("one").await;
    let product = Product::start(|_| status(200, "", "")).await;
    let url = product.url.clone();
    let address = url.trim_start_matches("http://").trim_end_matches("/events");
    let agent = Agent::start(&service, &key, &["--forward-to", &url]);
    publish(&service, &id, &["d-1"]).await;
    confirmed(&service, &id, 1).await;
    drop(product);
    publish(&service, &id, &["d-2", "d-3"]).await;
    agent.logged("the product is not available").await;
    let product = Product::start_at(address, |_| status(200, "", "")).await;
    let received = product.requested(2).await;
    let received: Vec<_> = received.iter().map(|it| (it.sequence(), it.times)).collect();
    assert_eq!(received, [(2, 1), (3, 1)]);
    confirmed(&service, &id, 3).await;
    failures(&service, &id, 0).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_response_that_does_not_come_or_breaks_off_is_retried() {
    let service = Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", "3")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1", "d-2", "d-3", "d-4"]).await;
    let product = Product::start(|request| match (request.sequence(), request.times) {
        (1, 1) | (4, _) => Answer::Never,
        (2, 1) => Answer::Close,
        (3, 1) => Answer::Text("HTTP/1.1 banana\r\n\r\n".to_owned()),
        _ => status(200, "", ""),
    })
    .await;
    let arguments = ["--timeout", "2s", "--forward-to", &product.url];
    let agent = Agent::start(&service, &key, &arguments);
    let failed = failures(&service, &id, 1).await;
    assert_eq!(failed[0]["sequence"], 4);
    assert_eq!(why(&failed[0]), ("timeout", "no response within 2 s"));
    let received: Vec<_> = product.requests().iter().map(|it| (it.sequence(), it.times)).collect();
    assert_eq!(received, [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (4, 2), (4, 3)]);
    agent.stop().await;
}

#[tokio::test]
async fn the_beginning_of_an_endless_body_is_the_detail() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1", "d-2"]).await;
    let product = Product::start(|request| match request.sequence() {
        1 => Answer::Endless(500),
        _ => Answer::Endless(200),
    })
    .await;
    let agent = Agent::start(&service, &key, &["--forward-to", &product.url]);
    confirmed(&service, &id, 2).await;
    let failed = failures(&service, &id, 1).await;
    let (reason, detail) = why(&failed[0]);
    assert_eq!(reason, "apply_failed");
    assert!(detail.starts_with("status 500: wrong wrong"), "{detail}");
    assert!(detail.len() > 1024 && detail.len() <= 2048, "{}", detail.len());
    agent.stop().await;
}
