//! Supersession: of the events with the same type and collapse key that were published while a gateway
//! was away, only the newest is sent to it, and the older ones are recorded as superseded by it.

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::both_databases::{Backend, on_both};
use crate::reliable::peer::Peer;
use crate::streams::long_poll;
use crate::support::Service;

on_both! {
    reconnecting_gateway_is_sent_the_newest_event_of_a_key
    events_of_other_keys_and_types_are_sent
    a_barrier_ends_collapsing
    a_connected_gateway_is_sent_every_event
    an_event_that_was_in_flight_is_sent_again
    superseded_events_stay_superseded_after_a_restart
    a_reliable_gateway_passes_superseded_events_by_previous_and_marks
    a_gateway_that_polls_is_sent_the_newest_event_of_a_key
    other_connections_of_the_gateway_keep_its_events
    keys_are_limited_however_they_are_published
    redriven_and_resent_events_are_not_superseded
}

/// An event of a type that stories register, with this collapse key.
fn event(gateway: &str, id: &str, key: &str) -> Value {
    json!({"type": "cache.flushed", "id": id, "gatewayIds": [gateway], "payload": {}, "collapseKey": key})
}

async fn away(backend: &Backend) -> (Service, String, String) {
    let service = backend.start().await;
    service.admin().put("/event-types/cache.flushed", &json!({})).await.success();
    let (id, key) = service.gateway("away").await;
    (service, id, key)
}

/// Publishes events with these ids and collapse keys, one after another.
async fn publish(service: &Service, gateway: &str, events: &[(&str, &str)]) {
    for (id, key) in events {
        service.admin().post("/events", &event(gateway, id, key)).await.success();
    }
}

/// The states of a gateway's log, in the order of the sequences.
async fn states(service: &Service, gateway: &str) -> Vec<String> {
    let log = service.admin().get(&format!("/gateways/{gateway}/log")).await.success();
    let list = log["list"].as_array().expect("a list");
    list.iter().map(|row| row["state"].as_str().expect("a state").to_owned()).collect()
}

async fn confirmed(service: &Service, gateway: &str, position: i64) {
    service.eventually(&format!("/gateways/{gateway}"), |it| it["confirmed"] == position).await;
}

/// Ends a connection, and waits until that is recorded.
async fn leave(service: &Service, serving: JoinHandle<Vec<Value>>) {
    serving.abort();
    service.eventually("/connections?status=connected", |page| page["count"] == 0).await;
}

/// The delivery of an event to its only gateway.
async fn delivery(service: &Service, event: &str) -> Value {
    let history = service.admin().get(&format!("/events/{event}")).await.success();
    history["deliveries"][0].clone()
}

async fn reconnecting_gateway_is_sent_the_newest_event_of_a_key(backend: Backend) {
    let (service, id, key) = away(&backend).await;
    let ids = [("e1", "k"), ("e2", "k"), ("e3", "k"), ("e4", "k"), ("e5", "k")];
    publish(&service, &id, &ids).await;
    service.eventually("/deliveries?reason=not_connected", |page| page["count"] == 5).await;
    let mut socket = service.connected(&key).await;
    let newest = socket.next().await.expect("an event");
    assert_eq!((&newest["eventId"], &newest["sequence"]), (&json!("e5"), &json!(5)));
    publish(&service, &id, &[("e6", "k")]).await;
    assert_eq!(socket.next().await.expect("an event")["eventId"], "e6");
    let serving = socket.serve();
    confirmed(&service, &id, 6).await;
    let superseded = "superseded";
    let expected = [superseded, superseded, superseded, superseded, "delivered", "delivered"];
    assert_eq!(states(&service, &id).await, expected);

    let older = delivery(&service, "e2").await;
    assert_eq!(
        (&older["state"], &older["supersededBy"]),
        (&json!(superseded), &json!(5)),
        "{older:#}"
    );
    let last = &older["attempts"].as_array().expect("a list").last().expect("one").clone();
    assert_eq!(last["outcome"], superseded, "{older:#}");
    assert_eq!(delivery(&service, "e5").await.get("supersededBy"), None);
    let listed = service.admin().get("/deliveries?reason=not_connected").await.success();
    let states: Vec<&Value> =
        listed["list"].as_array().expect("a list").iter().map(|it| &it["state"]).collect();
    assert_eq!(states.iter().filter(|state| **state == superseded).count(), 4, "{listed:#}");
    for status in ["pending", "delivered"] {
        let page = service.admin().get(&format!("/deliveries?status={status}")).await.success();
        assert_eq!(page["count"], if status == "pending" { 0 } else { 2 }, "{page:#}");
    }
    // It is neither missing nor failed.
    let rollout =
        service.admin().get("/rollouts?eventId=e2&wait=received&timeout=20s").await.success();
    let rollout = &rollout["rollout"];
    assert_eq!((&rollout["superseded"], &rollout["failed"]), (&json!(1), &json!(0)), "{rollout:#}");
    assert_eq!(rollout["ended"], superseded);
    assert_eq!(rollout["gateways"][0]["state"], superseded);
    let history = service.admin().get("/events/e2").await.success();
    assert_eq!(history["verdict"]["state"], superseded, "{history:#}");
    assert_eq!(history["collapseKey"], "k", "{history:#}");
    let shown = service.run("event show e2").await;
    assert!(shown.well().contains("superseded by 5"), "{shown:?}");
    let failed = service.run("delivery failed --gateway away").await;
    assert!(failed.well().contains("superseded by 5"), "{failed:?}");
    let why = service.run("why e2").await;
    assert!(why.well().contains("superseded by newer events at 1 of 1 gateway"), "{why:?}");
    let why = service.admin().get("/events/e2/diagnosis").await.success();
    assert_eq!(why["open"]["list"], json!([]), "{why:#}");
    let dead = service.admin().get("/stats").await.success();
    assert_eq!(dead["eventDelivery"]["deadLetters"], 0, "{dead:#}");
    let report = backend.verify(&service).await;
    assert_eq!(report.problems, Vec::<String>::new());
    drop(serving);
}

async fn events_of_other_keys_and_types_are_sent(backend: Backend) {
    let (service, id, key) = away(&backend).await;
    publish(&service, &id, &[("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b")]).await;
    let mut other = event(&id, "other", "a");
    other["type"] = json!("gateway.config.updated");
    other["payload"] = json!({"configType": "cache", "action": "update"});
    service.admin().post("/events", &other).await.success();
    let mut without = event(&id, "without", "a");
    without.as_object_mut().expect("an object").remove("collapseKey");
    service.admin().post("/events", &without).await.success();
    let mut socket = service.connected(&key).await;
    for expected in ["a2", "b2", "other", "without"] {
        assert_eq!(socket.next().await.expect("an event")["eventId"], expected);
    }
    assert_eq!(delivery(&service, "a1").await["supersededBy"], 3);
    assert_eq!(delivery(&service, "b1").await["supersededBy"], 4);
}

async fn a_barrier_ends_collapsing(backend: Backend) {
    let (service, id, key) = away(&backend).await;
    let put = service.run("event-type put cache.replaced --barrier --json").await.json();
    assert_eq!(put["barrier"], true, "{put:#}");
    let listed = service.run("event-type list").await;
    let line = listed.well().lines().find(|line| line.contains("cache.replaced"));
    assert!(line.is_some_and(|line| line.contains("yes")), "{listed:?}");
    publish(&service, &id, &[("e1", "k"), ("e2", "k")]).await;
    let mut barrier = event(&id, "barrier", "k");
    barrier["type"] = json!("cache.replaced");
    service.admin().post("/events", &barrier).await.success();
    publish(&service, &id, &[("e4", "k"), ("e5", "k")]).await;
    let mut socket = service.connected(&key).await;
    for expected in ["e2", "barrier", "e5"] {
        assert_eq!(socket.next().await.expect("an event")["eventId"], expected);
    }
    let serving = socket.serve();
    confirmed(&service, &id, 5).await;
    let history = service.admin().get("/events/barrier").await.success();
    assert_eq!(history.get("collapseKey"), None, "{history:#}");
    let expected = ["superseded", "delivered", "delivered", "superseded", "delivered"];
    assert_eq!(states(&service, &id).await, expected);
    drop(serving);
}

async fn a_connected_gateway_is_sent_every_event(backend: Backend) {
    let (service, id, key) = away(&backend).await;
    let mut socket = service.connected(&key).await;
    publish(&service, &id, &[("e1", "k"), ("e2", "k"), ("e3", "k")]).await;
    socket.expect(1..=3).await;
    let serving = socket.serve();
    confirmed(&service, &id, 3).await;
    assert_eq!(states(&service, &id).await, ["delivered"; 3]);
    drop(serving);
}

async fn an_event_that_was_in_flight_is_sent_again(backend: Backend) {
    let (service, id, key) = away(&backend).await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "one"})).await;
    publish(&service, &id, &[("e1", "k"), ("e2", "k")]).await;
    peer.event(1).await;
    peer.event(2).await;
    drop(peer);
    service.eventually("/connections?status=connected", |page| page["count"] == 0).await;
    publish(&service, &id, &[("e3", "k"), ("e4", "k")]).await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "one"})).await;
    // What may have made the last connection fail is sent one by one.
    for sequence in [1, 2, 4] {
        peer.event(sequence).await;
        peer.applied(sequence).await;
    }
    confirmed(&service, &id, 4).await;
    assert_eq!(states(&service, &id).await, ["delivered", "delivered", "superseded", "delivered"]);
}

async fn superseded_events_stay_superseded_after_a_restart(backend: Backend) {
    let (mut service, id, key) = away(&backend).await;
    publish(&service, &id, &[("e1", "k"), ("e2", "k"), ("e3", "k")]).await;
    service.kill().await;
    service.restart().await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "one"})).await;
    peer.event(3).await;
    // The node dies: whether the event arrived is unknown.
    service.kill().await;
    drop(peer);
    service.restart().await;
    publish(&service, &id, &[("e4", "k")]).await;
    service.eventually("/connections?status=connected", |page| page["count"] == 0).await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "one"})).await;
    for sequence in [3, 4] {
        peer.event(sequence).await;
    }
    peer.applied(4).await;
    confirmed(&service, &id, 4).await;
    let expected = ["superseded", "superseded", "delivered", "delivered"];
    assert_eq!(states(&service, &id).await, expected);
    assert_eq!(backend.verify(&service).await.problems, Vec::<String>::new());
}

async fn a_reliable_gateway_passes_superseded_events_by_previous_and_marks(backend: Backend) {
    let (service, id, key) = away(&backend).await;
    publish(&service, &id, &[("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b"), ("a3", "a")])
        .await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "one"})).await;
    let first = peer.event(4).await;
    assert_eq!(first["previous"], 0, "{first}");
    let second = peer.event(5).await;
    assert_eq!(second["previous"], 4, "{second}");
    peer.applied(5).await;
    confirmed(&service, &id, 5).await;
    assert_eq!(delivery(&service, "a1").await["supersededBy"], 5);
    assert_eq!(delivery(&service, "b1").await["supersededBy"], 4);
    assert_eq!(delivery(&service, "a2").await["supersededBy"], 5);
}

async fn a_gateway_that_polls_is_sent_the_newest_event_of_a_key(backend: Backend) {
    let (service, id, key) = away(&backend).await;
    publish(&service, &id, &[("e1", "k"), ("e2", "k"), ("e3", "k")]).await;
    let peer = long_poll::Peer::new(&service, &key);
    let (sequences, _) = peer.until("instance=one", 1).await;
    assert_eq!(sequences, [3]);
    assert_eq!(delivery(&service, "e1").await["supersededBy"], 3);
}

async fn other_connections_of_the_gateway_keep_its_events(backend: Backend) {
    let (service, id, key) = away(&backend).await;
    service
        .admin()
        .patch(&format!("/gateways/{id}"), &json!({"confirmation": "all"}))
        .await
        .success();
    let mut one = Peer::connect(&service, &key, json!({"instance": "one"})).await;
    let two = Peer::connect(&service, &key, json!({"instance": "two"})).await;
    drop(two);
    service.eventually("/connections?status=connected", |page| page["count"] == 1).await;
    publish(&service, &id, &[("e1", "k"), ("e2", "k")]).await;
    one.event(1).await;
    one.event(2).await;
    // The other instance is connected, so that nothing is superseded.
    let mut two = Peer::connect(&service, &key, json!({"instance": "two"})).await;
    two.event(1).await;
    two.event(2).await;
    for peer in [&mut one, &mut two] {
        peer.applied(2).await;
    }
    confirmed(&service, &id, 2).await;
    drop((one, two));
    service.eventually("/connections?status=connected", |page| page["count"] == 0).await;
    // Both were away: what is superseded is superseded for both.
    publish(&service, &id, &[("e3", "k"), ("e4", "k")]).await;
    for name in ["one", "two"] {
        let mut peer = Peer::connect(&service, &key, json!({"instance": name})).await;
        peer.event(4).await;
        peer.applied(4).await;
        peer.settled().await;
    }
    confirmed(&service, &id, 4).await;
    assert_eq!(states(&service, &id).await, ["delivered", "delivered", "superseded", "delivered"]);
}

async fn keys_are_limited_however_they_are_published(backend: Backend) {
    let (service, id, key) = away(&backend).await;
    let long = "k".repeat(10_000);
    for bad in [long.as_str(), "", "a\u{7}b"] {
        let refused = service.admin().post("/events", &event(&id, "bad", bad)).await;
        refused.invalid("collapseKey", &["1 to 256 bytes"]);
    }
    service.admin().post("/events", &event(&id, "long", &"k".repeat(256))).await.success();
    let inserted = |event: &str, key: &str| {
        format!(
            "insert into inbox (event_id, type, gateway_id, payload, collapse_key)
             values ('{event}', 'cache.flushed', '{id}', '{{}}', '{key}');"
        )
    };
    backend.change(&service, &inserted("refused", &long)).await;
    let rejected = service.eventually("/inbox/rejected", |page| page["count"] == 1).await;
    let detail = rejected["list"][0]["detail"].as_str().expect("a detail");
    assert!(detail.starts_with("collapse_key: must be 1 to 256 bytes"), "{detail}");
    for event in ["i1", "i2"] {
        backend.change(&service, &inserted(event, "inbox")).await;
        service
            .eventually(&format!("/gateways/{id}/log"), |log| {
                log["list"]
                    .as_array()
                    .is_some_and(|list| list.iter().any(|row| row["eventId"] == event))
            })
            .await;
    }
    let published =
        format!("event publish cache.flushed {{}} --gateway {id} --id c1 --collapse-key cli");
    service.run(&published).await.well();
    let cloud_event = json!({"specversion": "1.0", "id": "c2", "source": "/tests", "type": "cache.flushed",
        "gatewayids": id, "collapsekey": "cli", "data": {}});
    let request = service.admin().request(reqwest::Method::POST, "/events");
    let request = request.header("content-type", "application/cloudevents+json");
    let answer = request.body(cloud_event.to_string()).send().await.expect("an answer");
    assert!(answer.status().is_success(), "{answer:?}");
    let mut socket = service.connected(&key).await;
    for expected in ["long", "i2", "c2"] {
        assert_eq!(socket.next().await.expect("an event")["eventId"], expected);
    }
}

async fn redriven_and_resent_events_are_not_superseded(backend: Backend) {
    let (service, id, key) = away(&backend).await;
    let mut socket = service.connected(&key).await;
    publish(&service, &id, &[("e1", "k"), ("e2", "k")]).await;
    socket.expect(1..=2).await;
    let serving = socket.serve();
    confirmed(&service, &id, 2).await;
    leave(&service, serving).await;
    service.run("event resend e1 --gateway away --force --yes").await.well();
    publish(&service, &id, &[("e3", "k"), ("e4", "k")]).await;
    let mut socket = service.connected(&key).await;
    for expected in ["e1", "e4"] {
        assert_eq!(socket.next().await.expect("an event")["eventId"], expected);
    }
    assert_eq!(delivery(&service, "e3").await["supersededBy"], 5);
}
