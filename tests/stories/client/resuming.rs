//! Where a client resumes: after lost connections, restarts, a drain, and from a position that does
//! not fit.

use gateway_events::client::reliable::{ClientError, GapReason, Notice, PositionError};

use super::recorder::{Gateway, Observation, publish};
use crate::both_databases::{Backend, on_both};
use crate::support::Service;

on_both! {
    a_client_resumes_after_its_stored_position
    a_client_reconnects_when_the_service_is_replaced
    a_position_in_another_log_leads_to_a_snapshot
}

async fn a_client_resumes_after_its_stored_position(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let position = service.directory().join("position");
    let path = format!("/gateways/{id}");
    for round in 0..3 {
        publish(&service, &id, 10).await;
        let mut gateway = Gateway::start(&service, &key, position.clone());
        for nth in 1..=10 {
            assert_eq!(gateway.applied().await, (10 * round + nth, 1), "nothing is repeated");
        }
        gateway.stop().await;
        service.eventually(&path, |gateway| gateway["confirmed"] == 10 * (round + 1)).await;
    }
}

async fn a_client_reconnects_when_the_service_is_replaced(backend: Backend) {
    let mut service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let position = service.directory().join("position");
    let mut gateway = Gateway::start(&service, &key, position);
    publish(&service, &id, 5).await;
    for sequence in 1..=5 {
        assert_eq!(gateway.applied().await, (sequence, 1));
    }
    let path = format!("/gateways/{id}");
    service.eventually(&path, |gateway| gateway["confirmed"] == 5).await;
    assert_eq!(service.terminate().await, Some(0));
    service.restart().await;
    publish(&service, &id, 5).await;
    for sequence in 6..=10 {
        assert_eq!(gateway.applied().await.0, sequence);
    }
    gateway.stop().await;
}

async fn a_position_in_another_log_leads_to_a_snapshot(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 7).await;
    let position = service.directory().join("position");
    let other =
        r#"{"format":1,"position":{"epoch":"01890a5d-ac96-774b-bcce-b302099a8057","sequence":40}}"#;
    std::fs::write(&position, other).expect("written");
    let mut gateway = Gateway::start(&service, &key, position);
    let gap = loop {
        match gateway.next().await {
            Observation::Snapshot(gap) => break gap,
            Observation::Applied(sequence, _) => panic!("{sequence} came before the snapshot"),
            Observation::Notice(_) => {}
        }
    };
    assert_eq!((gap.reason, gap.resume_at.0), (GapReason::Epoch, 7));
    publish(&service, &id, 1).await;
    assert_eq!(gateway.applied().await, (8, 1));
    gateway.stop().await;
}

#[tokio::test]
async fn a_damaged_position_ends_the_client_and_is_kept() {
    let service = Service::start().await;
    let (_, key) = service.gateway("one").await;
    let position = service.directory().join("position");
    std::fs::write(&position, "{\"format\":1,").expect("written");
    let gateway = Gateway::start(&service, &key, position.clone());
    let ended = gateway.end().await;
    assert!(
        matches!(ended, Err(ClientError::Position(PositionError::Damaged { .. }))),
        "{ended:?}"
    );
    let mut listen = service.command("listen --as-gateway --yes --reliable --position");
    let said =
        crate::support::command::run(listen.arg(&position).env("GATEWAY_EVENTS_KEY", &key)).await;
    said.failed(1, &["is damaged", "restore it from a backup"]);
    assert_eq!(std::fs::read_to_string(position).expect("it exists"), "{\"format\":1,");
}

#[tokio::test]
async fn a_client_whose_key_is_revoked_or_unknown_stops() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let position = service.directory().join("position");
    let mut gateway = Gateway::start(&service, &key, position.clone());
    while !matches!(gateway.next().await, Observation::Notice(Notice::Resumed(_))) {}
    let tokens = service.api().get(&format!("/gateways/{id}/tokens")).await.expect("tokens");
    let token = tokens["list"][0]["id"].as_str().expect("an id");
    service.api().delete(&format!("/gateways/{id}/tokens/{token}")).await.expect("revoked");
    let ended = gateway.end().await;
    assert!(matches!(ended, Err(ClientError::Closed { code: 4500, .. })), "{ended:?}");
    let gateway = Gateway::start(&service, &key, position);
    let ended = gateway.end().await;
    assert!(matches!(ended, Err(ClientError::Refused(401))), "{ended:?}");
}
