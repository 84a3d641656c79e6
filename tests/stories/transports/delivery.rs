//! Order, positions to resume from, filters and windows.

use std::time::Duration;

use serde_json::json;

use super::{ALL, GREETED, Kind, RELIABLE, TestBed, over};
use crate::both_databases::{Backend, on_both};
use crate::support::pause;

on_both! {
    events_come_in_order_each_after_the_one_before_it
    a_gateway_resumes_after_what_it_has_confirmed
    unconfirmed_events_are_sent_again_after_a_lost_connection
    each_kind_of_resume_starts_at_its_position
    skipped_types_are_confirmed_by_previous_and_by_marks
    credit_limits_what_is_in_flight
    the_window_in_bytes_lets_a_larger_event_through_alone
    the_hello_limits_the_window
    the_window_of_the_service_is_the_limit
    idle_connection_stays_open
}

async fn events_come_in_order_each_after_the_one_before_it(backend: Backend) {
    over(&backend, &[], ALL, async |bed: TestBed| {
        bed.publish(1..=150).await;
        let mut peer = bed.connected().await;
        for first in (1..=150).step_by(25) {
            peer.events(first..=first + 24).await;
            peer.applied(first + 24).await;
        }
        bed.publish(151..=153).await;
        peer.events(151..=153).await;
        peer.applied(153).await;
        bed.confirmed(153).await;
        bed.delivery(1, |it| it.state == "delivered").await;
    })
    .await;
}

async fn a_gateway_resumes_after_what_it_has_confirmed(backend: Backend) {
    over(&backend, &[], ALL, async |bed: TestBed| {
        bed.publish(1..=2).await;
        let mut peer = bed.connected().await;
        peer.events(1..=2).await;
        peer.applied(2).await;
        bed.confirmed(2).await;
        peer.leave().await;
        bed.publish(3..=5).await;
        let mut peer = bed.connected().await;
        peer.starts_after(2, Some(3)).await;
        peer.applied(3).await;
        for sequence in 4..=5 {
            peer.event(sequence).await;
            peer.applied(sequence).await;
        }
        bed.confirmed(5).await;
    })
    .await;
}

async fn unconfirmed_events_are_sent_again_after_a_lost_connection(backend: Backend) {
    over(&backend, &[], ALL, async |bed: TestBed| {
        bed.publish(1..=3).await;
        let mut peer = bed.connected().await;
        peer.events(1..=3).await;
        drop(peer);
        let mut peer = bed.connected().await;
        // What was in flight on a connection that failed is sent one by one.
        for sequence in 1..=3 {
            assert_eq!(peer.event(sequence).await.previous.0, sequence - 1);
            peer.applied(sequence).await;
        }
        bed.confirmed(3).await;
    })
    .await;
}

async fn each_kind_of_resume_starts_at_its_position(backend: Backend) {
    over(&backend, &[], GREETED, async |bed: TestBed| {
        bed.publish(1..=5).await;
        let mut peer = bed.connected().await;
        let epoch = peer.ack.as_ref().expect("one").epoch;
        peer.events(1..=5).await;
        peer.applied(2).await;
        bed.confirmed(2).await;
        drop(peer);
        for (resume, from) in [
            (json!("server"), 2),
            (json!("earliest"), 0),
            (json!({"epoch": epoch, "sequence": 3, "eventId": bed.event_id(3)}), 3),
            (json!({"epoch": epoch, "sequence": 5}), 5),
            (json!("latest"), 5),
        ] {
            let mut peer = bed.connect(json!({ "resume": resume })).await;
            peer.starts_after(from, (from < 5).then_some(from + 1)).await;
        }
        // A position is a confirmation of everything up to it.
        bed.confirmed(5).await;
    })
    .await;
}

async fn skipped_types_are_confirmed_by_previous_and_by_marks(backend: Backend) {
    over(&backend, &[], GREETED, async |bed: TestBed| {
        let (wanted, other) = ("api.deployed", "gateway.config.updated");
        bed.publish_as(&[(1, other), (2, wanted), (3, other), (4, other), (5, wanted), (6, other)])
            .await;
        let mut peer = bed.connect(json!({"types": [wanted]})).await;
        assert_eq!(peer.event(2).await.previous.0, 0);
        assert_eq!(peer.event(5).await.previous.0, 2);
        peer.mark(6).await;
        peer.applied(5).await;
        bed.confirmed(6).await;
        // What follows a mark refers to it.
        bed.publish(7..=7).await;
        assert_eq!(peer.event(7).await.previous.0, 6);
        peer.applied(7).await;
        bed.confirmed(7).await;
        // It is confirmed although nothing is in flight.
        bed.publish_as(&[(8, other)]).await;
        bed.confirmed(8).await;
        peer.mark(8).await;
    })
    .await;
}

async fn credit_limits_what_is_in_flight(backend: Backend) {
    over(&backend, &[], RELIABLE, async |bed: TestBed| {
        bed.publish(1..=1).await;
        let mut peer = bed.connected().await;
        peer.event(1).await;
        peer.applied(1).await;
        peer.credit(Some(2), None).await;
        peer.quiet().await;
        bed.publish(2..=10).await;
        peer.events(2..=3).await;
        peer.quiet().await;
        peer.applied(2).await;
        peer.event(4).await;
        peer.quiet().await;
        peer.credit(Some(4), None).await;
        peer.events(5..=6).await;
        peer.quiet().await;
        peer.credit(Some(0), None).await;
        peer.applied(6).await;
        peer.quiet().await;
        peer.credit(Some(100), None).await;
        peer.events(7..=10).await;
        peer.applied(10).await;
        bed.confirmed(10).await;
    })
    .await;
}

async fn the_window_in_bytes_lets_a_larger_event_through_alone(backend: Backend) {
    over(&backend, &[], RELIABLE, async |bed: TestBed| {
        bed.publish(1..=1).await;
        let mut peer = bed.connected().await;
        peer.event(1).await;
        peer.credit(None, Some(10)).await;
        peer.quiet().await;
        bed.publish(2..=4).await;
        for sequence in 1..=3 {
            peer.quiet().await;
            peer.applied(sequence).await;
            peer.event(sequence + 1).await;
        }
        peer.credit(None, Some(0)).await;
        peer.applied(4).await;
        bed.publish(5..=5).await;
        peer.quiet().await;
    })
    .await;
}

async fn the_hello_limits_the_window(backend: Backend) {
    over(&backend, &[], GREETED, async |bed: TestBed| {
        bed.publish(1..=3).await;
        let mut peer = bed.connect(json!({"window": 2})).await;
        peer.events(1..=2).await;
        peer.quiet().await;
        peer.applied(1).await;
        peer.event(3).await;
        bed.confirmed(1).await;
        // It is a parameter of no request, and a frame of its own on a stream of events.
        if bed.kind != Kind::Sse {
            let mut peer = bed.connect(json!({"instance": "b", "windowBytes": 10})).await;
            peer.event(2).await;
            peer.quiet().await;
        }
    })
    .await;
}

async fn the_window_of_the_service_is_the_limit(backend: Backend) {
    over(&backend, &[("RELIABLE__WINDOW", "2")], RELIABLE, async |bed: TestBed| {
        bed.publish(1..=3).await;
        let mut peer = bed.connected().await;
        peer.events(1..=2).await;
        peer.quiet().await;
    })
    .await;
}

async fn idle_connection_stays_open(backend: Backend) {
    let settings = [
        ("RELIABLE__HEARTBEAT_INTERVAL", "200ms"),
        ("DELIVERY__HEARTBEAT_INTERVAL", "300ms"),
        ("DELIVERY__HEARTBEAT_TIMEOUT", "2s"),
    ];
    over(&backend, &settings, ALL, async |bed: TestBed| {
        let mut peer = bed.connected().await;
        let later = async {
            pause(Duration::from_secs(5)).await;
            bed.publish(1..=1).await;
        };
        tokio::join!(later, peer.event(1));
        peer.applied(1).await;
        bed.confirmed(1).await;
    })
    .await;
}
