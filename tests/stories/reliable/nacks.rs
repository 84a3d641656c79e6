//! Negative acknowledgements and progress.

use serde_json::{Value, json};

use super::peer::Peer;
use super::resume::{publish, with_events};
use crate::both_databases::{On, on_both};
use crate::support::{Service, get};

on_both! {
    a_retry_is_sent_again_with_all_after_it
    a_rejected_event_is_a_dead_letter_and_the_stream_goes_on
    reconnects_do_not_reset_the_count_of_negative_acknowledgements
}

fn nack(sequence: i64, members: &Value) -> Value {
    let mut nack = json!({"type": "delivery.nack", "sequence": sequence});
    nack.as_object_mut().expect("one").extend(members.as_object().expect("one").clone());
    nack
}

async fn a_retry_is_sent_again_with_all_after_it(on: On) {
    let (service, id, key) = with_events(&on, 4).await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    for sequence in 1..=4 {
        peer.event(sequence).await;
    }
    peer.applied(1).await;
    let later = json!({"code": "dependency_missing", "retryable": true, "retryAfterMs": 50, "detail": "no such api"});
    peer.send(&nack(2, &later)).await;
    // A gateway that works on several events at once may reject the next one, too.
    peer.send(&nack(3, &later)).await;
    for sequence in 2..=4 {
        let again = peer.event(sequence).await;
        assert_eq!(
            (&again["attempt"], &again["previous"]),
            (&json!(2), &json!(sequence - 1)),
            "{again}"
        );
    }
    peer.applied(4).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 4).await;
    let path = format!("/deliveries?gatewayId={id}&reason=dependency_missing");
    let page = service.eventually(&path, |page| page["count"] == 1).await;
    let delivery = &page["list"][0];
    assert_eq!((&delivery["sequence"], &delivery["deliveredSince"]), (&json!(2), &json!(true)));
    let attempts = delivery["attempts"].as_array().expect("attempts");
    assert!(attempts.iter().any(|one| one["detail"] == "no such api"), "{page:#}");
}

async fn a_rejected_event_is_a_dead_letter_and_the_stream_goes_on(on: On) {
    let (service, id, key) = with_events(&on, 3).await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    for sequence in 1..=3 {
        peer.event(sequence).await;
    }
    let never = json!({"code": "unsupported", "retryable": false, "detail": "an old gateway"});
    peer.send(&nack(2, &never)).await;
    let path = format!("/deliveries?gatewayId={id}&reason=unsupported");
    let page = service.eventually(&path, |page| page["count"] == 1).await;
    assert_eq!(page["list"][0]["state"], "failed", "{page:#}");
    peer.applied(3).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 3).await;
    let page = get(&service.api(), &path).await.expect("a page");
    assert_eq!(page["list"][0]["state"], "failed", "a later confirmation does not revive it");
    publish(&service, &id, 4, 4).await;
    assert_eq!(peer.event(4).await["previous"], 3);
    // The last one, with nothing unconfirmed before it.
    peer.send(&nack(4, &never)).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 4).await;
}

async fn reconnects_do_not_reset_the_count_of_negative_acknowledgements(on: On) {
    let service = on.start_with(&[("DELIVERY__MAX_ATTEMPTS", "3")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 2).await;
    let again = json!({"code": "apply_failed", "retryable": true, "retryAfterMs": 60_000});
    let path = format!("/deliveries?gatewayId={id}&reason=apply_failed");
    for attempt in 1..=3 {
        let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
        assert_eq!(peer.event(1).await["attempt"], attempt);
        peer.send(&nack(1, &again)).await;
        service
            .eventually(&path, |page| {
                page["list"][0]["attempts"].as_array().map(Vec::len) == Some(attempt)
            })
            .await;
    }
    let page = service.eventually(&path, |page| page["list"][0]["state"] == "failed").await;
    assert_eq!(page["count"], 1, "{page:#}");
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    assert_eq!(peer.event(2).await["attempt"], 1);
}

#[tokio::test]
async fn an_event_that_fails_too_often_is_given_up() {
    let service = Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", "2")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 2).await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a", "window": 1})).await;
    let again = json!({"code": "apply_failed", "retryable": true, "retryAfterMs": 0});
    for attempt in 1..=2 {
        assert_eq!(peer.event(1).await["attempt"], attempt);
        peer.send(&nack(1, &again)).await;
    }
    peer.event(2).await;
    let path = format!("/deliveries?gatewayId={id}&reason=apply_failed");
    let page = service.eventually(&path, |page| page["list"][0]["state"] == "failed").await;
    assert_eq!(page["list"][0]["failures"], 2, "{page:#}");
}

#[tokio::test]
async fn progress_extends_the_deadline_and_silence_does_not() {
    let service = Service::start_with(&[("DELIVERY__CONFIRMATION_TIMEOUT", "1s")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 1).await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    peer.event(1).await;
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(200));
    for _ in 0..10 {
        ticks.tick().await;
        peer.send(&json!({"type": "delivery.progress", "sequence": 1})).await;
    }
    let (code, error) = peer.closed().await;
    assert_eq!((code, &error["code"]), (4008, &json!("confirmation_timeout")));
    let path = format!("/deliveries?gatewayId={id}&reason=confirmation_timeout");
    service.eventually(&path, |page| page["count"] == 1).await;
}
