//! How the service ends connections.

use std::sync::Arc;

use gateway_events::client::reliable::ConnectError;
use serde_json::json;

use super::test_bed::World;
use super::{ALL, Kind, Peer, SERVED, TestBed, hello, over};
use crate::both_databases::{Backend, on_both};

on_both! {
    a_revoked_key_ends_its_connections
    disabled_and_deleted_gateways_are_disconnected
    a_node_that_shuts_down_waits_for_confirmations
}

/// How a connection ends for good: with this close code and `connection.error` in reliable mode.
fn for_good(kind: Kind, code: u16, error: &str) -> (Option<u16>, Option<String>) {
    match kind {
        Kind::Plain => (Some(1008), None),
        // The status of the next request says it.
        Kind::LongPoll => (Some(code), None),
        _ => (Some(code), Some(error.to_owned())),
    }
}

/// The HTTP status, or what stands for it, with which an attempt to connect is refused.
async fn refused(bed: &TestBed) -> u16 {
    match Peer::try_connect(bed, hello(&json!({}))).await {
        Err(ConnectError::Refused { status, .. }) => status,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was admitted"),
    }
}

async fn a_revoked_key_ends_its_connections(backend: Backend) {
    over(&backend, &[], ALL, async |bed: TestBed| {
        let mut peer = bed.connected().await;
        bed.revoke().await;
        assert_eq!(peer.closed().await, for_good(bed.kind, 4500, "token_revoked"));
        if bed.kind != Kind::Memory {
            assert_eq!(refused(&bed).await, 401);
        }
    })
    .await;
}

async fn disabled_and_deleted_gateways_are_disconnected(backend: Backend) {
    over(&backend, &[], SERVED, async |bed: TestBed| {
        let (api, path) = (bed.service().api(), format!("/gateways/{}", bed.id));
        let mut peer = bed.connected().await;
        api.patch(&path, &json!({"disabled": true})).await.expect("disabled");
        assert_eq!(peer.closed().await, for_good(bed.kind, 4503, "gateway_disabled"));
        assert_eq!(refused(&bed).await, 403);
        api.patch(&path, &json!({"disabled": false})).await.expect("enabled");
        let mut peer = bed.connected().await;
        api.delete(&path).await.expect("deleted");
        assert_eq!(peer.closed().await, for_good(bed.kind, 4500, "gateway_deleted"));
        assert_eq!(refused(&bed).await, 401);
    })
    .await;
}

async fn a_node_that_shuts_down_waits_for_confirmations(backend: Backend) {
    for kind in SERVED {
        let backend = backend.fresh();
        let world = World::served(&backend, &[("SHUTDOWN__DRAIN", "100ms")]).await;
        let bed = TestBed::new(Arc::new(world), *kind, "one").await;
        bed.publish(1..=1).await;
        let mut peer = bed.connected().await;
        peer.event(1).await;
        bed.service().ask_to_end();
        if !matches!(kind, Kind::Plain | Kind::LongPoll) {
            assert!(peer.drain().await > 0);
        }
        peer.applied(1).await;
        let expected = match kind {
            Kind::Plain => Some(1001),
            // The status 503 says it, which has no close code.
            Kind::LongPoll => None,
            _ => Some(4001),
        };
        assert_eq!(peer.closed().await, (expected, None), "{kind:?}");
        drop(peer);
        let (id, world) = (bed.id.clone(), Arc::into_inner(bed.world).expect("the last one"));
        let World::Served(mut service) = world else { panic!("it was served") };
        assert_eq!(service.ended().await, Some(0));
        service.restart().await;
        service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 1).await;
    }
}
