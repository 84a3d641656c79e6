//! What happens between two polls counts for the second one, and a gateway can't confirm what it was
//! not answered.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::long_poll::Peer;
use crate::both_databases::{Backend, on_both};
use crate::reliable::publish;
use crate::support::http::reply;
use crate::support::{Service, deployed};

on_both! {
    events_that_were_not_answered_cannot_be_acknowledged
    a_purged_event_is_not_answered
    a_skipped_or_expired_event_is_not_answered
    a_paused_gateway_is_answered_nothing
    the_end_of_a_gap_beyond_the_log_is_confirmed_by_ack
}

/// Lets as much time pass as events may wait for a request before they are read again, and more.
async fn pass_time() {
    let wait = Duration::from_secs(1);
    tokio::time::timeout(wait, std::future::pending::<()>()).await.expect_err("it passes");
}

/// A gateway that has been answered the first of some events. Its query resumes after that.
async fn answered_one(service: &Service, name: &str, events: &[Value]) -> (String, Peer, String) {
    let (id, key) = service.gateway(name).await;
    let peer = Peer::new(service, &key);
    if events.is_empty() {
        publish(service, &id, 1, 5).await;
    }
    for event in events {
        let mut event = event.clone();
        event["gatewayIds"] = json!([id]);
        service.api().post("/events", &event).await.expect("accepted");
    }
    let (sequences, position) = peer.events("instance=a&max=1").await;
    assert_eq!(sequences, [1]);
    let query = format!("instance=a&after={position}&ack={position}");
    (id, peer, query)
}

async fn start(backend: &Backend) -> Service {
    backend.start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await
}

async fn events_that_were_not_answered_cannot_be_acknowledged(backend: Backend) {
    let service = start(&backend).await;
    let frames = [
        json!({"type": "delivery.ack", "applied": 2}),
        json!({"type": "delivery.ack", "received": 5}),
        json!({"type": "delivery.nack", "sequence": 3, "code": "invalid", "retryable": false}),
        json!({"type": "delivery.progress", "sequence": 2}),
    ];
    for (nth, frame) in frames.into_iter().enumerate() {
        let (id, peer, query) = answered_one(&service, &format!("gateway-{nth}"), &[]).await;
        assert_eq!(peer.post("a", &frame).await.status, 204, "it is valid");
        let past = format!("/gateways/{id}/connections?status=all");
        let shown = service.eventually(&past, super::ended).await;
        let closed = super::closed(&shown).expect("one that has ended");
        assert_eq!(closed["closeReason"], "protocol_error", "{frame}: {closed:#}");
        let gateway = service.admin().get(&format!("/gateways/{id}")).await.success();
        assert_eq!(gateway["confirmed"], 0, "{frame}");
        let log = service.admin().get(&format!("/gateways/{id}/log")).await.success();
        for entry in log["list"].as_array().expect("rows") {
            assert_eq!(entry["state"], "pending", "{frame}: {entry}");
        }
        assert_eq!(peer.events(&query).await.0, [2, 3, 4, 5], "{frame}");
    }
}

async fn a_purged_event_is_not_answered(backend: Backend) {
    let service = start(&backend).await;
    let (id, peer, query) = answered_one(&service, "one", &[]).await;
    let log = service.admin().get(&format!("/gateways/{id}/log")).await.success();
    let two = log["list"][1]["eventId"].as_str().expect("an id");
    let purge = json!({"reason": "a leaked secret"});
    let path = format!("/events/{two}/payload");
    let request = service.admin().request(Method::DELETE, &path).json(&purge);
    reply(request).await.success();
    pass_time().await;
    let answer = peer.poll(&query).await.success();
    assert_eq!(answer["events"], json!([]), "{answer:#}");
    assert_eq!(answer["gap"]["reason"], "purged", "{answer:#}");
}

async fn a_skipped_or_expired_event_is_not_answered(backend: Backend) {
    let event = |deployment: &str| deployed(&[], deployment);
    let mut expiring = event("d-3");
    expiring["ttlSeconds"] = json!(2);
    let events = [event("d-1"), event("d-2"), expiring, event("d-4")];
    let service = start(&backend).await;
    let (id, peer, query) = answered_one(&service, "one", &events).await;
    let reason = json!({"reason": "it blocks", "sequence": 2});
    service.admin().post(&format!("/gateways/{id}/skip"), &reason).await.success();
    pass_time().await;
    pass_time().await;
    assert_eq!(peer.events(&query).await.0, [4]);
}

async fn a_paused_gateway_is_answered_nothing(backend: Backend) {
    let service = start(&backend).await;
    let (id, peer, query) = answered_one(&service, "one", &[]).await;
    let nothing = format!("{query}&wait=200ms");
    let reason = json!({"reason": "an upgrade"});
    service.admin().post(&format!("/gateways/{id}/pause"), &reason).await.success();
    pass_time().await;
    assert_eq!(peer.poll(&nothing).await.status, 204, "it is paused");
    service.admin().post(&format!("/gateways/{id}/resume"), &json!({})).await.success();
    assert_eq!(peer.events(&format!("{query}&max=1")).await.0, [2]);
    // The gateway pauses delivery itself.
    let credit = |window: i64| json!({"type": "delivery.credit", "window": window});
    let nothing = nothing.replace(".1&", ".2&");
    assert_eq!(peer.post("a", &credit(0)).await.status, 204);
    assert_eq!(peer.poll(&nothing).await.status, 204, "it takes nothing");
    assert_eq!(peer.post("a", &credit(8)).await.status, 204);
    // An answer has what is there when the request arrives. What is not confirmed counts as failed.
    let (mut all, mut query) = (vec![], query.replace(".1", ".2"));
    while all.len() < 3 {
        let (sequences, position) = peer.events(&query).await;
        all.extend(sequences);
        query = format!("instance=a&after={position}&ack={position}");
    }
    assert_eq!(all, [3, 4, 5]);
}

async fn the_end_of_a_gap_beyond_the_log_is_confirmed_by_ack(backend: Backend) {
    let service = start(&backend).await;
    let (id, peer, query) = answered_one(&service, "one", &[]).await;
    let (_, rest) = query.split_once("after=").expect("a position");
    let (epoch, _) = rest.split_once('.').expect("a position");
    let at = |sequence: i64| format!("instance=a&after={epoch}.{sequence}&ack={epoch}.{sequence}");
    let answer = peer.poll(&at(100)).await.success();
    assert_eq!(answer["gap"]["resumeAt"], 5, "{answer:#}");
    publish(&service, &id, 6, 6).await;
    assert_eq!(peer.events(&at(5)).await.0, [6]);
}
