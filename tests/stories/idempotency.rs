//! Repeated requests of a publisher that does not know whether the first one succeeded.

use gateway_events::client::api::ApiError;
use gateway_events::clock::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::support::{JsonApi, Service, TEST_TIMEOUT, deployed};

mod actions;

async fn publish(api: &JsonApi, key: &str, body: &Value) -> Result<Value, ApiError> {
    let request = api.request(Method::POST, "/events").json(body);
    api.send(request.header("Idempotency-Key", key)).await
}

#[tokio::test]
async fn a_repeated_batch_gets_the_first_answers_though_more_of_it_is_valid_now() {
    let service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    let api = service.api();
    let purged = json!({"type": "cache.purged", "gatewayIds": [id], "payload": {}});
    let batch = json!([purged, deployed(&[&id], "d-1"), {"type": "api.deployed"}]);
    let first = publish(&api, "k-1", &batch).await.expect("validated event by event");
    assert_eq!(first["results"][0]["code"], "unknown_event_type", "{first:#}");
    assert_eq!(first["results"][1]["status"], 202, "{first:#}");
    assert_eq!(first["results"][2]["code"], "invalid", "{first:#}");
    let description = json!({"description": "A cache was purged"});
    api.put("/event-types/cache.purged", &description).await.expect("registered");
    assert_eq!(publish(&api, "k-1", &batch).await.expect("a repeat"), first);
    let gateway = api.get(&format!("/gateways/{id}")).await.expect("the gateway");
    assert_eq!(gateway["head"], 1);
    // With a new key it is a new request.
    let again = publish(&api, "k-2", &batch).await.expect("validated event by event");
    assert_eq!(again["results"][0]["deliveries"][0]["sequence"], 2, "{again:#}");
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer_though_the_event_has_expired_meanwhile() {
    let service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    let api = service.api();
    let soon = Timestamp::now().plus(std::time::Duration::from_millis(800));
    let mut by_key = deployed(&[&id], "d-1");
    by_key["expiresAt"] = json!(soon);
    let mut by_id = deployed(&[&id], "d-2");
    by_id["expiresAt"] = json!(soon);
    by_id["id"] = json!("mine-1");
    let first_by_key = publish(&api, "k-1", &by_key).await.expect("accepted");
    let first_by_id = api.post("/events", &by_id).await.expect("accepted");
    // It is refused once the instant has passed: the test waits for the service's clock.
    let mut probe = deployed(&["00000000-0000-0000-0000-000000000000"], "d-3");
    probe["expiresAt"] = json!(soon);
    let expired = async {
        while api.post("/events", &probe).await.expect_err("never accepted").status() != Some(422) {
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, expired).await.expect("it expires");
    assert_eq!(publish(&api, "k-1", &by_key).await.expect("a repeat"), first_by_key);
    assert_eq!(api.post("/events", &by_id).await.expect("a repeat"), first_by_id);
    let new = publish(&api, "k-2", &by_key).await.expect_err("it has expired");
    assert_eq!(new.status(), Some(422));
    by_id["payload"]["deploymentId"] = json!("d-4");
    assert_eq!(api.post("/events", &by_id).await.expect_err("another").status(), Some(422));
}

#[tokio::test]
async fn concurrent_repeats_of_a_batch_get_one_answer() {
    let service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    let api = service.api();
    let batch = json!([deployed(&[&id], "d-1"), {"type": "no.such"}, deployed(&[&id], "d-2")]);
    let repeats = (0..16).map(|_| publish(&api, "k-1", &batch));
    let answers = futures_util::future::join_all(repeats).await;
    let first = answers[0].as_ref().expect("an answer");
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer == first)));
    let gateway = api.get(&format!("/gateways/{id}")).await.expect("the gateway");
    assert_eq!(gateway["head"], 2);
}

#[tokio::test]
async fn an_answer_stored_by_an_earlier_version_is_still_returned() {
    let service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    let api = service.api();
    let batch = json!([{"type": "no.such"}, deployed(&[&id], "d-1")]);
    let first = publish(&api, "k-1", &batch).await.expect("validated event by event");
    // It stored results of the valid events only.
    let mut database = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(service.database())
        .connect()
        .await
        .expect("the database");
    let cut = "update idempotency_keys set answer = json_array(json(answer -> 1))";
    let cut = sqlx::query(cut).execute(&mut database).await.expect("shortened");
    assert_eq!(cut.rows_affected(), 1);
    database.close().await.expect("closed");
    assert_eq!(publish(&api, "k-1", &batch).await.expect("a repeat"), first);
}
