//! Replays, resends and redrives that are repeated by a client that does not know whether the first
//! request succeeded.

use futures_util::future::join_all;
use gateway_events::api::ResendRequest;
use gateway_events::client::api::Api;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::both_databases::{Backend, on_both};
use crate::fake_service::FakeService;
use crate::support::http::{Caller, Reply, reply};
use crate::support::{Service, deployed, failed_report};

on_both! {
    a_repeated_replay_appends_nothing_again
    a_repeated_resend_appends_nothing_again
    a_repeated_redrive_gets_the_first_answer
    a_repeated_replay_gets_the_job_of_the_first
    concurrent_repeats_of_a_replay_append_once
    a_key_belongs_to_one_request
}

/// Posts with an `Idempotency-Key`.
async fn once(admin: &Caller, key: &str, path: &str, body: &Value) -> Reply {
    reply(admin.request(Method::POST, path).header("idempotency-key", key).json(body)).await
}

async fn fill(admin: &Caller, gateway: &str, count: usize) {
    let batch: Vec<Value> =
        (0..count).map(|nth| deployed(&[gateway], &format!("d-{nth}"))).collect();
    admin.post("/events", &json!(batch)).await.success();
}

async fn head(admin: &Caller, gateway: &str) -> i64 {
    let gateway = admin.get(&format!("/gateways/{gateway}")).await.success();
    gateway["head"].as_i64().expect("a sequence")
}

async fn a_repeated_replay_appends_nothing_again(backend: Backend) {
    let mut service = backend.start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("berlin").await;
    fill(&admin, &id, 4).await;
    let path = format!("/gateways/{id}/replay");
    // A range and a window without an end, which would contain more when it is repeated.
    for (nth, body) in
        [json!({"fromSequence": 2}), json!({"from": "2020-01-01T00:00:00Z"})].iter().enumerate()
    {
        let key = format!("k-{nth}");
        let first = once(&admin, &key, &path, body).await;
        assert_eq!(first.status, 200, "{first:?}");
        assert!(first.json()["replayed"].as_i64() > Some(0), "{first:?}");
        let after = head(&admin, &id).await;
        let again = once(&admin, &key, &path, body).await;
        assert_eq!((again.status, again.json()), (200, first.json()));
        assert_eq!(head(&admin, &id).await, after, "nothing was appended again");
    }
    let records = admin.get("/audit?action=gateway.replayed").await.success();
    assert_eq!(records["count"], 2, "{records:#}");
    // A dry run neither uses a key nor is answered from one.
    let dry = json!({"fromSequence": 1, "dryRun": true});
    let would = once(&admin, "k-dry", &path, &dry).await.success();
    assert_eq!(would["firstNewSequence"], Value::Null, "{would:#}");
    let body = json!({"fromSequence": 1, "toSequence": 1});
    let done = once(&admin, "k-dry", &path, &body).await.success();
    assert_eq!(done["replayed"], 1, "{done:#}");
    // The answer is in the database.
    let body = json!({"fromSequence": 4, "toSequence": 4});
    let last = json!({"fromSequence": head(&admin, &id).await});
    once(&admin, "k-1", &path, &body).await.refusal(422, "idempotency_key_reused");
    let first = once(&admin, "k-last", &path, &last).await.success();
    service.kill().await;
    service.restart().await;
    let again = once(&service.admin(), "k-last", &path, &last).await.success();
    assert_eq!(again, first);
    assert!(backend.verify(&service).await.problems.is_empty());
}

async fn a_repeated_resend_appends_nothing_again(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("berlin").await;
    let event = admin.post("/events", &deployed(&[&id], "d-1")).await.success();
    let path = format!("/events/{}/resend", event["id"].as_str().expect("an id"));
    let body = json!({"gatewayIds": [id], "force": true});
    let first = once(&admin, "k-1", &path, &body).await.success();
    assert_eq!(first["deliveries"][0]["sequence"], 2, "{first:#}");
    assert_eq!(once(&admin, "k-1", &path, &body).await.success(), first);
    assert_eq!(head(&admin, &id).await, 2);
    let second = once(&admin, "k-2", &path, &body).await.success();
    assert_eq!(second["deliveries"][0]["sequence"], 3, "a new key is a new request: {second:#}");
    // What was refused is not stored.
    let unknown = json!({"gatewayIds": ["00000000-0000-0000-0000-000000000000"]});
    once(&admin, "k-3", &path, &unknown).await.refusal(404, "unknown_gateways");
    once(&admin, "k-3", &path, &body).await.success();
    assert_eq!(head(&admin, &id).await, 4);
}

/// A gateway whose first deliveries are dead letters.
async fn with_dead_letters(service: &Service, count: i64) -> String {
    let (id, key) = service.gateway("berlin").await;
    let mut socket = service.connected(&key).await;
    fill(&service.admin(), &id, usize::try_from(count).expect("few")).await;
    socket.expect(1..=count).await;
    for nth in 0..count {
        socket.send(Message::text(failed_report(&format!("d-{nth}")))).await;
    }
    let failed = format!("/deliveries?gatewayId={id}&reason=gateway_processing_error");
    service.eventually(&failed, |page| page["count"] == count).await;
    id
}

async fn a_repeated_redrive_gets_the_first_answer(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let id = with_dead_letters(&service, 3).await;
    let path = "/deliveries/redrive";
    let one = json!({"gatewayId": id, "sequence": 2});
    let all = json!({"filter": {"gatewayId": id, "reason": "gateway_processing_error"}});
    for (key, body, count) in [("k-1", one, 1), ("k-2", all, 2)] {
        let first = once(&admin, key, path, &body).await.success();
        assert_eq!(first["redriven"].as_array().map(Vec::len), Some(count), "{first:#}");
        assert_eq!(once(&admin, key, path, &body).await.success(), first);
    }
    assert_eq!(head(&admin, &id).await, 6);
    // One that found nothing is not stored.
    let again = json!({"gatewayId": id, "sequence": 1});
    let nothing = once(&admin, "k-3", path, &again).await.success();
    assert_eq!(nothing["alreadyRedriven"], 1, "{nothing:#}");
    once(&admin, "k-2", path, &again).await.refusal(422, "idempotency_key_reused");
}

async fn a_repeated_replay_gets_the_job_of_the_first(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("berlin").await;
    fill(&admin, &id, 600).await;
    let path = format!("/gateways/{id}/replay");
    let body = json!({"fromSequence": 1});
    let first = once(&admin, "k-1", &path, &body).await;
    assert_eq!(first.status, 202, "{first:?}");
    let first = first.json();
    let job = format!("/jobs/{}", first["job"]["id"].as_str().expect("an id"));
    service.eventually(&job, |job| job["state"] == "done").await;
    let again = once(&admin, "k-1", &path, &body).await;
    assert_eq!(again.status, 202, "{again:?}");
    let again = again.json();
    assert_eq!(again["job"]["id"], first["job"]["id"], "{again:#}");
    assert_eq!(again["job"]["state"], "done", "as it is now: {again:#}");
    assert_eq!(again["toSequence"], first["toSequence"], "{again:#}");
    assert_eq!(head(&admin, &id).await, 1200);
    assert_eq!(admin.get("/jobs").await.success()["count"], 1);
}

async fn concurrent_repeats_of_a_replay_append_once(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("berlin").await;
    fill(&admin, &id, 3).await;
    let path = format!("/gateways/{id}/replay");
    let body = json!({"fromSequence": 1});
    let repeats = (0..8).map(|_| once(&admin, "k-1", &path, &body));
    // One that met another one is refused with 503, and may be repeated.
    let answers: Vec<Reply> =
        join_all(repeats).await.into_iter().filter(|reply| reply.status != 503).collect();
    let first = answers[0].success();
    assert!(answers.iter().all(|reply| reply.success() == first), "{answers:?}");
    assert_eq!(once(&admin, "k-1", &path, &body).await.success(), first);
    assert_eq!(head(&admin, &id).await, 6);
}

async fn a_key_belongs_to_one_request(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("berlin").await;
    let (other, _) = service.gateway("tokyo").await;
    fill(&admin, &id, 2).await;
    fill(&admin, &other, 2).await;
    let body = json!({"fromSequence": 1});
    once(&admin, "k-1", &format!("/gateways/{id}/replay"), &body).await.success();
    let elsewhere = once(&admin, "k-1", &format!("/gateways/{other}/replay"), &body).await;
    elsewhere.refusal(422, "idempotency_key_reused");
    assert_eq!(head(&admin, &other).await, 2);
    let long = "k".repeat(256);
    let refused = once(&admin, &long, &format!("/gateways/{other}/replay"), &body).await;
    refused.invalid("Idempotency-Key", &["1 to 255"]);
    // Publishing has keys of its own.
    admin.publish_once("k-1", &deployed(&[&other], "d-9")).await.success();
    assert_eq!(head(&admin, &other).await, 3);
}

#[tokio::test]
async fn the_client_repeats_an_action_whose_answer_was_lost_with_the_same_key() {
    let service = FakeService::start().await;
    let api = Api::new(service.url().as_str(), None, &service.trust()).expect("a client");
    let (id, request) = ("e1".parse().expect("an id"), ResendRequest::default());
    let resent = r#"{"id":"e1","deliveries":[],"alreadyInLog":[],"warnings":[]}"#;
    let answers = async {
        let lost = service.answer(None).await;
        (lost, service.answer(Some(resent)).await)
    };
    let (done, (first, second)) = futures_util::join!(api.resend(&id, &request), answers);
    assert_eq!(done.expect("done").id, id);
    let key = |head: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix("idempotency-key: "));
        line.expect("a key").to_owned()
    };
    assert_eq!(key(&first), key(&second));
}
