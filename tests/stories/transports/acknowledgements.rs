//! Confirmations, negative acknowledgements and progress.

use std::time::Duration;

use gateway_events::client::reliable::NackCode;
use serde_json::json;

use super::{GREETED, Kind, RELIABLE, TestBed, over};
use crate::both_databases::{Backend, on_both};

on_both! {
    acknowledgements_move_the_position_at_their_level
    an_instance_may_confirm_by_what_it_has_received
    what_was_received_counts_once_an_instance_confirms_by_that
    a_retry_is_sent_again_with_all_after_it
    a_rejection_outlasts_the_retry_of_an_earlier_event
    a_rejected_event_is_a_dead_letter_and_the_stream_goes_on
    an_event_that_fails_too_often_is_given_up
    progress_extends_the_deadline_and_silence_does_not
    a_confirmation_beyond_what_was_sent_ends_the_connection_and_loses_nothing
}

async fn acknowledgements_move_the_position_at_their_level(backend: Backend) {
    over(&backend, &[], RELIABLE, async |bed: TestBed| {
        bed.publish(1..=6).await;
        let mut peer = bed.connected().await;
        peer.events(1..=6).await;
        peer.received(6).await;
        peer.applied(2).await;
        bed.confirmed(2).await;
        // Backwards is ignored.
        peer.applied(1).await;
        peer.applied(4).await;
        bed.confirmed(4).await;
        bed.delivery(4, |it| it.state == "delivered").await;
        bed.delivery(5, |it| it.state == "pending").await;
        peer.applied(6).await;
        bed.confirmed(6).await;
        peer.quiet().await;
    })
    .await;
}

async fn an_instance_may_confirm_by_what_it_has_received(backend: Backend) {
    over(&backend, &[], GREETED, async |bed: TestBed| {
        bed.publish(1..=2).await;
        let mut peer = bed.connect(json!({"confirm": "received"})).await;
        peer.events(1..=2).await;
        peer.received(2).await;
        bed.confirmed(2).await;
        bed.delivery(2, |it| it.state == "delivered").await;
    })
    .await;
}

async fn what_was_received_counts_once_an_instance_confirms_by_that(backend: Backend) {
    over(&backend, &[], GREETED, async |bed: TestBed| {
        bed.publish(1..=3).await;
        let mut peer = bed.connect(json!({"instance": "a"})).await;
        peer.events(1..=3).await;
        peer.received(3).await;
        peer.applied(1).await;
        bed.confirmed(1).await;
        peer.leave().await;
        let _peer = bed.connect(json!({"instance": "a", "confirm": "received"})).await;
        bed.confirmed(3).await;
        bed.delivery(3, |it| it.state == "delivered").await;
    })
    .await;
}

async fn a_retry_is_sent_again_with_all_after_it(backend: Backend) {
    over(&backend, &[], RELIABLE, async |bed: TestBed| {
        bed.publish(1..=4).await;
        let mut peer = bed.connected().await;
        peer.events(1..=4).await;
        peer.applied(1).await;
        peer.nack(2, NackCode::DependencyMissing, Some(50)).await;
        for sequence in 2..=4 {
            let again = peer.event(sequence).await;
            assert_eq!((again.attempt, again.previous.0), (2, sequence - 1));
        }
        peer.applied(4).await;
        bed.confirmed(4).await;
        let refused = bed.delivery(2, |it| it.state == "delivered").await;
        assert_eq!(refused.reason.as_deref(), Some("dependency_missing"));
        assert!(refused.details.iter().any(|it| it == "the test says so"), "{refused:?}");
    })
    .await;
}

async fn a_rejected_event_is_a_dead_letter_and_the_stream_goes_on(backend: Backend) {
    over(&backend, &[], RELIABLE, async |bed: TestBed| {
        bed.publish(1..=3).await;
        let mut peer = bed.connected().await;
        peer.events(1..=3).await;
        peer.nack(2, NackCode::Unsupported, None).await;
        let refused = bed.delivery(2, |it| it.state == "failed").await;
        assert_eq!(refused.reason.as_deref(), Some("unsupported"));
        assert!(refused.details.iter().any(|it| it == "the test says so"), "{refused:?}");
        peer.applied(3).await;
        bed.confirmed(3).await;
        bed.delivery(2, |it| it.state == "failed").await;
        bed.publish(4..=4).await;
        assert_eq!(peer.event(4).await.previous.0, 3);
        // The last one, with nothing unconfirmed before it.
        peer.nack(4, NackCode::Invalid, None).await;
        bed.confirmed(4).await;
    })
    .await;
}

async fn a_rejection_outlasts_the_retry_of_an_earlier_event(backend: Backend) {
    over(&backend, &[], RELIABLE, async |bed: TestBed| {
        bed.publish(1..=3).await;
        let mut peer = bed.connected().await;
        peer.events(1..=3).await;
        peer.nack(2, NackCode::Unsupported, None).await;
        bed.delivery(2, |it| it.state == "failed").await;
        peer.nack(1, NackCode::Overloaded, Some(50)).await;
        assert_eq!(peer.event(1).await.attempt, 2);
        assert_eq!(peer.event(3).await.previous.0, 1, "the rejected one is not sent again");
        peer.applied(3).await;
        bed.confirmed(3).await;
        bed.delivery(2, |it| it.state == "failed").await;
    })
    .await;
}

async fn an_event_that_fails_too_often_is_given_up(backend: Backend) {
    over(&backend, &[("DELIVERY__MAX_ATTEMPTS", "2")], RELIABLE, async |bed: TestBed| {
        bed.publish(1..=1).await;
        let mut peer = bed.connected().await;
        for attempt in 1..=2 {
            assert_eq!(peer.event(1).await.attempt, attempt);
            peer.nack(1, NackCode::ApplyFailed, Some(0)).await;
        }
        bed.delivery(1, |it| it.state == "failed").await;
        bed.publish(2..=2).await;
        peer.event(2).await;
    })
    .await;
}

async fn progress_extends_the_deadline_and_silence_does_not(backend: Backend) {
    over(&backend, &[("DELIVERY__CONFIRMATION_TIMEOUT", "2s")], RELIABLE, async |bed: TestBed| {
        bed.publish(1..=1).await;
        let mut peer = bed.connected().await;
        peer.event(1).await;
        let mut ticks = tokio::time::interval(Duration::from_millis(300));
        for _ in 0..12 {
            ticks.tick().await;
            peer.progress(1).await.expect("it is open");
        }
        let expected = match bed.kind {
            // Another connection serves the request, and the link notices that.
            Kind::LongPoll => (None, None),
            _ => (Some(4008), Some("confirmation_timeout".to_owned())),
        };
        assert_eq!(peer.closed().await, expected);
        bed.delivery(1, |it| it.reason.as_deref() == Some("confirmation_timeout")).await;
    })
    .await;
}

async fn a_confirmation_beyond_what_was_sent_ends_the_connection_and_loses_nothing(
    backend: Backend,
) {
    over(&backend, &[], RELIABLE, async |bed: TestBed| {
        bed.publish(1..=1).await;
        let mut other = bed.connect(json!({"instance": "other"})).await;
        let mut peer = bed.connected().await;
        other.event(1).await;
        peer.event(1).await;
        peer.applied(2).await;
        if bed.kind == Kind::LongPoll {
            // Its next request may open another connection, and wait there for an event.
            drop(peer);
        } else {
            let closed = peer.closed().await;
            assert_eq!(closed, (Some(4501), Some("beyond_sent".to_owned())));
        }
        let mut peer = bed.connected().await;
        peer.event(1).await;
        peer.applied(1).await;
        bed.confirmed(1).await;
        // No other connection is affected.
        bed.publish(2..=2).await;
        other.event(2).await;
        other.applied(2).await;
        bed.confirmed(2).await;
    })
    .await;
}
