//! A gateway's verdict: its state, since when, and why.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::both_databases::{Backend, on_both};
use crate::reliable::peer::Peer;
use crate::support::{deployed, failed_report};

on_both! {
    a_connected_gateway_whose_deployments_fail_is_failing
    a_gateway_is_failing_until_it_applies_an_event_of_the_same_type
    the_gauge_of_failing_gateways_agrees_with_the_verdicts
}

async fn a_connected_gateway_whose_deployments_fail_is_failing(backend: Backend) {
    let mut service = backend.start_with(&[("SHUTDOWN__DRAIN", "100ms")]).await;
    let (id, key) = service.gateway("one").await;
    let path = format!("/gateways/{id}");
    let state = |state: &'static str| move |one: &Value| one["verdict"]["state"] == state;
    let new = service.eventually(&path, state("away")).await;
    let created = new["createdAt"].as_str().expect("an instant");
    let expected = json!({"state": "away", "since": created, "reason": "never_connected",
        "failures": 0, "summary": format!("away, never connected, registered {}Z", &created[..19])});
    assert_eq!(new["verdict"], expected);

    let mut socket = service.connected(&key).await;
    let ok = service.eventually(&path, state("ok")).await;
    assert_eq!(ok["verdict"]["reason"], Value::Null, "{ok:#}");
    for deployment in ["d-1", "d-2"] {
        let event = deployed(&[&id], deployment);
        service.admin().post("/events", &event).await.success();
    }
    socket.expect(1..=2).await;
    for deployment in ["d-1", "d-2"] {
        socket.send(Message::text(failed_report(deployment))).await;
    }
    let socket = socket.serve();
    let is_failing = |one: &Value| one["verdict"]["failures"] == 2 && one["confirmed"] == 2;
    let failing = service.eventually(&path, is_failing).await;
    let verdict = failing["verdict"].clone();
    assert_eq!(verdict["state"], "failing");
    assert_eq!(verdict["reason"], "gateway_processing_error");
    assert_eq!((&failing["connected"], &failing["lag"]["events"]), (&json!(true), &json!(0)));
    let list = service.run("gateway list").await;
    // A table is wrapped; the words stay in order.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let since = &verdict["since"].as_str().expect("an instant")[..19];
    let says = format!("failing: 2 deployments failed since {since}Z, GATEWAY_PROCESSING_ERROR");
    assert_eq!(verdict["summary"], says);
    assert!(words(list.well()).contains(&says), "{list:?}");
    let shown = service.run(&format!("gateway show {id}")).await;
    assert!(shown.well().contains(&says), "{shown:?}");

    // It is in the database, with its beginning.
    assert_eq!(service.terminate().await, Some(0), "{}", service.log());
    socket.await.expect("closed");
    service.restart().await;
    let page = service.eventually("/gateways", |page| page["count"] == 1).await;
    assert_eq!(page["list"][0]["verdict"], verdict);

    let redrive = json!({"filter": {"gatewayId": id}});
    service.admin().post("/deliveries/redrive", &redrive).await.success();
    let away = service.eventually(&path, state("away")).await;
    assert_eq!(away["verdict"]["reason"], "shutdown", "{away:#}");
    let socket = service.connected(&key).await.serve();
    service.eventually(&path, |one| one["confirmed"] == 4 && state("ok")(one)).await;
    let disable = json!({"disabled": true});
    let disabled = service.admin().patch(&path, &disable).await.success();
    assert_eq!(disabled["verdict"]["state"], "disabled");
    assert_eq!(disabled["verdict"]["since"], disabled["disabledAt"]);
    socket.await.expect("closed");
}

async fn a_gateway_is_failing_until_it_applies_an_event_of_the_same_type(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let path = format!("/gateways/{id}");
    let config = json!({"type": "gateway.config.updated", "gatewayIds": [&id],
        "payload": {"configType": "cache", "action": "update"}});
    for event in [deployed(&[&id], "d-1"), config, deployed(&[&id], "d-2")] {
        service.admin().post("/events", &event).await.success();
    }
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    peer.event(1).await;
    let nack = json!({"type": "delivery.nack", "sequence": 1, "code": "dependency_missing",
        "detail": "no such\u{1b}[31m\nbackend: api-9", "retryable": false});
    peer.send(&nack).await;
    let is_failing = |one: &Value| one["verdict"]["failures"] == 1;
    let failing = service.eventually(&path, is_failing).await;
    assert_eq!(failing["verdict"]["reason"], "dependency_missing");
    peer.applied(2).await;
    let other = service.eventually(&path, |one| one["confirmed"] == 2).await;
    assert_eq!(other["verdict"], failing["verdict"], "another type was applied");

    // What the gateway said is quoted, without effect on a terminal.
    let diagnosis = service.admin().get(&format!("{path}/diagnosis")).await.success();
    let said = "no such\u{1b}[31m\nbackend: api-9";
    for list in ["failures", "deadLettersByReason"] {
        let tally = diagnosis[list].as_array().expect("a list").iter();
        let tally = tally.clone().find(|it| it["reason"] == "dependency_missing").expect("one");
        assert_eq!(tally["lastDetail"], said, "{list} of {diagnosis:#}");
    }
    let shown = service.run("why one").await;
    let shown = shown.well().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(shown.contains("no such\u{fffd}[31m backend: api-9"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown}");

    peer.applied(3).await;
    service.eventually(&path, |one| one["verdict"]["state"] == "ok").await;
}

async fn the_gauge_of_failing_gateways_agrees_with_the_verdicts(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, key) = service.gateway("one").await;
    admin.post("/events", &deployed(&[&id], "d-1")).await.success();
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    peer.event(1).await;
    // A refusal that is tried again is no dead letter, but the gateway does not handle its events.
    peer.send(&json!({"type": "delivery.nack", "sequence": 1, "code": "overloaded",
        "retryable": true, "retryAfterMs": 600_000}))
        .await;
    let path = format!("/gateways/{id}");
    let state = |state: &'static str| move |one: &Value| one["verdict"]["state"] == state;
    service.eventually(&path, state("failing")).await;
    let gauge = async |count: u32| {
        let line = format!("gateway_events_gateways_failing {count}");
        service.metrics_until(|text| text.lines().any(|found| found == line)).await
    };
    gauge(1).await;
    admin.post(&format!("{path}/pause"), &json!({})).await.success();
    service.eventually(&path, state("paused")).await;
    gauge(0).await;
}
