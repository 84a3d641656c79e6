//! Who is admitted, and where a connection is shown.

use gateway_events::client::reliable::ConnectError;
use serde_json::json;

use super::test_bed::World;
use super::{Kind, Peer, SERVED, TestBed, hello, over};
use crate::both_databases::{Backend, on_both};

on_both! {
    a_connection_is_shown_with_its_transport
    an_unknown_key_is_refused_and_too_many_attempts_are
    connections_beyond_the_limit_are_refused
}

async fn a_connection_is_shown_with_its_transport(backend: Backend) {
    over(&backend, &[], SERVED, async |bed: TestBed| {
        bed.publish(1..=1).await;
        let mut peer = bed.connected().await;
        peer.event(1).await;
        peer.applied(1).await;
        bed.confirmed(1).await;
        let path = format!("/gateways/{}/connections?status=connected", bed.id);
        let shown = bed.service().eventually(&path, |shown| shown["count"] == 1).await;
        assert_eq!(shown["list"][0]["transport"], bed.kind.name());
        let label = format!("transport=\"{}\"", bed.kind.name());
        bed.service().metrics_until(|metrics| metrics.contains(&label)).await;
    })
    .await;
}

/// The refusal of an attempt, and whether it says when to try again.
async fn refused(bed: &TestBed) -> (u16, bool) {
    match Peer::try_connect(bed, hello(&json!({}))).await {
        Err(ConnectError::Refused { status, retry_after }) => (status, retry_after.is_some()),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was admitted"),
    }
}

/// A gateway for each transport on one service.
async fn beds(backend: &Backend, settings: &[(&str, &str)]) -> Vec<TestBed> {
    let world = std::sync::Arc::new(World::served(backend, settings).await);
    let mut beds = Vec::new();
    for kind in SERVED {
        beds.push(TestBed::new(world.clone(), *kind, "one").await);
    }
    beds
}

async fn an_unknown_key_is_refused_and_too_many_attempts_are(backend: Backend) {
    for kind in SERVED {
        let settings = [("LIMITS__ATTEMPTS_PER_MINUTE", "2")];
        let backend = backend.fresh();
        let world = std::sync::Arc::new(World::served(&backend, &settings).await);
        let mut bed = TestBed::new(world, *kind, "one").await;
        "gwk_nonsense".clone_into(&mut bed.key);
        let mut found = refused(&bed).await;
        assert_eq!(found.0, 401, "{kind:?}");
        for _ in 0..10 {
            found = refused(&bed).await;
            if found.0 != 401 {
                break;
            }
        }
        assert_eq!(found, (429, *kind != Kind::Plain), "{kind:?}");
    }
}

async fn connections_beyond_the_limit_are_refused(backend: Backend) {
    let beds = beds(&backend, &[("DELIVERY__MAX_CONNECTIONS", "1")]).await;
    let mut first = beds[0].connected().await;
    for bed in &beds {
        assert_eq!(refused(bed).await, (503, bed.kind != Kind::Plain), "{:?}", bed.kind);
    }
    beds[0].publish(1..=1).await;
    first.event(1).await;
}
