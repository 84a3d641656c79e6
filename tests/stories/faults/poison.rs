//! Poison events: a gateway crashes on them, or never confirms them.

use serde_json::{Value, json};

use crate::raw_gateway::{CLOSE, RawGateway};
use crate::support::{Service, deployed, get};

const ATTEMPTS: usize = 3;

/// Publishes three events, the first of which is a poison event.
async fn publish_three(service: &Service, id: &str) {
    let batch: Vec<Value> =
        ["d-1", "d-2", "d-3"].iter().map(|deployment| deployed(&[id], deployment)).collect();
    service.api().post("/events", &json!(batch)).await.expect("accepted");
}

/// The gateway receives the first event and disconnects, this many times.
async fn lose_connections(service: &Service, id: &str, key: &str, times: usize) -> Vec<Value> {
    let mut seen = Vec::new();
    for _ in 0..times {
        let mut gateway = RawGateway::connect(service, service.port, key).await;
        seen.push(gateway.event().await);
        let connection = gateway.connection_id.clone();
        drop(gateway);
        let path = format!("/gateways/{id}/connections");
        let ended = |one: &Value| one["connectionId"] == *connection && one["status"] == "closed";
        service
            .eventually(&path, |page| page["list"].as_array().is_some_and(|l| l.iter().any(ended)))
            .await;
    }
    seen
}

/// Confirms events in order, up to this one.
async fn confirm_in_order(
    service: &Service,
    id: &str,
    key: &str,
    sequences: std::ops::RangeInclusive<i64>,
) -> Vec<Value> {
    let last = *sequences.end();
    let mut gateway = service.connected(key).await;
    let events = gateway.expect(sequences).await;
    let gateway = gateway.serve();
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == last).await;
    gateway.abort();
    events
}

#[tokio::test]
async fn a_poison_event_becomes_a_dead_letter_and_can_be_redriven() {
    let service = Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", &ATTEMPTS.to_string())]).await;
    let (id, key) = service.gateway("one").await;
    publish_three(&service, &id).await;
    let tries = lose_connections(&service, &id, &key, ATTEMPTS).await;
    for event in &tries {
        assert_eq!(event["sequence"], 1);
        assert_eq!(event, &tries[0], "a repeat is the same, byte for byte");
    }
    let rest = confirm_in_order(&service, &id, &key, 2..=3).await;
    assert_eq!(rest[1]["payload"]["deploymentId"], "d-3");
    let event = tries[0]["eventId"].as_str().expect("an id");
    let path = format!("/deliveries?gatewayId={id}&eventId={event}");
    let page = get(&service.api(), &path).await.expect("a page");
    let dead = &page["list"][0];
    assert_eq!((&dead["state"], &dead["sequence"]), (&json!("failed"), &json!(1)), "{page:#}");
    let attempts = dead["attempts"].as_array().expect("attempts");
    let attributed =
        attempts.iter().filter(|attempt| attempt["reason"] == "connection_lost").count();
    assert_eq!(attributed, ATTEMPTS, "{page:#}");
    assert_eq!(dead["reason"], "connection_lost");
    // The events sent after it failed with it, and were delivered since.
    let path = format!("/deliveries?gatewayId={id}&reason=connection_lost");
    let page = get(&service.api(), &path).await.expect("a page");
    let of = |sequence: i64| {
        page["list"].as_array().and_then(|list| list.iter().find(|row| row["sequence"] == sequence))
    };
    assert_eq!(of(2).expect("the second")["deliveredSince"], true, "{page:#}");

    let redrive = json!({"gatewayId": id, "sequence": 1});
    let redriven = service.api().post("/deliveries/redrive", &redrive).await.expect("redriven");
    assert_eq!(redriven["redriven"][0]["newSequence"], 4, "{redriven:#}");
    let again = confirm_in_order(&service, &id, &key, 4..=4).await.remove(0);
    assert_eq!(again["eventId"], tries[0]["eventId"]);
    assert_eq!(again["correlationId"], tries[0]["correlationId"]);
    assert_eq!(again["payload"], tries[0]["payload"]);
    let shown = service.api().get(&format!("/events/{event}")).await.expect("the event");
    let states: Vec<_> = shown["deliveries"]
        .as_array()
        .expect("deliveries")
        .iter()
        .map(|delivery| (delivery["sequence"].clone(), delivery["state"].clone()))
        .collect();
    assert!(states.contains(&(json!(1), json!("failed"))), "{shown:#}");
    assert!(states.contains(&(json!(4), json!("delivered"))), "{shown:#}");
}

#[tokio::test]
async fn a_blocking_poison_event_holds_back_later_events_until_it_is_handled() {
    let service =
        Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", "2"), ("DELIVERY__POISON", "block")])
            .await;
    let (id, key) = service.gateway("one").await;
    publish_three(&service, &id).await;
    for event in lose_connections(&service, &id, &key, 2 * ATTEMPTS).await {
        assert_eq!(event["sequence"], 1);
    }
    let shown = service.api().get(&format!("/gateways/{id}")).await.expect("the gateway");
    assert_eq!(shown["confirmed"], 0);
    confirm_in_order(&service, &id, &key, 1..=3).await;
}

#[tokio::test]
async fn an_unconfirmed_event_ends_the_connection_and_is_sent_again_unchanged() {
    let service = Service::start_with(&[("DELIVERY__CONFIRMATION_TIMEOUT", "1s")]).await;
    let (id, key) = service.gateway("one").await;
    let mut gateway = RawGateway::connect(&service, service.port, &key).await;
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    let first = gateway.event().await;
    // It is alive and shows it, but never confirms this event.
    gateway.pong("").await;
    let close = gateway.next_of(CLOSE).await.expect("a close frame");
    assert_eq!(close.code(), 1011);
    drop(gateway);
    let path = format!("/gateways/{id}/connections");
    let past = service.eventually(&path, |page| page["list"][0]["status"] == "closed").await;
    assert_eq!(past["list"][0]["closeReason"], "confirmation_timeout", "{past:#}");
    let page = get(&service.api(), &format!("/deliveries?gatewayId={id}")).await.expect("a page");
    assert_eq!(page["list"][0]["reason"], "confirmation_timeout", "{page:#}");
    assert_eq!(page["list"][0]["state"], "pending");
    let again = confirm_in_order(&service, &id, &key, 1..=1).await.remove(0);
    for member in ["eventId", "correlationId", "sequence", "epoch", "payload"] {
        assert_eq!(again[member], first[member]);
    }
}

/// A disconnected replica makes every connection start earlier, so the poison event comes after
/// events that were confirmed before.
#[tokio::test]
async fn a_poison_event_is_given_up_after_max_attempts_wherever_connections_start() {
    const BEFORE: i64 = 12;
    let attempts = ATTEMPTS.to_string();
    let settings = [("DELIVERY__MAX_ATTEMPTS", &*attempts), ("DELIVERY__WINDOW_EVENTS", "1")];
    let service = Service::start_with(&settings).await;
    let (id, key) = service.gateway("cluster").await;
    let replicas = json!({"replicas": 2});
    service.api().patch(&format!("/gateways/{id}"), &replicas).await.expect("changed");
    let connections = format!("/gateways/{id}/connections?status=connected");
    let mut away = RawGateway::connect(&service, service.port, &key).await;
    away.send(true, CLOSE, &1000_u16.to_be_bytes()).await;
    while away.next().await.is_some() {}
    service.eventually(&connections, |page| page["count"] == 0).await;
    let batch: Vec<Value> =
        (1..=BEFORE + 2).map(|number| deployed(&[&id], &format!("d-{number}"))).collect();
    service.api().post("/events", &json!(batch)).await.expect("accepted");
    // The first event is sent each time, because the connection may be that of the disconnected
    // replica.
    let up_to_poison = async || {
        let mut gateway = RawGateway::connect(&service, service.port, &key).await;
        for sequence in 1..=BEFORE {
            assert_eq!(gateway.event().await["sequence"], sequence);
            gateway.receipt_asked(sequence).await;
            gateway.pong(&sequence.to_string()).await;
        }
        gateway.event().await["sequence"].as_i64().expect("a number")
    };
    for death in 1..=ATTEMPTS {
        assert_eq!(up_to_poison().await, BEFORE + 1, "death {death}");
        service.eventually(&connections, |page| page["count"] == 0).await;
    }
    let page = get(&service.api(), &format!("/deliveries?gatewayId={id}")).await.expect("a page");
    let dead = |row: &Value| row["sequence"] == BEFORE + 1 && row["state"] == "failed";
    assert!(page["list"].as_array().expect("a list").iter().any(dead), "{page:#}");
}
