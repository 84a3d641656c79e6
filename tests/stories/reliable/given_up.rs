//! Events that are given up: what follows them is delivered, and what was never sent is not confirmed.

use std::time::Duration;

use gateway_events::clock::Timestamp;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::peer::Peer;
use super::{publish, with_events};
use crate::both_databases::{Backend, on_both};
use crate::support::{Service, deployed};

on_both! {
    an_event_that_ends_connections_is_passed_over_whatever_the_gateway_resumes_from
    lost_connection_is_not_attributed_to_an_event_with_progress
    a_retry_of_a_skipped_event_sends_again_what_follows_it
    a_rejected_event_is_not_sent_again_to_a_gateway_that_resumes_before_it
    a_skip_ends_the_wait_for_a_retry
    an_event_that_expires_before_its_retry_holds_back_nothing
    a_position_does_not_confirm_what_was_skipped_before_it_was_sent
}

/// The failed delivery of this sequence, once there is one.
async fn failed(service: &Service, id: &str, sequence: i64) -> Value {
    let path = format!("/deliveries?gatewayId={id}");
    let is_it = |row: &Value| row["sequence"] == sequence && row["state"] == "failed";
    let has_it = |page: &Value| page["list"].as_array().is_some_and(|rows| rows.iter().any(is_it));
    let page = service.eventually(&path, has_it).await;
    let rows = page["list"].as_array().expect("rows");
    rows.iter().find(|row| is_it(row)).expect("it was found").clone()
}

/// Asserts that an attempt failed for this reason. There may be others, at which the gateway was not
/// connected.
#[track_caller]
fn has_attempt(row: &Value, reason: &str) {
    let attempts = row["attempts"].as_array().expect("attempts");
    assert!(attempts.iter().any(|attempt| attempt["reason"] == reason), "{row:#}");
}

/// Connects an instance that has stored this position.
async fn resume(service: &Service, key: &str, epoch: &Value, sequence: i64) -> Peer {
    let resume = json!({"epoch": epoch, "sequence": sequence});
    Peer::connect(service, key, json!({"instance": "a", "resume": resume, "window": 1})).await
}

/// The epoch of a gateway's log, which must be empty: the connection confirms nothing.
async fn epoch(service: &Service, key: &str) -> Value {
    let mut peer = Peer::greet(service, key).await;
    peer.hello(json!({"instance": "a"})).await;
    peer.frame().await["epoch"].clone()
}

/// A gateway with this many events.
async fn with_epoch(backend: &Backend, events: i64) -> (Service, String, String, Value) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let epoch = epoch(&service, &key).await;
    publish(&service, &id, 1, events).await;
    (service, id, key, epoch)
}

async fn an_event_that_ends_connections_is_passed_over_whatever_the_gateway_resumes_from(
    backend: Backend,
) {
    const ATTEMPTS: i64 = 3;
    let settings = [("DELIVERY__MAX_ATTEMPTS", "3"), ("LIMITS__ATTEMPTS_PER_MINUTE", "1000")];
    let service = backend.start_with(&settings).await;
    let (id, key) = service.gateway("one").await;
    let epoch = epoch(&service, &key).await;
    publish(&service, &id, 1, 3).await;
    let attempts = format!("/deliveries?gatewayId={id}");
    for attempt in 1..=ATTEMPTS {
        let mut peer = resume(&service, &key, &epoch, 0).await;
        peer.event(1).await;
        drop(peer);
        let lost = |row: &Value| row["attemptCount"].as_i64() >= Some(attempt);
        let has_it =
            |page: &Value| page["list"].as_array().is_some_and(|rows| rows.iter().any(lost));
        service.eventually(&attempts, has_it).await;
    }
    let given_up = failed(&service, &id, 1).await;
    let mut peer = resume(&service, &key, &epoch, 0).await;
    peer.event(2).await;
    peer.applied(2).await;
    peer.event(3).await;
    peer.applied(3).await;
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 3).await;
    assert_eq!(given_up["attemptCount"], failed(&service, &id, 1).await["attemptCount"]);

    // Nor is it sent to an instance that has not tried it: it would end its connections, too.
    let earliest = json!({"instance": "b", "resume": "earliest", "window": 1});
    let mut peer = Peer::connect(&service, &key, earliest).await;
    let event = peer.event(2).await;
    assert_eq!(event["previous"], 0, "{event}");
}

async fn a_rejected_event_is_not_sent_again_to_a_gateway_that_resumes_before_it(backend: Backend) {
    let (service, id, key, epoch) = with_epoch(&backend, 2).await;
    let mut peer = resume(&service, &key, &epoch, 0).await;
    peer.event(1).await;
    let no = json!({
        "type": "delivery.nack", "sequence": 1, "code": "invalid", "retryable": false
    });
    peer.send(&no).await;
    peer.event(2).await;
    failed(&service, &id, 1).await;
    drop(peer);
    let mut peer = resume(&service, &key, &epoch, 0).await;
    peer.event(2).await;
}

async fn lost_connection_is_not_attributed_to_an_event_with_progress(backend: Backend) {
    const ENDS: usize = 5;
    let settings = [("DELIVERY__MAX_ATTEMPTS", "2"), ("LIMITS__ATTEMPTS_PER_MINUTE", "1000")];
    let service = backend.start_with(&settings).await;
    let (id, key) = service.gateway("one").await;
    let stored = service.admin().post("/events", &deployed(&[&id], "d-1")).await.success();
    let event = format!("/events/{}", stored["id"].as_str().expect("an id"));
    // Between two connections there may be attempts without one, too.
    let ends = |event: &Value| {
        let attempts = event["deliveries"][0]["attempts"].as_array().expect("attempts");
        attempts.iter().filter(|attempt| attempt["reason"] != "not_connected").count()
    };
    let progress = json!({"type": "delivery.progress", "sequence": 1});
    for end in 1..=ENDS + 2 {
        let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
        peer.event(1).await;
        if end <= ENDS {
            peer.send(&progress).await;
        }
        peer.message(Message::Close(None)).await;
        peer.closed().await;
        let shown = service.eventually(&event, |event| ends(event) == end).await;
        let delivery = &shown["deliveries"][0];
        let state = if end < ENDS + 2 { "pending" } else { "failed" };
        assert_eq!(delivery["state"], state, "after {end} ends: {delivery:#}");
    }
}

async fn a_retry_of_a_skipped_event_sends_again_what_follows_it(backend: Backend) {
    let (service, id, key) = with_events(&backend, 2).await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    for sequence in 1..=2 {
        peer.event(sequence).await;
    }
    let skip = json!({"sequence": 1, "reason": "hangs"});
    service.admin().post(&format!("/gateways/{id}/skip"), &skip).await.success();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;
    peer.send(&retry_in_an_hour(1)).await;
    // The gateway has dropped it.
    let next = peer.event(2).await;
    let sent = (&next["sequence"], &next["previous"], &next["attempt"]);
    assert_eq!(sent, (&json!(2), &json!(0), &json!(2)), "{next}");
    peer.applied(2).await;
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 2).await;
}

fn retry_in_an_hour(sequence: i64) -> Value {
    json!({
        "type": "delivery.nack", "sequence": sequence, "code": "overloaded", "retryable": true,
        "retryAfterMs": 3_600_000
    })
}

async fn a_skip_ends_the_wait_for_a_retry(backend: Backend) {
    let (service, id, key) = with_events(&backend, 3).await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    for sequence in 1..=3 {
        peer.event(sequence).await;
    }
    peer.send(&retry_in_an_hour(1)).await;
    peer.receives_nothing().await;
    let skip = json!({"sequence": 1, "reason": "hangs"});
    service.admin().post(&format!("/gateways/{id}/skip"), &skip).await.success();
    // No mark before it: the gateway awaits events after its refusal.
    let next = peer.frame().await;
    assert_eq!((&next["sequence"], &next["previous"]), (&json!(2), &json!(0)), "{next}");
    peer.event(3).await;
    peer.applied(3).await;
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 3).await;
}

async fn an_event_that_expires_before_its_retry_holds_back_nothing(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    let mut event = deployed(&[&id], "d-1");
    event["expiresAt"] = json!(Timestamp::now().plus(Duration::from_secs(10)).to_string());
    service.api().post("/events", &event).await.expect("accepted");
    peer.event(1).await;
    peer.send(&retry_in_an_hour(1)).await;
    publish(&service, &id, 2, 2).await;
    peer.event(2).await;
    peer.applied(2).await;
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 2).await;
    has_attempt(&failed(&service, &id, 1).await, "expired");
}

async fn a_position_does_not_confirm_what_was_skipped_before_it_was_sent(backend: Backend) {
    let (service, id, key, epoch) = with_epoch(&backend, 3).await;
    let skip = json!({"sequence": 2, "reason": "harmful"});
    service.admin().post(&format!("/gateways/{id}/skip"), &skip).await.success();
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    peer.event(1).await;
    peer.event(3).await;
    drop(peer);
    let mut peer = resume(&service, &key, &epoch, 3).await;
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 3).await;
    has_attempt(&failed(&service, &id, 2).await, "skipped");
    let redriven = json!({"gatewayId": id, "sequence": 2});
    let redriven = service.admin().post("/deliveries/redrive", &redriven).await.success();
    assert_eq!(redriven["redriven"][0]["newSequence"], 4, "{redriven}");
    peer.event(4).await;
}
