//! A gateway's own watchdog: it disconnects when it has read no ping for a while, and it reads
//! nothing while a handler runs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gateway_events::client::CancellationToken;
use gateway_events::client::gateway::{AckPolicy, Gateway, GatewayOptions, Handler, ReceivedEvent};
use gateway_events::clock::Timestamp;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio_util::sync::DropGuard;

use crate::support::{Service, deployed, get, pause};

/// A handler that is slow for some deployments.
struct Slow {
    for_slow: Duration,
}

#[async_trait]
impl Handler for Slow {
    async fn handle(&self, event: ReceivedEvent) {
        let payload: Value = serde_json::from_str(event.payload.get()).expect("JSON");
        let deployment = payload["deploymentId"].as_str().expect("a deployment");
        if deployment.starts_with("slow") {
            pause(self.for_slow).await;
        }
    }
}

/// A gateway that reports what it has deployed. It stops when the guard is dropped.
async fn gateway(
    service: &Service,
    name: &str,
    for_slow: Duration,
    watchdog: Duration,
) -> (String, DropGuard) {
    let (id, key) = service.gateway(name).await;
    let tls = service.trust().client_config().expect("a TLS client");
    let url = service.api().base().clone();
    let mut options =
        GatewayOptions::new(url, SecretString::from(key), tls, Arc::new(Slow { for_slow }));
    options.ping_timeout = watchdog;
    options.ack = AckPolicy::Success;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move { Gateway::new(options).run(stopped).await });
    service.eventually(&format!("/gateways/{id}"), |shown| shown["connected"] == true).await;
    (id, stop.drop_guard())
}

/// Publishes this many deployments in one request.
async fn burst(service: &Service, id: &str, name: &str, count: usize) {
    let event = |number| {
        let mut event = deployed(&[id], &format!("{name}-{number}"));
        event["id"] = json!(format!("{id}-{name}-{number}"));
        event
    };
    let batch: Vec<Value> = (0..count).map(event).collect();
    service.api().post("/events", &json!(batch)).await.expect("accepted");
}

/// Waits until the gateway has confirmed this many events; asserts that it did so on one
/// connection, without a failure.
async fn confirms_undisturbed(service: &Service, id: &str, count: usize, patience: Duration) {
    let path = format!("/gateways/{id}");
    service.eventually_within(patience, &path, |shown| shown["confirmed"] == count).await;
    let connections = service.api().get(&format!("/gateways/{id}/connections")).await;
    let connections = connections.expect("connections");
    assert_eq!(connections["count"], 1, "the gateway hung up: {connections:#}");
    let failed = get(&service.api(), &format!("/deliveries?gatewayId={id}")).await.expect("a page");
    assert_eq!(failed["count"], 0, "{failed:#}");
}

/// With the values of deployed gateways: 35 s for the watchdog, 30 s and 6 s for handlers, and
/// pings every 10 s.
#[tokio::test]
async fn slow_handlers_do_not_trip_the_watchdog_and_their_reports_arrive() {
    const WATCHDOG: Duration = Duration::from_secs(35);
    const TEST_TIMEOUT: Duration = Duration::from_mins(3);
    let service = Service::start().await;
    let mut gateways = Vec::new();
    // Gateways with a handler of 30 s, after pauses of different lengths ...
    for pause in [2, 5, 7, 9] {
        let name = format!("idle-{pause}");
        let (id, guard) = gateway(&service, &name, Duration::from_secs(30), WATCHDOG).await;
        gateways.push((Duration::from_secs(pause), id, 1, guard));
    }
    // ... and one that was quick before eight events of 6 s arrive at once.
    let (id, guard) = gateway(&service, "busy", Duration::from_secs(6), WATCHDOG).await;
    burst(&service, &id, "quick", 20).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 20).await;
    gateways.push((Duration::from_secs(1), id, 28, guard));
    let undisturbed = gateways.iter().map(|(pause, id, confirmed, _)| {
        let service = &service;
        async move {
            crate::support::pause(*pause).await;
            burst(service, id, "slow", if *confirmed == 1 { 1 } else { 8 }).await;
            confirms_undisturbed(service, id, *confirmed, TEST_TIMEOUT).await;
        }
    });
    futures_util::future::join_all(undisturbed).await;
    // Each slow deployment was reported as applied.
    let is_applied = |attempt: &Value| attempt["outcome"] == "applied";
    for (_, id, last, _) in &gateways {
        for number in 0..if *last == 1 { 1 } else { 8 } {
            let path = format!("/events/{id}-slow-{number}");
            let attempts = |event: &Value| event["deliveries"][0]["attempts"].as_array().cloned();
            let applied = |event: &Value| attempts(event).is_some_and(|a| a.iter().any(is_applied));
            service.eventually(&path, applied).await;
        }
    }
}

/// At an eighth of these values: a gateway that was quick long enough to receive groups, then
/// paused, then became slow.
#[tokio::test]
async fn a_quick_gateway_that_turns_slow_after_a_pause_keeps_its_connection() {
    let service = Service::start_with(&[
        ("DELIVERY__CONFIRMATION_TIMEOUT", "8s"),
        ("DELIVERY__HEARTBEAT_INTERVAL", "1s"),
    ])
    .await;
    let (watchdog, slow) = (Duration::from_millis(4_400), Duration::from_millis(800));
    let (id, _guard) = gateway(&service, "one", slow, watchdog).await;
    for round in 1..=5 {
        burst(&service, &id, &format!("quick-{round}"), 60).await;
        let path = format!("/gateways/{id}");
        service.eventually(&path, |shown| shown["confirmed"] == 60 * round).await;
    }
    pause(Duration::from_secs(3)).await;
    burst(&service, &id, "slow", 8).await;
    confirms_undisturbed(&service, &id, 308, crate::support::TEST_TIMEOUT).await;
}

/// A gateway that received groups and then hangs has no more time than another.
#[tokio::test]
async fn hanging_gateway_is_disconnected_within_one_confirmation_timeout() {
    const CONFIRMATION: Duration = Duration::from_secs(4);
    let service = Service::start_with(&[("DELIVERY__CONFIRMATION_TIMEOUT", "4s")]).await;
    let forever = Duration::from_hours(1);
    let (id, _guard) = gateway(&service, "one", forever, forever).await;
    for round in 1..=5 {
        burst(&service, &id, &format!("quick-{round}"), 60).await;
        let path = format!("/gateways/{id}");
        service.eventually(&path, |shown| shown["confirmed"] == 60 * round).await;
    }
    burst(&service, &id, "slow", 8).await;
    let path = format!("/deliveries?gatewayId={id}&reason=confirmation_timeout");
    let failed = service
        .eventually_within(20 * CONFIRMATION, &path, |page| {
            page["list"].as_array().is_some_and(|list| !list.is_empty())
        })
        .await;
    let attempt = &failed["list"][0]["attempts"][0];
    let at = |name: &str| {
        let text = attempt[name].as_str().expect("an instant");
        Timestamp::parse(text).expect("RFC 3339")
    };
    let after = at("finishedAt").since(at("startedAt"));
    assert!(after < 10 * CONFIRMATION, "noticed only after {after:?}: {failed:#}");
}
