//! CloudEvents as the form of events in reliable mode, on each transport.

use serde_json::{Value, json};

use super::{STRUCTURED, connected, event, post, received};
use crate::both_databases::{Backend, on_both};
use crate::reliable::peer::Peer as Socket;
use crate::streams::long_poll::Peer as Poller;
use crate::streams::sse_peer::Peer as Stream;
use crate::support::Service;

on_both! {
    events_of_all_kinds_are_cloud_events_to_a_gateway_that_asks_for_them
    an_event_stream_carries_cloud_events
    long_polls_carry_cloud_events
}

/// Publishes an event in each form.
async fn publish(service: &Service, gateway: &str) {
    let caller = service.admin();
    let own = json!({
        "type": "gateway.config.updated", "gatewayIds": [gateway], "id": "own-1", "userId": "u",
        "timestamp": "2026-01-31T09:30:00Z",
        "payload": {"configType": "cache", "action": "update"},
    });
    caller.post("/events", &own).await.success();
    let sent = event("cloud-1", &json!({"tenant": "a", "nth": 7})).to_string();
    assert_eq!(post(&caller, STRUCTURED, sent).await.status, 202);
}

fn own() -> Value {
    json!({
        "specversion": "1.0", "id": "own-1", "source": "/api/internal/v1/events",
        "type": "gateway.config.updated", "time": "2026-01-31T09:30:00.000000Z",
        "datacontenttype": "application/json", "correlationid": "own-1", "userid": "u",
        "data": {"configType": "cache", "action": "update"},
    })
}

/// Without the members that differ between deliveries.
fn without_position(mut event: Value, sequence: i64) -> Value {
    let members = event.as_object_mut().expect("an object");
    assert_eq!(members["sequence"], format!("{sequence:016}"));
    for name in ["sequence", "previous", "epoch", "attempt"] {
        assert!(members.remove(name).is_some(), "{name} is missing");
    }
    event
}

async fn events_of_all_kinds_are_cloud_events_to_a_gateway_that_asks_for_them(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id).await;
    let mut peer = connected(&service, &key).await;
    assert_eq!(received(&mut peer, 1).await, own());
    let second = received(&mut peer, 2).await;
    assert_eq!((&second["tenant"], &second["nth"]), (&json!("a"), &json!(7)), "{second}");
    peer.applied(2).await;
    let shown = format!("/gateways/{id}");
    service.eventually(&shown, |shown| shown["confirmed"] == 2).await;
    drop(peer);
    // The same events in the native form, which has only what it always had.
    let resume = json!({"resume": "earliest", "instance": "other", "envelope": "native"});
    let mut native = Socket::connect(&service, &key, resume).await;
    native.event(1).await;
    let second = native.event(2).await;
    assert_eq!(second["eventId"], "cloud-1");
    assert!(second.get("tenant").is_none() && second.get("source").is_none(), "{second}");
    // An unknown form is a violation.
    let mut wrong = Socket::greet(&service, &key).await;
    wrong.invalid_hello(json!({"instance": "third", "envelope": "xml"})).await;
    let (code, error) = wrong.closed().await;
    assert_eq!(code, 4501);
    assert!(error["message"].as_str().is_some_and(|it| it.contains("envelope")), "{error}");
}

async fn an_event_stream_carries_cloud_events(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id).await;
    let query = "?confirm=applied&envelope=cloudevents";
    let mut peer = Stream::greet(&service, &key, query).await;
    assert_eq!(peer.resumed().await["envelope"], "cloudevents");
    let first = peer.frame().await;
    assert_eq!(first.kind, "message");
    let epoch = peer.ack["epoch"].as_str().expect("an epoch").to_owned();
    assert_eq!(first.id, Some(format!("{epoch}.1")));
    assert_eq!(without_position(first.data, 1), own());
    let second = without_position(peer.frame().await.data, 2);
    assert_eq!(second["nth"], 7);
    peer.applied(2).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 2).await;
    drop(peer);
    // The id of a message is a position, as in the native form.
    let last = format!("{epoch}.1");
    let query = "?confirm=received&envelope=cloudevents&instance=other";
    let mut other = Stream::after(&service, &key, query, &last).await;
    other.resumed().await;
    assert_eq!(other.frame().await.data["id"], "cloud-1");
    let refused = crate::support::http::reply(crate::streams::sse_peer::request(
        &service,
        &key,
        "?envelope=xml",
    ));
    refused.await.invalid("envelope", &["cloudevents"]);
}

async fn long_polls_carry_cloud_events(backend: Backend) {
    let service = backend.start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id).await;
    let peer = Poller::new(&service, &key);
    let answer = peer.poll("instance=a&max=1&envelope=cloudevents").await.success();
    assert_eq!(without_position(answer["events"][0].clone(), 1), own());
    // The next request may ask for the other form: it gets the same events in that one.
    let native = peer.poll("instance=a&max=1").await.success();
    assert_eq!(native["events"][0]["eventId"], "own-1");
    let epoch = answer["epoch"].as_str().expect("an epoch");
    let query = format!("instance=a&envelope=cloudevents&after={epoch}.1&ack={epoch}.1");
    let answer = peer.poll(&query).await.success();
    assert_eq!(without_position(answer["events"][0].clone(), 2)["tenant"], "a");
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 1).await;
}
