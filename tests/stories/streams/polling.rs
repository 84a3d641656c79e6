//! What long polls confirm, and requests that take each other's place.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::ended;
use super::long_poll::Peer;
use crate::both_databases::{Backend, on_both};
use crate::reliable::peer::Peer as Socket;
use crate::reliable::publish;
use crate::support::Service;

const OTHER_LOG: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

on_both! {
    poll_confirms_by_ack_only
    a_position_far_behind_is_caught_up_with
    unanswered_polls_do_not_count_as_failed_attempts
    a_gap_at_the_beginning_of_a_log_is_confirmed
}

async fn confirmed(service: &Service, id: &str) -> Value {
    service.api().get(&format!("/gateways/{id}")).await.expect("shown")["confirmed"].clone()
}

/// Another position in the same log.
fn elsewhere(position: &str, sequence: i64) -> String {
    let (epoch, _) = position.split_once('.').expect("a position");
    format!("{epoch}.{sequence}")
}

/// Waits until a connection is live.
async fn connected(service: &Service) {
    service.eventually("/connections?status=connected", |shown| shown["count"] == 1).await;
}

async fn poll_confirms_by_ack_only(backend: Backend) {
    let service = backend.start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    publish(&service, &id, 1, 10).await;
    let (_, position) = peer.until("instance=a", 10).await;
    let at = |sequence: i64| elsewhere(&position, sequence);
    // Each other name stands for a node that does not have the connection of the first requests.
    let read = format!("instance=b&after={position}&wait=100ms");
    assert_eq!(peer.poll(&read).await.status, 204, "the gateway has all events");
    assert_eq!(confirmed(&service, &id).await, 0);
    publish(&service, &id, 11, 11).await;
    let applied = format!("instance=c&after={position}&ack={}", at(5));
    let (sequences, last) = peer.events(&applied).await;
    assert_eq!(sequences, [11]);
    let shown = format!("/gateways/{id}");
    service.eventually(&shown, |shown| shown["confirmed"] == 5).await;
    let all = format!("instance=c&after={last}&ack={last}&wait=100ms");
    assert_eq!(peer.poll(&all).await.status, 204);
    service.eventually(&shown, |shown| shown["confirmed"] == 11).await;
    // A gateway that has lost events gets them again, even if it has confirmed them.
    assert_eq!(peer.events(&format!("instance=c&after={}", at(8))).await.0[0], 9);
}

async fn a_position_far_behind_is_caught_up_with(backend: Backend) {
    let settings = [("RELIABLE__WINDOW", "2"), ("LIMITS__ATTEMPTS_PER_MINUTE", "100")];
    let service = backend.start_with(&settings).await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    publish(&service, &id, 1, 9).await;
    let (_, first) = peer.events("instance=a&max=1").await;
    let position = elsewhere(&first, 9);
    // The window is full of events that the gateway has.
    let waiting = tokio::spawn({
        let (peer, query) = (peer.clone(), format!("instance=b&after={position}"));
        async move { peer.events(&query).await }
    });
    service.eventually("/connections?status=connected", |shown| shown["count"] == 2).await;
    let ack = json!({"type": "delivery.ack", "applied": 8});
    assert_eq!(peer.post("b", &ack).await.status, 204);
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 8).await;
    publish(&service, &id, 10, 10).await;
    assert_eq!(waiting.await.expect("answered").0, [10]);
}

async fn unanswered_polls_do_not_count_as_failed_attempts(backend: Backend) {
    let service = backend.start_with(&[("DELIVERY__MAX_ATTEMPTS", "1")]).await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    assert_eq!(peer.poll("instance=a&wait=0s").await.status, 204);
    publish(&service, &id, 1, 1).await;
    // No request comes while the connection lives.
    let past = format!("/gateways/{id}/connections?status=all");
    let shown = service.eventually(&past, ended).await;
    assert_eq!(shown["list"][0]["closeReason"], "heartbeat_timeout");
    let log = service.api().get(&format!("/gateways/{id}/log")).await.expect("a log");
    assert_eq!(log["list"][0]["state"], "pending", "{log}");
    // A request that waits for nothing gets what is there.
    let answer = loop {
        let answer = peer.poll("instance=a&wait=0s").await;
        if answer.status != 204 {
            break answer.success();
        }
    };
    assert_eq!(answer["events"][0]["sequence"], 1);
    // It was not connected for a while, which is no fault of the event.
    let blamed = "/deliveries?status=failed&reason=heartbeat_timeout";
    let failed = service.admin().get(blamed).await.success();
    assert_eq!(failed["count"], 0, "{failed}");
}

async fn a_gap_at_the_beginning_of_a_log_is_confirmed(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    let gap = peer.poll(&format!("instance=a&after={OTHER_LOG}.2")).await.success()["gap"].clone();
    assert_eq!((&gap["reason"], &gap["resumeAt"]), (&json!("epoch"), &json!(0)), "{gap}");
    publish(&service, &id, 1, 1).await;
    let start = format!("{}.0", gap["epoch"].as_str().expect("an epoch"));
    let unread = peer.poll(&format!("instance=a&after={start}&wait=100ms")).await;
    assert_eq!(unread.status, 204, "{}", unread.body);
    let read = format!("instance=a&after={start}&ack={start}&wait=10s");
    assert_eq!(peer.events(&read).await.0, [1]);
}

#[tokio::test]
async fn a_revoked_key_ends_its_own_requests_and_no_others() {
    let service = Service::start().await;
    let (id, first) = service.gateway("one").await;
    let tokens = format!("/gateways/{id}/tokens");
    let listed = service.api().get(&tokens).await.expect("tokens");
    let first_id = listed["list"][0]["id"].as_str().expect("an id").to_owned();
    let another = async || {
        let created = service.api().post(&tokens, &json!({})).await.expect("a key");
        let text = |name: &str| created[name].as_str().expect("text").to_owned();
        (text("id"), text("token"))
    };
    let revoke = async |key: &str| {
        service.api().delete(&format!("{tokens}/{key}")).await.expect("revoked");
    };
    let wait = |key: &str, position: &str| {
        let query = format!("instance=a&after={position}&ack={position}");
        let peer = Peer::new(&service, key);
        tokio::spawn(async move { peer.poll(&query).await })
    };
    // The gateway changes its key while its connection lives.
    publish(&service, &id, 1, 1).await;
    let (_, position) = Peer::new(&service, &first).events("instance=a").await;
    let (_, second) = another().await;
    let waiting = wait(&second, &position);
    service.eventually(&format!("/gateways/{id}/connections?status=all"), ended).await;
    revoke(&first_id).await;
    publish(&service, &id, 2, 2).await;
    let answer = waiting.await.expect("answered").success();
    assert_eq!(answer["events"][0]["sequence"], 2);
    // It changes its key again, and that one is revoked.
    let (third_id, third) = another().await;
    let waiting = wait(&third, &elsewhere(&position, 2));
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 2).await;
    revoke(&third_id).await;
    waiting.await.expect("answered").refusal(401, "unauthorized");
}

#[tokio::test]
async fn poll_of_a_replaced_connection_opens_no_other() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    let waiting = tokio::spawn(async move { peer.poll("instance=a&wait=20s").await });
    connected(&service).await;
    let mut socket = Socket::connect(&service, &key, json!({"instance": "a"})).await;
    assert_eq!(waiting.await.expect("answered").status, 204);
    publish(&service, &id, 1, 1).await;
    socket.event(1).await;
}

#[tokio::test]
async fn replaced_poll_is_answered_after_a_second() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let peer = Peer::new(&service, &key);
    let wait = || {
        let peer = peer.clone();
        tokio::spawn(async move { peer.poll("wait=20s").await })
    };
    let earlier = wait();
    connected(&service).await;
    let began = Instant::now();
    let later = wait();
    assert_eq!(earlier.await.expect("answered").status, 204);
    assert!(began.elapsed() >= Duration::from_millis(900));
    publish(&service, &id, 1, 1).await;
    assert_eq!(later.await.expect("answered").success()["events"][0]["sequence"], 1);
}
