//! Failed deliveries: their reasons, and redrives.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::both_databases::{Backend, on_both};
use crate::support::{deployed, get};

on_both! {
    a_character_that_a_database_can_not_store_is_refused_or_replaced
    an_event_for_a_disconnected_gateway_is_recorded_as_failed_and_still_arrives
    a_failed_deployment_is_a_dead_letter_and_can_be_redriven
    a_repeated_publish_gets_the_first_answer_and_an_invalid_one_stores_nothing
}

async fn an_event_for_a_disconnected_gateway_is_recorded_as_failed_and_still_arrives(
    backend: Backend,
) {
    let service = backend.start().await;
    let (id, key) = service.gateway("away").await;
    let api = service.api();
    for deployment in ["d-1", "d-2", "d-3"] {
        api.post("/events", &deployed(&[&id], deployment)).await.expect("accepted");
    }
    let path = format!("/deliveries?status=failed&gatewayId={id}");
    let failed = service.eventually(&path, |page| page["count"] == 3).await;
    for delivery in failed["list"].as_array().expect("a list") {
        assert_eq!(delivery["reason"], "not_connected");
        assert_eq!(delivery["deliveredSince"], false);
    }
    let mut socket = service.connected(&key).await;
    socket.expect(1..=3).await;
    let socket = socket.serve();
    service
        .eventually(&path, |page| {
            page["list"]
                .as_array()
                .is_some_and(|list| list.iter().all(|row| row["deliveredSince"] == true))
        })
        .await;
    let expired = get(&api, &format!("{path}&to=2020-01-01T00:00:00Z&from=2019-01-01T00:00:00Z"))
        .await
        .expect("a page");
    assert_eq!(expired["count"], 0);
    let refused =
        get(&api, &format!("{path}&from=2020-01-01T00:00:00Z&to=2019-01-01T00:00:00Z")).await;
    assert_eq!(refused.expect_err("a window backwards").status(), Some(422));
    socket.abort();
}

async fn a_failed_deployment_is_a_dead_letter_and_can_be_redriven(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    let first = socket.expect(1..=1).await.remove(0);
    let ack = json!({"type": "deployment.ack", "payload": {
        "deploymentId": "d-1", "artifactId": "a-1", "resourceType": "api", "action": "deploy",
        "status": "failed", "performedAt": "2026-01-31T10:30:00.001+01:00",
        "errorCode": "GATEWAY_PROCESSING_ERROR"}});
    socket.send(Message::text(ack.to_string())).await;
    // The report arrives before the pong for the ping after the event.
    let mut background = Box::pin(socket.next());
    let path = format!("/deliveries?status=failed&gatewayId={id}");
    let failed = tokio::select! {
        page = service.eventually(&path, |page| page["count"] == 1) => page,
        _ = &mut background => panic!("nothing else was published"),
    };
    assert_eq!(failed["list"][0]["reason"], "gateway_processing_error");
    assert_eq!(failed["list"][0]["state"], "failed");
    let redrive = json!({"gatewayId": id, "sequence": 1});
    let redriven = service.api().post("/deliveries/redrive", &redrive).await.expect("redriven");
    assert_eq!(redriven["redriven"][0]["newSequence"], 2, "{redriven:#}");
    let again = background.await.expect("the event again");
    assert_eq!(again["sequence"], 2);
    assert_eq!(again["eventId"], first["eventId"]);
    assert_eq!(again["correlationId"], first["correlationId"]);
    let twice = service.api().post("/deliveries/redrive", &redrive).await.expect("an answer");
    assert_eq!(twice["alreadyRedriven"], 1, "{twice:#}");
}

async fn a_repeated_publish_gets_the_first_answer_and_an_invalid_one_stores_nothing(
    backend: Backend,
) {
    let service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    let mut event = deployed(&[&id], "d-1");
    event["id"] = json!("mine-1");
    let first = service.api().post("/events", &event).await.expect("accepted");
    assert_eq!(service.api().post("/events", &event).await.expect("a repeat"), first);
    event["payload"]["deploymentId"] = json!("d-2");
    service.api().post("/events", &event).await.expect_err("the id is taken");
    let unknown = "00000000-0000-0000-0000-000000000000";
    let refused = service.api().post("/events", &deployed(&[&id, unknown], "d-3")).await;
    assert_eq!(refused.expect_err("unknown gateway").status(), Some(404));
    let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("the gateway");
    assert_eq!(gateway["head"], 1);
}

async fn a_character_that_a_database_can_not_store_is_refused_or_replaced(backend: Backend) {
    let service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    let mut event = deployed(&[&id], "d-\u{0}");
    event["userId"] = json!("a\u{0}b");
    let refused = service.api().post("/events", &event).await;
    assert_eq!(refused.expect_err("no user has such a name").status(), Some(422));
    // In a payload it is escaped, and is kept.
    event["userId"] = json!("ab");
    service.api().post("/events", &event).await.expect("accepted");
    let described = json!({"description": "a\u{0}b", "schema": {"type": "object"}});
    service.api().put("/event-types/cache.purged", &described).await.expect("registered");
}
