//! Long polls that repeat what an earlier one said, or say what has long been known.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::ended;
use super::long_poll::Peer;
use crate::both_databases::{Backend, on_both};
use crate::reliable::publish;
use crate::support::Service;

on_both! {
    a_repeated_request_does_not_confirm_a_snapshot
    an_acknowledgement_from_before_a_gap_does_not_confirm_it
    skipped_events_do_not_cause_a_gap
    stale_acknowledgement_does_not_delay_delivery
}

const ATTEMPTS: (&str, &str) = ("LIMITS__ATTEMPTS_PER_MINUTE", "100");

/// Publishes three events, which an instance confirms. Returns its position.
async fn three_confirmed(service: &Service, id: &str, peer: &Peer) -> String {
    publish(service, id, 1, 3).await;
    let (_, position) = peer.until("instance=a", 3).await;
    let confirm = format!("instance=a&after={position}&ack={position}&wait=0s");
    assert_eq!(peer.poll(&confirm).await.status, 204);
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 3).await;
    position
}

async fn request_resync(service: &Service, id: &str) {
    service.admin().post(&format!("/gateways/{id}/resync"), &json!({})).await.success();
}

async fn until_resync_is(service: &Service, id: &str, state: &str) {
    let path = format!("/gateways/{id}/instances");
    service.eventually(&path, |list| list["resyncs"][0]["state"] == state).await;
}

/// The answer to a request, which must be a gap up to this sequence.
async fn gap(peer: &Peer, query: &str, resume_at: i64) -> Value {
    let answer = peer.poll(query).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.success();
    assert_eq!(answer["gap"]["resumeAt"], resume_at, "{answer}");
    answer
}

async fn a_repeated_request_does_not_confirm_a_snapshot(backend: Backend) {
    let service = backend.start_with(&[ATTEMPTS]).await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    let position = three_confirmed(&service, &id, &peer).await;
    request_resync(&service, &id).await;
    let again = format!("instance=a&after={position}&ack={position}&wait=5s");
    // The gateway has confirmed everything before, so that the snapshot ends at the same position.
    let first = gap(&peer, &again, 3).await;
    assert_eq!(first["gap"]["reason"], "resync");
    // Each answer is lost.
    for _ in 0..3 {
        let repeated = gap(&peer, &again, 3).await;
        assert_eq!(repeated["connectionId"], first["connectionId"]);
    }
    let other = format!("{again}&snapshot=01890a5d-ac96-774b-bcce-b302099a8057");
    let connection = gap(&peer, &other, 3).await["connectionId"].clone();
    until_resync_is(&service, &id, "started").await;
    publish(&service, &id, 4, 4).await;
    let connection = connection.as_str().expect("an id");
    let read = format!("{again}&snapshot={connection}");
    assert_eq!(peer.events(&read).await.0, [4]);
    until_resync_is(&service, &id, "done").await;
}

async fn an_acknowledgement_from_before_a_gap_does_not_confirm_it(backend: Backend) {
    let service = backend.start_with(&[ATTEMPTS]).await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    publish(&service, &id, 1, 3).await;
    let (_, position) = peer.until("instance=a", 3).await;
    request_resync(&service, &id).await;
    // The gateway has not applied what it has, when it requests more.
    let answer = gap(&peer, &format!("instance=a&after={position}&wait=5s"), 3).await;
    // It has by now, and has not seen the gap.
    gap(&peer, &format!("instance=a&after={position}&ack={position}&wait=5s"), 3).await;
    until_resync_is(&service, &id, "started").await;
    // A frame of the connection that the gap came from confirms it, too.
    let connection = answer["connectionId"].as_str().expect("an id");
    let ack = json!({"type": "delivery.ack", "applied": 3});
    assert_eq!(peer.post_to(connection, &ack).await.status, 204);
    until_resync_is(&service, &id, "done").await;
    publish(&service, &id, 4, 4).await;
    let next = format!("instance=a&after={position}&ack={position}");
    assert_eq!(peer.events(&next).await.0, [4]);
}

async fn skipped_events_do_not_cause_a_gap(backend: Backend) {
    let service = backend.start_with(&[ATTEMPTS]).await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    let position = three_confirmed(&service, &id, &peer).await;
    let gateway = format!("/gateways/{id}");
    service.admin().post(&format!("{gateway}/pause"), &json!({})).await.success();
    publish(&service, &id, 4, 4).await;
    let skip = json!({"sequence": 4, "reason": "outdated"});
    service.admin().post(&format!("{gateway}/skip"), &skip).await.success();
    service.admin().post(&format!("{gateway}/resume"), &json!({})).await.success();
    let next = format!("instance=a&after={position}&ack={position}");
    let waiting = tokio::spawn({
        let (peer, query) = (peer.clone(), format!("{next}&wait=20s"));
        async move { peer.poll(&query).await.success() }
    });
    service.eventually(&gateway, |shown| shown["confirmed"] == 4).await;
    publish(&service, &id, 5, 5).await;
    let events = waiting.await.expect("answered")["events"].clone();
    assert_eq!((&events[0]["sequence"], &events[0]["previous"]), (&json!(5), &json!(3)));
    // The gateway could not apply it.
    let nack = json!({"type": "delivery.nack", "sequence": 5, "code": "overloaded",
        "retryable": true, "retryAfterMs": 0});
    assert_eq!(peer.post("a", &nack).await.status, 204);
    let (epoch, _) = position.split_once('.').expect("a position");
    let again = peer.poll(&format!("instance=a&after={epoch}.5")).await.success()["events"].clone();
    assert_eq!((&again[0]["sequence"], &again[0]["previous"]), (&json!(5), &json!(3)), "{again}");
}

async fn stale_acknowledgement_does_not_delay_delivery(backend: Backend) {
    let service = backend.start_with(&[ATTEMPTS, ("RELIABLE__WINDOW", "2")]).await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    publish(&service, &id, 1, 6).await;
    let (mut sequences, mut position) = peer.events("instance=a").await;
    while sequences.len() < 6 {
        let next = format!("instance=a&after={position}&ack={position}");
        let (more, after) = peer.events(&next).await;
        sequences.extend(more);
        position = after;
    }
    let (epoch, _) = position.split_once('.').expect("a position");
    let confirm = format!("instance=a&after={position}&ack={position}&wait=0s");
    assert_eq!(peer.poll(&confirm).await.status, 204);
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 6).await;
    let past = format!("/gateways/{id}/connections?status=all");
    let none_is_live = |shown: &Value| {
        let all = shown["list"].as_array().expect("a list");
        all.iter().all(|connection| connection["status"] == "closed") && ended(shown)
    };
    service.eventually(&past, none_is_live).await;
    // The window has no room for what the gateway has confirmed long ago.
    publish(&service, &id, 7, 7).await;
    let stale = format!("instance=a&after={epoch}.6&ack={epoch}.2&wait=10s");
    assert_eq!(peer.events(&stale).await.0, [7]);
    let applied = format!("instance=a&after={epoch}.7&ack={epoch}.7&wait=0s");
    assert_eq!(peer.poll(&applied).await.status, 204);
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 7).await;
    // Without a position, delivery continues where it was.
    service.eventually(&past, none_is_live).await;
    publish(&service, &id, 8, 8).await;
    assert_eq!(peer.events(&format!("instance=a&ack={epoch}.2&wait=10s")).await.0, [8]);
    // On the same connection.
    publish(&service, &id, 9, 9).await;
    let stale = format!("instance=a&after={epoch}.8&ack={epoch}.1&wait=10s");
    assert_eq!(peer.events(&stale).await.0, [9]);
}

#[tokio::test]
async fn answers_that_are_never_read_are_limited() {
    const MAX_CONNECTIONS: usize = 8;
    let most = MAX_CONNECTIONS.to_string();
    let settings =
        [("LIMITS__ATTEMPTS_PER_MINUTE", most.as_str()), ("DELIVERY__MAX_ATTEMPTS", "100")];
    let service = Service::start_with(&settings).await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    publish(&service, &id, 1, 1).await;
    let mut answered = 0;
    let refused = loop {
        let answer = peer.poll("instance=a&wait=1s").await;
        if answer.status == 429 {
            break answer;
        }
        assert_eq!(answer.success()["events"][0]["sequence"], 1);
        answered += 1;
        assert!(
            answered <= 2 * MAX_CONNECTIONS,
            "each repeat opens a connection, and none is refused"
        );
    };
    refused.refusal(429, "too_many_attempts");
}

#[tokio::test]
async fn retries_of_a_rejected_event_are_spaced_further_apart() {
    const NACKS: u32 = 6;
    let settings = [ATTEMPTS, ("DELIVERY__POISON", "block"), ("DELIVERY__MAX_ATTEMPTS", "100")];
    let service = Service::start_with(&settings).await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    publish(&service, &id, 1, 1).await;
    let (_, position) = peer.events("instance=a").await;
    let nack = json!({"type": "delivery.nack", "sequence": 1, "code": "overloaded",
        "retryable": true, "retryAfterMs": 0});
    let began = Instant::now();
    for _ in 0..NACKS {
        assert_eq!(peer.post("a", &nack).await.status, 204);
        assert_eq!(peer.events(&format!("instance=a&after={position}")).await.0, [1]);
    }
    // The first time at once, then after 100 ms, 200 ms, and so on, up to a second.
    assert!(began.elapsed() >= Duration::from_millis(100 + 200 + 400 + 800 + 1000));
}
