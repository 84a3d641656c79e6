//! Negative acknowledgements across connections.

use serde_json::{Value, json};

use super::peer::Peer;
use super::publish;
use crate::both_databases::{Backend, on_both};

on_both! {
    reconnects_do_not_reset_the_count_of_negative_acknowledgements
}

fn nack(sequence: i64, members: &Value) -> Value {
    let mut nack = json!({"type": "delivery.nack", "sequence": sequence});
    nack.as_object_mut().expect("one").extend(members.as_object().expect("one").clone());
    nack
}

async fn reconnects_do_not_reset_the_count_of_negative_acknowledgements(backend: Backend) {
    let service = backend.start_with(&[("DELIVERY__MAX_ATTEMPTS", "3")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 2).await;
    let again = json!({"code": "apply_failed", "retryable": true, "retryAfterMs": 60_000});
    let path = format!("/deliveries?gatewayId={id}&reason=apply_failed");
    for attempt in 1..=3 {
        let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
        assert_eq!(peer.event(1).await["attempt"], attempt);
        peer.send(&nack(1, &again)).await;
        // Ends of connections may be on record, too.
        let refused = |page: &Value| {
            let attempts = page["list"][0]["attempts"].as_array();
            attempts.map_or(0, |all| all.iter().filter(|it| it["reason"] == "apply_failed").count())
        };
        service.eventually(&path, |page| refused(page) == attempt).await;
    }
    let page = service.eventually(&path, |page| page["list"][0]["state"] == "failed").await;
    assert_eq!(page["count"], 1, "{page:#}");
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    assert_eq!(peer.event(2).await["attempt"], 1);
}
