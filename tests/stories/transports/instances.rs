//! Named instances of a gateway.

use gateway_events::client::reliable::ConnectError;
use serde_json::json;

use super::{GREETED, Kind, Peer, RELIABLE, TestBed, hello, over};
use crate::both_databases::{Backend, on_both};
use crate::reliable::peer::Peer as Socket;
use crate::reliable::publish;

on_both! {
    each_instance_has_its_own_position
    later_connection_of_an_instance_replaces_the_earlier_one
    delivered_means_confirmed_by_any_or_by_all_instances
    a_new_instance_has_a_name_that_looks_like_no_other
    an_instance_whose_name_would_be_refused_now_connects
}

/// Names that can't be told from another one when they are shown, or change how the text around them
/// is shown.
const CONFUSING: [&str; 12] = [
    "a\u{200b}",
    "\u{feff}a",
    "a\u{2060}b",
    "\u{202e}a",
    "\u{2066}a\u{2069}",
    "a\u{ad}b",
    "\u{3164}",
    "a\u{115f}",
    ".",
    "..",
    " a",
    "a\u{a0}",
];

async fn a_new_instance_has_a_name_that_looks_like_no_other(backend: Backend) {
    let settings = [("LIMITS__ATTEMPTS_PER_MINUTE", "1000")];
    over(&backend, &settings, RELIABLE, async |bed: TestBed| {
        for name in CONFUSING {
            match Peer::try_connect(&bed, hello(&json!({"instance": name}))).await {
                Err(ConnectError::Refused { status, .. }) => assert_eq!(status, 422, "{name:?}"),
                // The transport in memory has the dispatcher's error.
                Err(ConnectError::Failed(why)) if bed.kind == Kind::Memory => {
                    assert!(why.contains("must be 1 to 64 characters for a new instance"), "{why}");
                }
                Err(other) => panic!("{name:?}: {other:?}"),
                Ok(mut peer) => {
                    let (code, error) = peer.closed().await;
                    let by_status = matches!(bed.kind, Kind::LongPoll) && error.is_none();
                    assert!(
                        by_status || error.as_deref() == Some("invalid_frame"),
                        "{name:?} {error:?}"
                    );
                    assert!(matches!(code, None | Some(4501)), "{name:?} {code:?}");
                }
            }
        }
        if bed.kind != Kind::Memory {
            let shown = bed.service().api().get(&format!("/gateways/{}/instances", bed.id)).await;
            assert_eq!(shown.expect("instances")["count"], 0);
        }
        for name in ["Zürich 2", "東京", "...a", "a.b", "x"] {
            bed.connect(json!({"instance": name})).await.leave().await;
        }
    })
    .await;
}

async fn an_instance_whose_name_would_be_refused_now_connects(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let connect =
        async |instance: &str| Socket::connect(&service, &key, json!({"instance": instance})).await;
    publish(&service, &id, 1, 2).await;
    let mut peer = connect("padded").await;
    peer.event(1).await;
    peer.applied(1).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 1).await;
    drop(peer);
    let connections = format!("/gateways/{id}/connections?status=connected");
    service.eventually(&connections, |shown| shown["count"] == 0).await;
    backend
        .change(&service, "update cursors set instance = ' padded ' where instance = 'padded'")
        .await;
    let mut peer = connect(" padded ").await;
    peer.event(2).await;
}

async fn each_instance_has_its_own_position(backend: Backend) {
    over(&backend, &[], RELIABLE, async |bed: TestBed| {
        bed.publish(1..=3).await;
        // A new instance starts at the gateway's position.
        let mut one = bed.connect(json!({"instance": "one"})).await;
        let mut two = bed.connect(json!({"instance": "two"})).await;
        one.events(1..=3).await;
        two.events(1..=3).await;
        one.applied(3).await;
        bed.confirmed(3).await;
        one.leave().await;
        drop(two);
        bed.publish(4..=4).await;
        let mut one = bed.connect(json!({"instance": "one"})).await;
        one.starts_after(3, Some(4)).await;
        let mut two = bed.connect(json!({"instance": "two"})).await;
        two.starts_after(0, Some(1)).await;
    })
    .await;
}

async fn later_connection_of_an_instance_replaces_the_earlier_one(backend: Backend) {
    // Requests of one instance share a connection when it polls.
    over(&backend, &[], GREETED, async |bed: TestBed| {
        bed.publish(1..=1).await;
        let mut earlier = bed.connected().await;
        let mut other = bed.connect(json!({"instance": "other"})).await;
        let mut later = bed.connected().await;
        assert_eq!(earlier.closed().await, (Some(4009), Some("replaced".to_owned())));
        later.event(1).await;
        other.event(1).await;
        other.quiet().await;
    })
    .await;
}

async fn delivered_means_confirmed_by_any_or_by_all_instances(backend: Backend) {
    over(&backend, &[], RELIABLE, async |bed: TestBed| {
        let mut one = bed.connect(json!({"instance": "one"})).await;
        let mut two = bed.connect(json!({"instance": "two"})).await;
        for (number, confirmation) in [(1, "any"), (2, "all")] {
            bed.confirm_by(confirmation).await;
            bed.publish(number..=number).await;
            one.event(number).await;
            two.event(number).await;
            one.applied(number).await;
            if confirmation == "all" {
                two.quiet().await;
                bed.delivery(number, |it| it.state == "pending").await;
                two.applied(number).await;
            }
            bed.delivery(number, |it| it.state == "delivered").await;
            // For the next round.
            if confirmation == "any" {
                two.applied(number).await;
            }
        }
    })
    .await;
}
