//! Redrives: a dead letter is appended again, once.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::both_databases::{Backend, on_both};
use crate::inbox_program::Program as InboxProgram;
use crate::support::{Service, deployed, failed_report};

/// Registers a gateway and makes it report this many deployments as failed.
async fn with_dead_letters(service: &Service, name: &str, count: i64) -> String {
    let (id, key) = service.gateway(name).await;
    let mut socket = service.connected(&key).await;
    let events: Vec<Value> =
        (1..=count).map(|nth| deployed(&[&id], &format!("{name}-{nth}"))).collect();
    service.admin().post("/events", &json!(events)).await.success();
    socket.expect(1..=count).await;
    for nth in 1..=count {
        socket.send(Message::text(failed_report(&format!("{name}-{nth}")))).await;
    }
    let socket = socket.serve();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == count).await;
    let failed = format!("/deliveries?gatewayId={id}&reason=gateway_processing_error");
    service.eventually(&failed, |page| page["count"] == count).await;
    socket.abort();
    id
}

/// The counts of a redrive's answer that are not 0.
fn counts(answer: &Value) -> Value {
    let counts = answer.as_object().expect("an object").iter();
    let counts = counts.filter(|(_, value)| value.as_i64().is_some_and(|count| count != 0));
    counts.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Each of several calls at the same time accounts for every delivery that matches.
async fn concurrent_redrives_report_deliveries_that_another_appended(backend: Backend) {
    const DEAD_LETTERS: i64 = 30;
    let service = backend.start().await;
    let id = with_dead_letters(&service, "one", DEAD_LETTERS).await;
    let admin = service.admin();
    let filter = json!({"filter": {"gatewayId": id, "reason": "gateway_processing_error"}});
    let calls = (0..10).map(|_| admin.post("/deliveries/redrive", &filter));
    let mut redriven = 0;
    for answer in join_all(calls).await {
        let answer = answer.success();
        let here = i64::try_from(answer["redriven"].as_array().expect("a list").len());
        let here = here.expect("few");
        redriven += here;
        let others = answer["alreadyRedriven"].as_i64().expect("a count");
        assert_eq!(here + others, DEAD_LETTERS, "{answer:#}");
    }
    assert_eq!(redriven, DEAD_LETTERS, "each was redriven once");
    let gateway = admin.get(&format!("/gateways/{id}")).await.success();
    assert_eq!(gateway["head"], 2 * DEAD_LETTERS);
}

/// Dead letters of a deleted gateway are counted, not silently skipped.
async fn a_redrive_counts_the_dead_letters_of_deleted_gateways(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let id = with_dead_letters(&service, "gone", 2).await;
    let failed = admin.get(&format!("/deliveries?gatewayId={id}")).await.success();
    let event = failed["list"][0]["eventId"].as_str().expect("an id").to_owned();
    let one = json!({"gatewayId": id, "sequence": 1});
    admin.post("/deliveries/redrive", &one).await.success();
    admin.delete(&format!("/gateways/{id}")).await.success();
    for (body, expected) in [
        (json!({"filter": {"eventId": event}}), json!({"gatewayDeleted": 1})),
        (
            json!({"filter": {"gatewayId": id, "reason": "gateway_processing_error"}}),
            json!({"alreadyRedriven": 1, "gatewayDeleted": 1}),
        ),
        // What had not been delivered when the gateway was deleted: the redriven one.
        (json!({"filter": {"reason": "gateway_deleted"}}), json!({"gatewayDeleted": 1})),
        (json!({"gatewayId": id, "sequence": 2}), json!({"gatewayDeleted": 1})),
        (json!({"gatewayId": id, "sequence": 1}), json!({"alreadyRedriven": 1})),
    ] {
        for is_dry_run in [true, false] {
            let mut body = body.clone();
            body["dryRun"] = json!(is_dry_run);
            let answer = admin.post("/deliveries/redrive", &body).await.success();
            assert_eq!(answer["redriven"], json!([]), "{body}");
            assert_eq!(counts(&answer), expected, "{body}: {answer:#}");
        }
    }
    let beyond = json!({"gatewayId": id, "sequence": 4});
    admin.post("/deliveries/redrive", &beyond).await.refusal(404, "not_found");
    let said = service.run(&format!("delivery redrive --event {event}")).await;
    assert!(said.well().contains("1 skipped: the gateway is deleted"), "{said:?}");
}

/// The same number of dead letters wherever it is shown.
async fn verify_and_totals_count_the_same_dead_letters(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let kept = with_dead_letters(&service, "kept", 3).await;
    let gone = with_dead_letters(&service, "gone", 2).await;
    let agree = async |expected: i64| {
        let stats = admin.get("/stats").await.success();
        assert_eq!(stats["eventDelivery"]["deadLetters"], expected, "{stats:#}");
        let report = backend.verify(&service).await;
        assert_eq!((report.dead_letters, &report.problems[..]), (expected, &[][..]));
    };
    agree(5).await;
    let one = json!({"gatewayId": kept, "sequence": 2});
    admin.post("/deliveries/redrive", &one).await.success();
    agree(4).await;
    admin.delete(&format!("/gateways/{gone}")).await.success();
    agree(2).await;
}

on_both! {
    concurrent_redrives_report_deliveries_that_another_appended
    a_redrive_counts_the_dead_letters_of_deleted_gateways
    verify_and_totals_count_the_same_dead_letters
}

#[tokio::test]
async fn only_dead_letters_are_redriven_and_only_once() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    let batch = json!([deployed(&[&id], "d-1"), deployed(&[&id], "d-2"), deployed(&[&id], "d-3")]);
    admin.post("/events", &batch).await.success();
    socket.expect(1..=3).await;
    for deployment in ["d-1", "d-2"] {
        socket.send(Message::text(failed_report(deployment))).await;
    }
    let socket = socket.serve();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 3).await;
    service.eventually("/deliveries", |page| page["count"] == 2).await;
    let redrive = async |body: Value| admin.post("/deliveries/redrive", &body).await;
    let one = |sequence: i64| json!({"gatewayId": id, "sequence": sequence});
    let filter = json!({"filter": {"gatewayId": id, "reason": "gateway_processing_error"}});

    let mut dry = filter.clone();
    dry["dryRun"] = json!(true);
    for _ in 0..2 {
        let would = redrive(dry.clone()).await.success();
        assert_eq!(would["redriven"].as_array().map(Vec::len), Some(2), "{would:#}");
        assert_eq!(would["redriven"][0]["newSequence"], Value::Null);
    }
    assert_eq!(admin.get(&format!("/gateways/{id}")).await.success()["head"], 3);

    let delivered = redrive(one(3)).await.success();
    assert_eq!((&delivered["redriven"], &delivered["delivered"]), (&json!([]), &json!(1)));
    let first = redrive(one(1)).await.success();
    assert_eq!(first["redriven"][0]["newSequence"], 4, "{first:#}");
    assert_eq!(redrive(one(1)).await.success()["alreadyRedriven"], 1);
    let rest = redrive(filter.clone()).await.success();
    assert_eq!(rest["redriven"].as_array().map(Vec::len), Some(1), "{rest:#}");
    assert_eq!(rest["redriven"][0]["sequence"], 2);
    assert_eq!(rest["alreadyRedriven"], 1);
    let nothing = redrive(filter).await.success();
    assert_eq!((&nothing["redriven"], &nothing["alreadyRedriven"]), (&json!([]), &json!(2)));

    redrive(one(99)).await.refusal(404, "not_found");
    redrive(json!({"gatewayId": gateway_events::event::GatewayId::new(), "sequence": 1}))
        .await
        .refusal(404, "not_found");
    for (body, field, says) in [
        (json!({}), "body", "gatewayId and sequence"),
        (json!({"gatewayId": id}), "body", "gatewayId and sequence"),
        (json!({"gatewayId": id, "sequence": 1, "filter": {}}), "body", "gatewayId and sequence"),
        (one(0), "sequence", "1 to 9007199254740991"),
        (json!({"filter": {}}), "filter", "at least one condition"),
        (json!({"filter": {}, "dryRun": true}), "filter", "at least one condition"),
        (json!({"filter": {"reason": "bored"}}), "filter/reason", "not_connected"),
        (json!({"filter": {"limit": 1}}), "filter/limit", "gatewayId"),
        (json!({"filter": {}, "dryrun": true}), "dryrun", "dryRun"),
    ] {
        redrive(body).await.invalid(field, &[says]);
    }
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 5).await;
    let failed = admin.get("/deliveries").await.success();
    for row in failed["list"].as_array().expect("a list") {
        assert_eq!((&row["redriven"], &row["state"]), (&json!(true), &json!("failed")), "{row:#}");
        let new = row["sequence"].as_i64().expect("a sequence") + 3;
        assert_eq!(row["redrivenAs"], json!({"sequence": new, "state": "delivered"}), "{row:#}");
        assert_eq!((&row["deliveredSince"], &row["attemptCount"]), (&json!(true), &json!(2)));
    }
    let shown = service.run("delivery failed").await;
    assert!(shown.well().contains("redriven as 4: delivered"), "{shown:?}");
    socket.abort();
}

/// A list shows the last day by default; a redrive leaves no older dead letter behind.
#[tokio::test]
async fn a_redrive_without_a_start_finds_dead_letters_of_any_age() {
    let service = Service::start().await;
    let id = with_dead_letters(&service, "one", 2).await;
    let program = InboxProgram::start(&service.database()).await;
    let mut database = program.connection().await;
    let three_days = 3 * 24 * 3600 * 1_000_000_i64;
    for earlier in [
        "update attempts set started_at = started_at - $1, finished_at = finished_at - $1
         where first_sequence = 1",
        "update dead_letters set dead_at = dead_at - $1 where first_sequence = 1",
    ] {
        sqlx::query(earlier).bind(three_days).execute(&mut *database).await.expect("changed");
    }
    drop(database);
    let admin = service.admin();
    let listed = admin.get(&format!("/deliveries?gatewayId={id}")).await.success();
    assert_eq!(listed["count"], 1, "{listed:#}");
    let all = json!({"filter": {"gatewayId": id}});
    let answer = admin.post("/deliveries/redrive", &all).await.success();
    assert_eq!(answer["redriven"].as_array().map(Vec::len), Some(2), "{answer:#}");
}

/// An event was valid when it was published, so a redrive does not validate it again.
#[tokio::test]
async fn an_event_is_redriven_although_its_type_is_not_registered_any_more() {
    let service = Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", "1")]).await;
    let admin = service.admin();
    let (id, key) = service.gateway("one").await;
    admin.put("/event-types/cache.purged", &json!({})).await.success();
    let event = json!({"type": "cache.purged", "payload": {"n": 1}, "gatewayIds": [id]});
    let event = admin.post("/events", &event).await.success();
    let event = format!("/events/{}", event["id"].as_str().expect("an id"));
    let mut socket = service.connected(&key).await;
    socket.expect(1..=1).await;
    drop(socket);
    service.eventually("/deliveries", |page| page["list"][0]["state"] == "failed").await;
    let program = InboxProgram::start(&service.database()).await;
    let mut database = program.connection().await;
    let unregister = sqlx::query("delete from event_types where name = 'cache.purged'");
    unregister.execute(&mut *database).await.expect("deleted");
    drop(database);
    admin.get("/event-types/cache.purged").await.refusal(404, "not_found");

    let one = json!({"gatewayId": id, "sequence": 1});
    let answer = admin.post("/deliveries/redrive", &one).await.success();
    assert_eq!(answer["redriven"][0]["newSequence"], 2, "{answer:#}");
    let mut socket = service.connected(&key).await;
    assert_eq!(socket.expect(2..=2).await[0]["payload"]["n"], 1);
    // Each delivery was appended at a time of its own.
    let shown = admin.get(&event).await.success();
    let appended = |nth: usize| shown["deliveries"][nth]["appendedAt"].as_str().expect("a time");
    assert_eq!(appended(0), shown["appendedAt"], "{shown:#}");
    assert!(appended(0) < appended(1), "{shown:#}");
    let log = admin.get(&format!("/gateways/{id}/log?after=1")).await.success();
    assert_eq!(log["list"][0]["appendedAt"], appended(1), "{log:#}");
}
