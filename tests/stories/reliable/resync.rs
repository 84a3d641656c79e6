//! Resync requests: each instance reads a snapshot once, whatever ends its connections meanwhile.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::peer::Peer;
use super::{publish, with_events};
use crate::both_databases::{Backend, on_both};
use crate::server::Database;
use crate::support::Service;

on_both! {
    a_connected_instance_reconnects_and_reads_a_snapshot_once
    a_request_waits_for_the_next_connection_of_each_instance
    a_request_outlives_a_kill_and_an_interrupted_snapshot
    a_request_concerns_unnamed_connections_too
    a_gateway_that_has_only_used_plain_mode_is_refused
}

async fn request(service: &Service, id: &str, body: Value) -> Value {
    service.admin().post(&format!("/gateways/{id}/resync"), &body).await.success()
}

/// The states of the resyncs of a gateway, by instance.
fn states(list: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = list["resyncs"].as_array().expect("a list");
    all.iter().map(|one| (text(&one["instance"]), text(&one["state"]))).collect()
}

async fn until(service: &Service, id: &str, expected: &[(&str, &str)]) -> Value {
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect();
    let path = format!("/gateways/{id}/instances");
    service.eventually(&path, |list| states(list) == expected).await
}

/// Connects an instance, which must be sent the gap first.
async fn with_gap(service: &Service, key: &str, members: Value, from: i64, to: i64) -> Peer {
    let mut peer = Peer::greet(service, key).await;
    peer.hello(members).await;
    let gap = peer.frame().await;
    let shown = (&gap["type"], &gap["reason"], &gap["from"], &gap["to"], &gap["resumeAt"]);
    let expected = (&json!("delivery.gap"), &json!("resync"), &json!(from), &json!(to), &json!(to));
    assert_eq!(shown, expected, "{gap}");
    peer
}

/// It was asked to reconnect, and does.
async fn asked_to_reconnect(peer: &mut Peer) {
    let drain = peer.frame_of("connection.drain").await;
    assert_eq!((&drain["reason"], &drain["reconnectAfterMs"]), (&json!("resync"), &json!(0)));
    assert_eq!(peer.closed().await.0, 4001);
}

async fn a_connected_instance_reconnects_and_reads_a_snapshot_once(backend: Backend) {
    let (service, id, key) = with_events(&backend, 3).await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    for sequence in 1..=3 {
        peer.event(sequence).await;
    }
    peer.applied(3).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 3).await;

    let dry = request(&service, &id, json!({"dryRun": true})).await;
    assert_eq!((&dry["changed"], &dry["dryRun"]), (&json!(true), &json!(true)));
    assert_eq!(dry["pending"][0]["instance"], "a");
    peer.receives_nothing().await;
    let done = request(&service, &id, json!({"reason": "restored\u{1b}[31m"})).await;
    assert_eq!((&done["changed"], &done["gatewayId"]), (&json!(true), &json!(id)));
    let one = &done["pending"][0];
    assert_eq!(
        (&one["state"], &one["reason"]),
        (&json!("pending"), &json!("restored\u{fffd}[31m"))
    );
    asked_to_reconnect(&mut peer).await;

    // The log's end is where the snapshot ends, although it was confirmed before.
    let mut peer = with_gap(&service, &key, json!({"instance": "a"}), 4, 3).await;
    let list = until(&service, &id, &[("a", "started")]).await;
    assert_eq!(list["list"][0]["resync"]["state"], "started");
    let again = request(&service, &id, json!({"reason": "another"})).await;
    assert_eq!(again["changed"], false);
    assert_eq!(again["pending"][0]["reason"], "restored\u{fffd}[31m", "the first one stays");
    publish(&service, &id, 4, 5).await;
    peer.receives_nothing().await;
    peer.applied(3).await;
    assert_eq!(peer.frame_of("connection.resumed").await["from"], 3);
    for sequence in 4..=5 {
        peer.event(sequence).await;
    }
    peer.applied(5).await;
    let list = until(&service, &id, &[("a", "done")]).await;
    assert_eq!((&list["resyncs"][0]["resumeAt"], list["list"][0].get("resync")), (&json!(3), None));
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 5).await;
    drop(peer);
    Peer::connect(&service, &key, json!({"instance": "a"})).await;

    let why = service.run("why one").await;
    assert!(why.well().contains("resync requests") && why.out.contains("of a, "), "{why:?}");
    let audit = service.admin().get("/audit?action=gateway.resync_requested").await.success();
    assert_eq!(audit["count"], 1, "{audit:#}");
    assert_eq!(audit["list"][0]["after"]["instances"], json!(["a"]));
    assert_eq!(backend.verify(&service).await.problems, Vec::<String>::new());
}

async fn a_request_waits_for_the_next_connection_of_each_instance(backend: Backend) {
    let (service, id, key) = with_events(&backend, 2).await;
    for name in ["a", "b", "c"] {
        drop(Peer::connect(&service, &key, json!({"instance": name})).await);
    }
    let admin = service.admin();
    let path = format!("/gateways/{id}/resync");
    admin.post(&path, &json!({"instance": "z"})).await.refusal(404, "not_found");
    let one = request(&service, &id, json!({"instance": "b"})).await;
    assert_eq!(one["pending"].as_array().map(Vec::len), Some(1));
    service.run("gateway resync one --reason rebuilt").await.failed(1, &["snapshot", "--yes"]);
    until(&service, &id, &[("b", "pending")]).await;
    let all = service.run("gateway resync one --reason rebuilt --yes").await;
    assert!(all.well().contains("a resync is requested"), "{all:?}");
    until(&service, &id, &[("a", "pending"), ("b", "pending"), ("c", "pending")]).await;
    let mut b = with_gap(&service, &key, json!({"instance": "b"}), 1, 2).await;
    b.applied(2).await;
    assert_eq!(b.frame_of("connection.resumed").await["from"], 2);
    // What is pending is settled by the snapshot.
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 2).await;
    until(&service, &id, &[("a", "pending"), ("b", "done"), ("c", "pending")]).await;
    // An instance that connects for the first time is not concerned.
    Peer::connect(&service, &key, json!({"instance": "new"})).await;
    let is_away = |list: &Value| {
        let all = list["list"].as_array().expect("a list");
        all.iter().any(|one| one["name"] == "c" && one["connected"] == false)
    };
    service.eventually(&format!("/gateways/{id}/instances"), is_away).await;
    service.run("gateway forget-instance one c --yes").await.well();
    let mut a =
        with_gap(&service, &key, json!({"instance": "a", "confirm": "received"}), 1, 2).await;
    a.applied(2).await;
    a.frame_of("connection.resumed").await;
    until(&service, &id, &[("a", "done"), ("b", "done"), ("c", "removed")]).await;
}

async fn a_request_outlives_a_kill_and_an_interrupted_snapshot(backend: Backend) {
    let (mut service, id, key) = with_events(&backend, 2).await;
    let peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    request(&service, &id, json!({})).await;
    service.kill().await;
    drop(peer);
    service.restart().await;
    until(&service, &id, &[("a", "pending")]).await;
    let interrupted = with_gap(&service, &key, json!({"instance": "a"}), 1, 2).await;
    service.kill().await;
    drop(interrupted);
    service.restart().await;
    publish(&service, &id, 3, 3).await;
    drop(with_gap(&service, &key, json!({"instance": "a"}), 1, 3).await);
    let mut peer = with_gap(&service, &key, json!({"instance": "a"}), 1, 3).await;
    peer.applied(2).await;
    peer.receives_nothing().await;
    peer.applied(3).await;
    assert_eq!(peer.frame_of("connection.resumed").await["from"], 3);
    until(&service, &id, &[("a", "done")]).await;
    drop(peer);
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    publish(&service, &id, 4, 4).await;
    peer.event(4).await;
}

async fn a_request_concerns_unnamed_connections_too(backend: Backend) {
    let (service, id, key) = with_events(&backend, 1).await;
    let mut peer = Peer::connect(&service, &key, json!({})).await;
    peer.event(1).await;
    let done = request(&service, &id, json!({})).await;
    assert_eq!(done["pending"][0]["instance"], Value::Null);
    asked_to_reconnect(&mut peer).await;
    drop(with_gap(&service, &key, json!({}), 1, 1).await);
    let mut peer = with_gap(&service, &key, json!({}), 1, 1).await;
    peer.applied(1).await;
    peer.frame_of("connection.resumed").await;
    until(&service, &id, &[("", "done")]).await;
    drop(peer);
    Peer::connect(&service, &key, json!({})).await;
}

async fn a_gateway_that_has_only_used_plain_mode_is_refused(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let _plain = service.connected(&key).await;
    let path = format!("/gateways/{id}/resync");
    for body in [json!({}), json!({"dryRun": true})] {
        let refused = service.admin().post(&path, &body).await.refusal(409, "resync_unsupported");
        assert!(refused["detail"].as_str().is_some_and(|it| it.contains("Replay")), "{refused}");
    }
    service.run("gateway resync one").await.failed(1, &["409", "Replay"]);
}

#[tokio::test]
async fn a_connection_of_another_node_is_asked_to_reconnect() {
    let database = Database::new();
    let service = Service::start_with(&[("DATABASE__URL", &database.url())]).await;
    let second = service.another().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 1).await;
    let mut here = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    let mut there = Peer::connect(&second, &key, json!({"instance": "b"})).await;
    here.event(1).await;
    there.event(1).await;
    request(&service, &id, json!({})).await;
    asked_to_reconnect(&mut here).await;
    asked_to_reconnect(&mut there).await;
    // Each on the other node.
    for (node, name) in [(&second, "a"), (&service, "b")] {
        let mut peer = with_gap(node, &key, json!({"instance": name}), 1, 1).await;
        peer.applied(1).await;
        peer.frame_of("connection.resumed").await;
    }
    until(&second, &id, &[("a", "done"), ("b", "done")]).await;
}
