//! Shutdown: graceful at the first signal, immediate at the second. What was confirmed is never
//! forgotten.

use std::time::{Duration, Instant};

use reqwest::Method;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::raw_gateway::{CLOSE, RawGateway};
use crate::support::{Service, TEST_TIMEOUT, deployed};

/// The status of a `GET` at the root.
async fn status(service: &Service, path: &str) -> u16 {
    let answer = service.api().at_root(Method::GET, path).send().await.expect("an answer");
    answer.status().as_u16()
}

/// The response to an upgrade: its status, and its `Retry-After` in seconds.
async fn upgrade(service: &Service, key: &str) -> (u16, Option<u64>) {
    let request = service
        .api()
        .request(Method::GET, "/ws/gateways/connect")
        .header("api-key", key)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let answer = request.send().await.expect("an answer");
    let retry_after = answer.headers().get("retry-after");
    let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    (answer.status().as_u16(), seconds)
}

#[tokio::test]
async fn sockets_are_closed_one_after_another_while_no_connection_is_admitted() {
    const DRAIN: Duration = Duration::from_secs(8);
    const GATEWAYS: u32 = 6;
    let mut service = Service::start_with(&[("SHUTDOWN__DRAIN", "8s")]).await;
    let (_, key) = service.gateway("late").await;
    let (closed, mut closings) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..GATEWAYS {
        let (_, key) = service.gateway(&format!("gateway-{number}")).await;
        let (mut socket, closed) = (service.connected(&key).await, closed.clone());
        tokio::spawn(async move {
            socket.until_closed().await;
            closed.send(Instant::now()).expect("the test waits");
        });
    }
    assert_eq!(status(&service, "/readyz").await, 200);
    service.ask_to_end();
    let started = Instant::now();
    let mut times = vec![closings.recv().await.expect("a close")];
    // Readiness was off before the first gateway was disconnected.
    assert_eq!(status(&service, "/readyz").await, 503);
    assert_eq!(status(&service, "/livez").await, 200);
    let (refused, retry_after) = upgrade(&service, &key).await;
    assert_eq!(refused, 503);
    assert!(retry_after.is_some_and(|seconds| (1..=60).contains(&seconds)), "{retry_after:?}");
    while times.len() < GATEWAYS as usize {
        times.push(closings.recv().await.expect("a close"));
    }
    let last = times[times.len() - 1];
    let (spread, took) = (last - times[0], last - started);
    assert!(spread >= DRAIN / 2, "all were closed within {spread:?}");
    let crowded = times.windows(2).filter(|pair| pair[1] - pair[0] < DRAIN / 60).count();
    assert!(crowded <= 2, "closed in bunches: {times:?}");
    assert!(took <= DRAIN + TEST_TIMEOUT, "took {took:?}");
    assert_eq!(service.ended().await, Some(0), "{}", service.log());
}

#[tokio::test]
async fn the_shutdown_ends_when_the_last_socket_is_closed() {
    let mut service = Service::start_with(&[("SHUTDOWN__DRAIN", "10m")]).await;
    let (_, key) = service.gateway("only").await;
    let socket = service.connected(&key).await.serve();
    assert_eq!(service.terminate().await, Some(0), "{}", service.log());
    socket.await.expect("closed");
}

#[tokio::test]
async fn second_signal_ends_the_service_at_once_and_is_logged() {
    let mut service = Service::start_with(&[("SHUTDOWN__DRAIN", "10m")]).await;
    for number in 0..3 {
        let (_, key) = service.gateway(&format!("gateway-{number}")).await;
        service.connected(&key).await.serve();
    }
    service.ask_to_end();
    let draining = async { while status(&service, "/readyz").await != 503 {} };
    tokio::time::timeout(TEST_TIMEOUT, draining).await.expect("it drains");
    service.ask_to_end();
    assert_eq!(service.ended().await, Some(130), "{}", service.log());
}

/// A receipt that arrives after the signal still counts.
#[tokio::test]
async fn events_confirmed_before_the_end_are_not_sent_again() {
    let mut service = Service::start_with(&[("SHUTDOWN__DRAIN", "10ms")]).await;
    let (id, key) = service.gateway("one").await;
    let (slow, slow_key) = service.gateway("slow").await;
    let mut gateway = RawGateway::connect(&service, service.port, &key).await;
    let mut at_work = RawGateway::connect(&service, service.port, &slow_key).await;
    for deployment in ["d-1", "d-2", "d-3"] {
        let event = deployed(&[&id, &slow], deployment);
        service.api().post("/events", &event).await.expect("accepted");
    }
    gateway.receipt_asked(3).await;
    at_work.receipt_asked(3).await;
    at_work.pong("1").await;
    service.ask_to_end();
    gateway.pong("3").await;
    // Its connection closes as soon as everything is confirmed, and the other one soon
    // nevertheless.
    assert_eq!(gateway.next_of(CLOSE).await.expect("a close frame").code(), 1001);
    assert_eq!(at_work.next_of(CLOSE).await.expect("a close frame").code(), 1001);
    drop((gateway, at_work));
    assert_eq!(service.ended().await, Some(0), "{}", service.log());
    service.restart().await;
    let event = deployed(&[&id, &slow], "d-4");
    service.api().post("/events", &event).await.expect("accepted");
    service.connected(&key).await.expect(4..=4).await;
    service.connected(&slow_key).await.expect(2..=4).await;
    let path = format!("/gateways/{slow}/connections");
    let past = service.api().get(&path).await.expect("connections");
    let ended = |one: &serde_json::Value| one["closeReason"] == "shutdown";
    assert!(past["list"].as_array().expect("a list").iter().any(ended), "{past:#}");
    // The interrupted attempt is recorded.
    let path = format!("/deliveries?gatewayId={slow}&reason=shutdown");
    let page = crate::support::get(&service.api(), &path).await.expect("a page");
    assert_eq!(page["count"], 2, "{page:#}");
}

/// A gateway whose connection was being opened when the drain began is refused before the upgrade.
/// If it were admitted and closed at once, it would reconnect at once.
#[tokio::test]
async fn a_gateway_that_connects_while_the_drain_begins_gets_no_101() {
    let mut service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(service.database());
    let mut other = options.connect().await.expect("the database");
    // Recording the connection waits for this lock.
    let lock = other.begin_with("begin immediate").await.expect("the lock");
    let api = service.api();
    let connecting = service.connect(&key);
    let draining = async {
        for _ in 0..20 {
            api.get(&format!("/gateways/{id}")).await.expect("the gateway");
        }
        service.ask_to_end();
        service.logged(|log| log.contains("draining")).await;
        lock.rollback().await.expect("unlocked");
    };
    let (connected, ()) = tokio::join!(connecting, draining);
    match connected {
        Err((status, body)) => {
            assert_eq!(status, 503, "{body}");
            assert!(body.contains("draining"), "{body}");
        }
        Ok(_) => panic!("it was upgraded, to be closed at once\n{}", service.log()),
    }
    assert_eq!(service.ended().await, Some(0), "{}", service.log());
}
