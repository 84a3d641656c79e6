//! Where delivery starts.

use serde_json::{Value, json};

use super::peer::Peer;
use crate::both_databases::{On, on_both};
use crate::support::{Service, deployed};

on_both! {
    each_way_to_resume_starts_where_it_says
    a_position_that_does_not_fit_the_log_is_a_gap
}

/// A service, a gateway and its key, with this many events.
pub(super) async fn with_events(on: &On, count: i64) -> (Service, String, String) {
    let service = on.start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, count).await;
    (service, id, key)
}

/// Publishes events with these numbers.
pub(crate) async fn publish(service: &Service, id: &str, first: i64, last: i64) {
    let batch: Vec<Value> =
        (first..=last).map(|number| deployed(&[id], &format!("d-{number}"))).collect();
    service.api().post("/events", &json!(batch)).await.expect("accepted");
}

async fn each_way_to_resume_starts_where_it_says(on: On) {
    let (service, id, key) = with_events(&on, 5).await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    let epoch = peer.ack["epoch"].clone();
    let mut third = Value::Null;
    for sequence in 1..=5 {
        let event = peer.event(sequence).await;
        if sequence == 3 {
            third = event["eventId"].clone();
        }
    }
    peer.applied(2).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 2).await;
    drop(peer);
    for (resume, from) in [
        (json!("server"), 2),
        (json!("earliest"), 0),
        (json!({"epoch": epoch, "sequence": 3, "eventId": third}), 3),
        (json!({"epoch": epoch, "sequence": 5}), 5),
        (json!("latest"), 5),
    ] {
        let mut peer = Peer::greet(&service, &key).await;
        peer.hello(json!({"instance": "a", "resume": resume})).await;
        let resumed = peer.frame().await;
        assert_eq!(resumed["type"], "connection.resumed", "{resume}: {resumed}");
        let mode = if from < 5 { "replay" } else { "live" };
        assert_eq!(
            (&resumed["from"], &resumed["pending"], &resumed["mode"]),
            (&json!(from), &json!(5 - from), &json!(mode)),
            "{resume}"
        );
        // What was in flight on a connection that failed is sent one by one.
        if from < 5 {
            assert_eq!(peer.event(from + 1).await["previous"], from);
        }
    }
    // A position is a confirmation of everything up to it.
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 5).await;
}

async fn a_position_that_does_not_fit_the_log_is_a_gap(on: On) {
    let (service, _, key) = with_events(&on, 5).await;
    let mut peer = Peer::greet(&service, &key).await;
    let epoch = peer.ack["epoch"].clone();
    let other = "01890a5d-ac96-774b-bcce-b302099a8057";
    peer.hello(json!({"instance": "z"})).await;
    drop(peer);
    for resume in [
        json!({"epoch": other, "sequence": 2}),
        json!({"epoch": epoch, "sequence": 6}),
        json!({"epoch": epoch, "sequence": 2, "eventId": "another"}),
    ] {
        let mut peer = Peer::greet(&service, &key).await;
        peer.hello(json!({"instance": "a", "resume": resume})).await;
        let gap = peer.frame().await;
        assert_eq!(
            gap,
            json!({"type": "delivery.gap", "from": 1, "to": 5, "reason": "epoch", "resumeAt": 5, "epoch": epoch}),
            "{resume}"
        );
        peer.receives_nothing().await;
        peer.applied(5).await;
        let resumed = peer.frame().await;
        assert_eq!((&resumed["type"], &resumed["from"]), (&json!("connection.resumed"), &json!(5)));
    }
}
