//! The filter of types.

use serde_json::{Value, json};

use super::peer::Peer;
use crate::both_databases::{On, on_both};
use crate::support::{deployed, get};

on_both! {
    skipped_types_are_confirmed_by_previous_and_by_marks
}

fn configured(gateway: &str) -> Value {
    json!({
        "type": "gateway.config.updated",
        "gatewayIds": [gateway],
        "payload": {"configType": "cache", "action": "update"},
    })
}

async fn skipped_types_are_confirmed_by_previous_and_by_marks(on: On) {
    let service = on.start().await;
    let (id, key) = service.gateway("one").await;
    let batch = json!([
        configured(&id),
        deployed(&[&id], "d-2"),
        configured(&id),
        configured(&id),
        deployed(&[&id], "d-5"),
        configured(&id),
    ]);
    service.api().post("/events", &batch).await.expect("accepted");
    let hello = json!({"instance": "a", "types": ["api.deployed"]});
    let mut peer = Peer::connect(&service, &key, hello).await;
    assert_eq!(peer.frame_of("api.deployed").await["sequence"], 2);
    assert_eq!(peer.event(5).await["previous"], 2);
    let mark = peer.frame().await;
    assert_eq!(mark, json!({"type": "delivery.mark", "sequence": 6, "head": 6}));
    peer.applied(5).await;
    let shown =
        service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 6).await;
    assert_eq!(shown["lag"]["events"].as_i64().unwrap_or(0), 0, "{shown:#}");
    let failed = get(&service.api(), &format!("/deliveries?gatewayId={id}")).await.expect("a page");
    let reasons = |row: &Value| row["reason"] != "not_connected";
    let others = failed["list"].as_array().expect("a list").iter().filter(|row| reasons(row));
    assert_eq!(others.count(), 0, "{failed:#}");
    // What follows a mark refers to it.
    service.api().post("/events", &deployed(&[&id], "d-7")).await.expect("accepted");
    assert_eq!(peer.event(7).await["previous"], 6);
    // An event that is not wanted is confirmed although nothing is in flight.
    peer.applied(7).await;
    service.api().post("/events", &configured(&id)).await.expect("accepted");
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 8).await;
    assert_eq!(peer.frame_of("delivery.mark").await["head"], 8);
}
