//! What a handler returns, and what is on record then.

use std::time::Duration;

use super::recorder::{Gateway, Outcomes, publish};
use crate::both_databases::{Backend, on_both};
use gateway_events::client::reliable::{NackCode, Options, Outcome};

on_both! {
    events_are_applied_in_order_and_confirmed
    a_refused_event_is_delivered_again_and_a_rejected_one_is_a_dead_letter
    an_event_that_is_never_applied_is_given_up_and_blocks_nothing
    a_handler_may_take_longer_than_the_deadline_of_the_confirmation
}

async fn events_are_applied_in_order_and_confirmed(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 150).await;
    let position = service.directory().join("position");
    let mut gateway = Gateway::start(&service, &key, position.clone());
    for sequence in 1..=150 {
        assert_eq!(gateway.applied().await, (sequence, 1));
    }
    publish(&service, &id, 1).await;
    assert_eq!(gateway.applied().await, (151, 1));
    let path = format!("/gateways/{id}");
    service.eventually(&path, |gateway| gateway["confirmed"] == 151).await;
    gateway.stop().await;
    let stored = std::fs::read_to_string(position).expect("the position is stored");
    assert!(stored.contains("\"sequence\":151"), "{stored}");
    let path = format!("/gateways/{id}/log?after=150");
    service.eventually(&path, |log| log["list"][0]["state"] == "delivered").await;
}

async fn a_refused_event_is_delivered_again_and_a_rejected_one_is_a_dead_letter(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 5).await;
    let (after, detail) = (Duration::from_millis(50), Some("no such plugin".to_owned()));
    let outcomes = Outcomes::from([
        (
            2,
            (
                Duration::ZERO,
                Outcome::RetryAfter { after, code: NackCode::Overloaded, detail: None },
            ),
        ),
        (4, (Duration::ZERO, Outcome::Reject { code: NackCode::Unsupported, detail })),
    ]);
    let position = service.directory().join("position");
    let mut gateway = Gateway::start_with(&service, &key, position, outcomes, Options::default());
    let mut applied = Vec::new();
    while applied.len() < 4 {
        applied.push(gateway.applied().await.0);
    }
    assert_eq!(applied, [1, 2, 3, 5]);
    let path = format!("/gateways/{id}");
    service.eventually(&path, |gateway| gateway["confirmed"] == 5).await;
    gateway.stop().await;
    let failed = format!("/deliveries?status=failed&gatewayId={id}");
    let failed = service
        .eventually(&failed, |page| {
            let list = page["list"].as_array();
            list.is_some_and(|list| list.iter().any(|one| one["sequence"] == 4))
        })
        .await;
    let rejected = failed["list"].as_array().expect("a list").iter();
    let rejected = rejected.clone().find(|one| one["sequence"] == 4).expect("event 4");
    let text = rejected.to_string();
    assert!(text.contains("unsupported") && text.contains("no such plugin"), "{rejected:#}");
}

async fn an_event_that_is_never_applied_is_given_up_and_blocks_nothing(backend: Backend) {
    let service = backend.start_with(&[("DELIVERY__MAX_ATTEMPTS", "1")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 4).await;
    let refused = (
        Duration::ZERO,
        Outcome::RetryAfter { after: Duration::ZERO, code: NackCode::ApplyFailed, detail: None },
    );
    // The first time, and so the last one. The second of them is the newest event.
    let outcomes = Outcomes::from([(2, refused.clone()), (4, refused)]);
    let position = service.directory().join("position");
    let mut gateway = Gateway::start_with(&service, &key, position, outcomes, Options::default());
    assert_eq!(gateway.applied().await.0, 1);
    assert_eq!(gateway.applied().await.0, 3);
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 4).await;
    publish(&service, &id, 1).await;
    assert_eq!(gateway.applied().await.0, 5, "sent at once, not after a reconnect");
    gateway.stop().await;
    let path = format!("/deliveries?gatewayId={id}&reason=apply_failed");
    let failed = service.admin().get(&path).await.success();
    let failed: Vec<_> = failed["list"].as_array().expect("a list").iter().collect();
    assert!(failed.len() == 2 && failed.iter().all(|it| it["state"] == "failed"), "{failed:#?}");
}

async fn a_handler_may_take_longer_than_the_deadline_of_the_confirmation(backend: Backend) {
    let service = backend.start_with(&[("DELIVERY__CONFIRMATION_TIMEOUT", "3s")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 2).await;
    let position = service.directory().join("position");
    let slow = Outcomes::from([(1, (Duration::from_secs(7), Outcome::Applied))]);
    let options = Options { progress_interval: Duration::from_millis(500), ..Options::default() };
    let mut gateway = Gateway::start_with(&service, &key, position, slow, options);
    assert_eq!(gateway.applied().await, (1, 1));
    assert_eq!(gateway.applied().await, (2, 1), "it was sent once");
    let path = format!("/gateways/{id}");
    service.eventually(&path, |gateway| gateway["confirmed"] == 2).await;
    gateway.stop().await;
}
