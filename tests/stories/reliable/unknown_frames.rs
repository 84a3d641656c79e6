//! Frames and members that this version does not know.

use serde_json::json;

use super::peer::Peer;
use super::with_events;
use crate::both_databases::{Backend, on_both};

on_both! {
    unknown_types_and_members_and_repeats_are_ignored
}

async fn unknown_types_and_members_and_repeats_are_ignored(backend: Backend) {
    let (service, id, key) = with_events(&backend, 2).await;
    let mut peer = Peer::greet(&service, &key).await;
    peer.send(&json!({"type": "connection.later", "x": 1})).await;
    // Members that are null count as omitted.
    let omitted = json!({"instance": "a", "later": [1], "window": null, "windowBytes": null,
        "types": null, "envelope": null});
    peer.hello(omitted).await;
    assert_eq!(peer.frame().await["type"], "connection.resumed");
    peer.event(1).await;
    peer.event(2).await;
    peer.send(&json!({"type": "delivery.later"})).await;
    peer.send(&json!({"type": "delivery.ack", "applied": 2, "received": null, "later": {}})).await;
    peer.applied(2).await;
    peer.applied(1).await;
    peer.send(&json!({"type": "delivery.progress", "sequence": 1})).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 2).await;
    assert_eq!(service.invalid_messages("unknown_message_type").await, 1);
    peer.text(r#"{"type":"delivery.credit","window":1}"#).await;
}
