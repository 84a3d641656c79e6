//! Gaps: what can't be delivered is said, and delivery waits for the snapshot.

use serde_json::json;

use super::peer::Peer;
use super::resume::publish;
use crate::both_databases::{On, on_both};

on_both! {
    what_retention_has_removed_is_a_gap
    a_purged_event_is_a_gap
}

async fn what_retention_has_removed_is_a_gap(on: On) {
    let service = on
        .start_with(&[
            ("RETENTION__MAX_EVENTS", "2"),
            ("RETENTION__HARD_MAX_EVENTS", "4"),
            ("RETENTION__INTERVAL", "1s"),
            ("RELIABLE__SNAPSHOT_URL", "https://platform.example/snapshot"),
        ])
        .await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 10).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["floor"] == 6).await;
    let mut peer = Peer::greet(&service, &key).await;
    assert_eq!(peer.ack["oldest"], 7);
    let epoch = peer.ack["epoch"].clone();
    peer.hello(json!({"instance": "a", "resume": {"epoch": epoch, "sequence": 2}})).await;
    let gap = peer.frame().await;
    assert_eq!(
        gap,
        json!({"type": "delivery.gap", "from": 3, "to": 6, "reason": "retention", "resumeAt": 6,
            "snapshotUrl": "https://platform.example/snapshot", "epoch": epoch})
    );
    peer.receives_nothing().await;
    peer.applied(5).await;
    peer.receives_nothing().await;
    peer.applied(6).await;
    assert_eq!(peer.frame_of("connection.resumed").await["from"], 6);
    for sequence in 7..=10 {
        assert_eq!(peer.event(sequence).await["previous"], sequence - 1);
    }
    peer.applied(10).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 10).await;
}

async fn a_purged_event_is_a_gap(on: On) {
    let service = on.start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 3).await;
    let log = service.api().get(&format!("/gateways/{id}/log")).await.expect("the log");
    let event = log["list"]
        .as_array()
        .and_then(|list| list.iter().find(|row| row["sequence"] == 2))
        .and_then(|row| row["eventId"].as_str())
        .expect("the second event")
        .to_owned();
    let request =
        service.api().request(reqwest::Method::DELETE, &format!("/events/{event}/payload"));
    let purged = request.json(&json!({"reason": "a secret"})).send().await.expect("an answer");
    assert!(purged.status().is_success(), "{purged:?}");
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    peer.event(1).await;
    peer.applied(1).await;
    let gap = peer.frame_of("delivery.gap").await;
    assert_eq!(
        (&gap["from"], &gap["to"], &gap["reason"], &gap["resumeAt"]),
        (&json!(2), &json!(2), &json!("purged"), &json!(2))
    );
    peer.receives_nothing().await;
    peer.applied(2).await;
    assert_eq!(peer.event(3).await["previous"], 2);
    peer.applied(3).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 3).await;
}
