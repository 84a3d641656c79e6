//! Corrective actions as admins use them, over HTTP and on the command line, while gateways are
//! connected.

#![expect(clippy::unwrap_used, reason = "a story that finds no answer has failed")]

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::both_databases::{Backend, on_both};
use crate::server::Database;
use crate::support::http::{Caller, Reply, reply};
use crate::support::{Service, TEST_TIMEOUT, deployed};

on_both! {
    a_paused_gateway_gets_nothing_until_it_is_resumed
    a_pause_survives_a_restart
    an_event_that_holds_up_a_gateway_is_skipped_and_redriven_later
    requests_that_can_not_be_done_are_refused
    reasons_are_escaped_in_output
    purged_payload_is_erased_and_the_purge_is_recorded
    a_purge_removes_what_a_rejection_quotes_of_the_payload
    a_rejected_row_is_corrected_and_published
}

/// Terminal escapes, a bidirectional control and a line break.
const HOSTILE: &str = "up\u{1b}[31m\u{202e}date\n2";
const SANITIZED: &str = "up\u{fffd}[31m\u{fffd}date 2";

async fn publish(service: &Service, id: &str, numbers: std::ops::RangeInclusive<i64>) {
    for number in numbers {
        let event = deployed(&[id], &format!("d-{number}"));
        service.admin().post("/events", &event).await.success();
    }
}

async fn remove(caller: &Caller, path: &str, body: &Value) -> Reply {
    reply(caller.request(Method::DELETE, path).json(body)).await
}

async fn a_paused_gateway_gets_nothing_until_it_is_resumed(backend: Backend) {
    let service = backend.start_with(&[("DELIVERY__HEARTBEAT_INTERVAL", "200ms")]).await;
    let admin = service.admin();
    let (id, key) = service.gateway("berlin").await;
    let mut socket = service.connected(&key).await;
    publish(&service, &id, 1..=1).await;
    socket.expect(1..=1).await;
    let dry = json!({"reason": "upgrade", "dryRun": true});
    let would = admin.post(&format!("/gateways/{id}/pause"), &dry).await.success();
    assert_eq!((&would["changed"], &would["gateway"]["paused"]), (&json!(true), &Value::Null));
    let said = service.run("gateway pause berlin --reason upgrade").await;
    assert!(said.well().starts_with("gateway berlin is paused by first since "), "{said:?}");
    let said = service.run("gateway pause berlin --reason other").await;
    assert!(said.well().contains("is already paused by first since "), "{said:?}");
    let shown = admin.get(&format!("/gateways/{id}")).await.success();
    assert_eq!(shown["paused"]["reason"], "upgrade");
    assert_eq!(shown["verdict"]["state"], "paused");
    assert_eq!(shown["verdict"]["reason"], "paused by first: upgrade");
    assert_eq!(shown["verdict"]["since"], shown["paused"]["at"]);

    publish(&service, &id, 2..=4).await;
    // Pings go on, and no event comes before several of them.
    for _ in 0..4 {
        let next = tokio::time::timeout(TEST_TIMEOUT, socket.pinged_before_text());
        assert!(next.await.unwrap(), "an event was sent during the pause");
    }
    let said = service.run("gateway show berlin").await;
    assert!(said.well().contains(" paused by first since "), "{said:?}");
    assert!(said.well().contains("Z: upgrade\n"), "{said:?}");
    let failed = admin.get(&format!("/deliveries?gatewayId={id}")).await.success();
    assert_eq!(failed["count"], 0, "{failed:#}");

    let resumed = admin.post(&format!("/gateways/{id}/resume"), &json!({})).await.success();
    assert_eq!(resumed["changed"], true);
    socket.expect(2..=4).await;
    let socket = socket.serve();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 4).await;
    socket.abort();
    // A body is optional.
    let again = reply(admin.request(Method::POST, &format!("/gateways/{id}/resume"))).await;
    assert_eq!(again.success()["changed"], false);
    let said = service.run("gateway resume berlin").await;
    assert_eq!(said.well().trim(), "gateway berlin was not paused; nothing was changed");
}

async fn a_pause_survives_a_restart(backend: Backend) {
    let mut service = backend.start_with(&[("DELIVERY__HEARTBEAT_INTERVAL", "200ms")]).await;
    let (id, key) = service.gateway("berlin").await;
    service.admin().post(&format!("/gateways/{id}/pause"), &json!({})).await.success();
    publish(&service, &id, 1..=2).await;
    service.kill().await;
    service.restart().await;
    // A paused gateway may connect.
    let mut socket = service.connected(&key).await;
    for _ in 0..3 {
        assert!(tokio::time::timeout(TEST_TIMEOUT, socket.pinged_before_text()).await.unwrap());
    }
    service.admin().post(&format!("/gateways/{id}/resume"), &json!({})).await.success();
    socket.expect(1..=2).await;
}

async fn an_event_that_holds_up_a_gateway_is_skipped_and_redriven_later(backend: Backend) {
    let service = backend.start_with(&[("DELIVERY__WINDOW_EVENTS", "1")]).await;
    let admin = service.admin();
    let (id, key) = service.gateway("berlin").await;
    let mut socket = service.connected(&key).await;
    publish(&service, &id, 1..=3).await;
    // The first one is never confirmed; reading without flushing sends no pong.
    assert_eq!(socket.unanswered().await["sequence"], 1);
    let dry = json!({"sequence": 1, "reason": "hangs", "dryRun": true});
    let would = admin.post(&format!("/gateways/{id}/skip"), &dry).await.success();
    assert_eq!((&would["changed"], &would["dryRun"]), (&json!(true), &json!(true)));
    let said = service.run("gateway skip berlin 1 --reason hangs").await;
    said.failed(1, &["add --yes"]);
    let said = service.run("gateway skip berlin 1 --reason hangs --yes").await;
    assert!(said.well().contains("is skipped"), "{said:?}");
    let again = json!({"sequence": 1, "reason": "hangs"});
    let again = admin.post(&format!("/gateways/{id}/skip"), &again).await.success();
    assert_eq!(again["changed"], false);
    assert_eq!(again["eventId"], would["eventId"]);
    let path = format!("/deliveries?gatewayId={id}&reason=skipped");
    let failed = admin.get(&path).await.success();
    assert_eq!(failed["count"], 1);
    assert_eq!(failed["list"][0]["attempts"][0]["detail"], "skipped by first: hangs");
    let one = json!({"gatewayId": id, "sequence": 1});
    let redriven = admin.post("/deliveries/redrive", &one).await.success();
    assert_eq!(redriven["redriven"][0]["newSequence"], 4);
    assert_eq!(socket.expect(2..=4).await[2]["eventId"], would["eventId"]);
    let socket = socket.serve();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 4).await;
    socket.abort();
    let delivered = json!({"sequence": 2, "reason": "too late"});
    let refused = admin.post(&format!("/gateways/{id}/skip"), &delivered).await;
    let refused = refused.refusal(409, "conflict");
    assert!(refused["detail"].as_str().unwrap().contains("has passed"), "{refused}");
}

async fn requests_that_can_not_be_done_are_refused(backend: Backend) {
    const UNKNOWN: &str = "00000000-0000-0000-0000-000000000000";
    let service = backend.start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("berlin").await;
    publish(&service, &id, 1..=1).await;
    let reader = service.scoped(&["read", "publish"]).await;
    let why = json!({"reason": "r"});
    let skip = |sequence: Value| json!({"sequence": sequence, "reason": "r"});
    for (action, body) in [
        ("pause", json!({})),
        ("resume", json!({})),
        ("skip", skip(json!(1))),
        ("resync", why.clone()),
    ] {
        let path = |id: &str| format!("/gateways/{id}/{action}");
        reader.post(&path(&id), &body).await.refusal(403, "insufficient_scope");
        admin.post(&path(UNKNOWN), &body).await.refusal(404, "not_found");
        admin.post(&path(&id), &json!({"unknown": 1})).await.refusal(422, "invalid");
        admin.post(&path(&id), &json!([])).await.refusal(422, "invalid");
        let long = json!({"reason": "x".repeat(501), "sequence": 1});
        let refused = admin.post(&path(&id), &long).await;
        assert_eq!(refused.status, 422, "{action}: {refused:?}");
        if action == "skip" {
            admin.post(&path(&id), &json!({})).await.refusal(422, "invalid");
        }
    }
    for empty in ["", " \n\t"] {
        let body = json!({"reason": empty});
        admin.post(&format!("/gateways/{id}/pause"), &body).await.invalid("reason", &["1 to 500"]);
    }
    for (sequence, status) in
        [(json!(0), 404), (json!(2), 404), (json!(-1), 404), (json!("x"), 422)]
    {
        let refused = admin.post(&format!("/gateways/{id}/skip"), &skip(sequence.clone())).await;
        assert!([status, 422].contains(&refused.status), "{sequence}: {refused:?}");
        assert!(refused.status >= 400);
    }
    let resync = admin.post(&format!("/gateways/{id}/resync"), &why).await;
    let resync = resync.refusal(409, "resync_unsupported");
    assert!(resync["detail"].as_str().unwrap().contains("Replay"), "{resync}");
    service.run("gateway resync berlin --reason r").await.failed(1, &["Replay"]);

    let purge = |id: &str| format!("/events/{id}/payload");
    remove(&reader, &purge("e"), &why).await.refusal(403, "insufficient_scope");
    remove(&admin, &purge("no-such-event"), &why).await.refusal(404, "not_found");
    remove(&admin, &purge("no-such-event"), &json!({})).await.refusal(422, "invalid");
    // A disabled gateway may be paused; a deleted one may not.
    admin.patch(&format!("/gateways/{id}"), &json!({"disabled": true})).await.success();
    let paused = admin.post(&format!("/gateways/{id}/pause"), &json!({})).await.success();
    assert_eq!(paused["gateway"]["verdict"]["state"], "disabled");
    admin.delete(&format!("/gateways/{id}")).await.success();
    admin.post(&format!("/gateways/{id}/pause"), &json!({})).await.refusal(404, "not_found");
}

async fn reasons_are_escaped_in_output(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("berlin").await;
    publish(&service, &id, 1..=2).await;
    let event =
        admin.get(&format!("/gateways/{id}/log")).await.success()["list"][1]["eventId"].clone();
    let event = event.as_str().unwrap().to_owned();
    let why = json!({"reason": HOSTILE});
    let paused = admin.post(&format!("/gateways/{id}/pause"), &why).await.success();
    assert_eq!(paused["gateway"]["paused"]["reason"], SANITIZED);
    let skip = json!({"reason": HOSTILE, "sequence": 1});
    admin.post(&format!("/gateways/{id}/skip"), &skip).await.success();
    let purged = remove(&admin, &format!("/events/{event}/payload"), &why).await.success();
    assert_eq!(purged["purged"]["reason"], SANITIZED);
    let audit = admin.get("/audit?limit=1000").await.success().to_string();
    assert!(audit.contains("date 2") && !audit.contains("\\u001b"), "{audit}");
    for command in [
        "gateway show berlin".to_owned(),
        "gateway list".to_owned(),
        "gateway pause berlin".to_owned(),
        "audit list".to_owned(),
        "delivery failed --since 1h".to_owned(),
        format!("event show {event}"),
        format!("event purge {event} --reason again --yes"),
    ] {
        let said = service.run(&command).await;
        let said = said.well();
        assert!(!said.contains('\u{1b}') && !said.contains('\u{202e}'), "{command}: {said}");
    }
    assert!(!service.log().contains('\u{202e}'), "{}", service.log());
}

async fn a_purge_removes_what_a_rejection_quotes_of_the_payload(backend: Backend) {
    const SECRET: &str = "s3cret-0123456789";
    let service = backend.start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("berlin").await;
    let integers = json!({"type": "object", "additionalProperties": {"type": "integer"}});
    let schema = json!({"type": "object", "properties": {"t": integers}});
    admin.put("/event-types/my.strict", &json!({"schema": schema})).await.success();
    let event = json!({"type": "my.strict", "id": "leak", "gatewayIds": [id], "payload": {"t": {SECRET: 1}}});
    admin.post("/events", &event).await.success();
    let row = format!(
        "insert into inbox (type, payload, event_id, gateway_id)
         values ('my.strict', '{{\"t\":{{\"{SECRET}\":\"x\"}}}}', 'leak', '{id}')"
    );
    backend.change(&service, &row).await;
    let rejected = service.eventually("/inbox/rejected", |page| page["count"] == 1).await;
    assert!(rejected["list"][0]["detail"].as_str().unwrap().contains(SECRET), "{rejected:#}");
    // Too short for the beginning of an id.
    service.run("event purge lea --reason leaked --yes").await.failed(1, &["404"]);
    service.run("event purge leak --reason leaked --yes").await.well();
    let rejected = admin.get("/inbox/rejected").await.success();
    assert!(!rejected.to_string().contains(SECRET), "{rejected:#}");
    assert_eq!(rejected["list"][0]["detail"], "payload: was purged");
}

async fn purged_payload_is_erased_and_the_purge_is_recorded(backend: Backend) {
    const SECRET: &str = "s3cret-0123456789";
    let service = backend.start().await;
    let admin = service.admin();
    let (id, key) = service.gateway("berlin").await;
    let (away, _) = service.gateway("tokyo").await;
    let mut socket = service.connected(&key).await;
    let mut event = deployed(&[&id, &away], "d-1");
    event["id"] = json!("leak");
    event["payload"]["note"] = json!(SECRET.repeat(400));
    admin.publish_once("key", &event).await.success();
    socket.expect(1..=1).await;
    // Another program published the same, and it was rejected and put back.
    let row = format!(
        "insert into inbox (type, payload, event_id, gateway_id) values ('no.such', '{{\"apiId\":\"{SECRET}\"}}', 'leak', '{id}')"
    );
    backend.change(&service, &row).await;
    service.eventually("/inbox/rejected", |page| page["count"] == 1).await;
    let socket = socket.serve();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;

    let dry = service.run("event purge leak --reason leaked --dry-run").await;
    assert!(dry.well().contains("would be purged; 1 pending delivery is given up"), "{dry:?}");
    service.run("event purge leak --reason leaked").await.failed(1, &["add --yes"]);
    let said = service.run("event purge leak --reason leaked --yes").await;
    assert!(said.well().contains("is purged; 1 pending delivery is given up"), "{said:?}");
    let again = remove(&admin, "/events/leak/payload", &json!({"reason": "again"})).await.success();
    assert_eq!((&again["changed"], &again["purged"]["reason"]), (&json!(false), &json!("leaked")));

    let shown = admin.get("/events/leak").await.success();
    assert_eq!(shown["payload"], json!({}));
    assert_eq!(
        (&shown["purged"]["by"], &shown["purged"]["reason"]),
        (&json!("first"), &json!("leaked"))
    );
    let states: Vec<_> =
        shown["deliveries"].as_array().unwrap().iter().map(|it| &it["state"]).collect();
    assert_eq!(states, ["delivered", "failed"]);
    let log = admin.get(&format!("/gateways/{id}/log")).await.success();
    assert_eq!((&log["list"][0]["purged"], &log["list"][0]["payload"]), (&json!(true), &json!({})));
    let one = json!({"gatewayId": away, "sequence": 1});
    admin.post("/deliveries/redrive", &one).await.refusal(409, "event_purged");
    // A repeat is recognised, by its id and by its key.
    let repeat = admin.post("/events", &event).await.success();
    assert_eq!(repeat["deliveries"].as_array().unwrap().len(), 2);
    admin.publish_once("key", &event).await.success();
    let shown = service.run("event show leak").await;
    assert!(shown.well().contains("payload      purged by first at "), "{shown:?}");
    for path in ["/events/leak", "/inbox/rejected/1", "/audit?limit=1000"] {
        let body = admin.get(path).await.body;
        assert!(!body.contains(SECRET), "{path}: {body}");
    }
    socket.abort();

    if matches!(backend, Backend::Sqlite) {
        let is_clean = || {
            let directory = std::fs::read_dir(service.directory()).unwrap();
            directory.filter_map(Result::ok).all(|entry| {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                !bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
            })
        };
        let mut polls = tokio::time::interval(Duration::from_millis(100));
        let cleaned = tokio::time::timeout(TEST_TIMEOUT, async {
            while !is_clean() {
                polls.tick().await;
            }
        });
        assert!(cleaned.await.is_ok(), "the payload is still in a file of the database");
    }
    let report = backend.verify(&service).await;
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}

async fn a_rejected_row_is_corrected_and_published(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, key) = service.gateway("berlin").await;
    let payload =
        r#"{"apiId":"a-1","deploymentId":"d-1","performedAt":"2026-01-31T09:30:00.001Z"}"#;
    let row = format!(
        "insert into inbox (type, payload, gateway_id) values ('api.deploid', '{payload}', '{id}')"
    );
    backend.change(&service, &row).await;
    let page = service.eventually("/inbox/rejected", |page| page["count"] == 1).await;
    let (row, version) = (page["list"][0]["id"].as_i64().unwrap(), &page["list"][0]["version"]);
    assert_eq!(version, 1);
    let path = format!("/inbox/rejected/{row}");
    let reader = service.scoped(&["read"]).await;
    let good = json!({"version": 1, "type": "api.deployed"});
    reader.patch(&path, &good).await.refusal(403, "insufficient_scope");
    admin.patch("/inbox/rejected/999", &good).await.refusal(404, "not_found");
    for bad in [
        json!({"type": "api.deployed"}),
        json!({"version": 1, "type": null}),
        json!({"version": 1, "gatewayId": "berlin"}),
        json!({"version": 1, "expiresAt": "soon"}),
        json!({"version": 1, "reason": "x"}),
        json!({"version": 1, "userId": "a\u{0}b"}),
    ] {
        admin.patch(&path, &bad).await.refusal(422, "invalid");
    }
    let dry = json!({"version": 1, "type": "api.deployed", "dryRun": true});
    let would = admin.patch(&path, &dry).await.success();
    assert_eq!((&would["published"], &would["dryRun"]), (&json!(true), &json!(true)));
    assert_eq!((&would["deliveries"], &would["gatewayIds"]), (&json!([]), &json!([&id])));
    let shown = service.run(&format!("inbox edit {row} --type api.deployed --dry-run")).await;
    assert!(shown.well().contains("berlin"), "{shown:?}");
    // What changes nothing leaves the row and the audit log as they are.
    let records = async || admin.get("/audit?limit=1000").await.success()["count"].clone();
    let before = records().await;
    for same in [json!({"version": 1}), json!({"version": 1, "type": "api.deploid"})] {
        let edited = admin.patch(&path, &same).await.success();
        assert_eq!((&edited["published"], &edited["row"]["version"]), (&json!(false), &json!(1)));
        assert_eq!(edited["reason"], "unknown_event_type");
    }
    assert_eq!(records().await, before);
    // Still invalid: it keeps the new columns, and the new reason.
    let worse = json!({"version": 1, "type": "api.deployed", "payload": "{}"});
    let edited = admin.patch(&path, &worse).await.success();
    assert_eq!((&edited["published"], &edited["reason"]), (&json!(false), &json!("invalid")));
    assert_eq!(edited["row"]["version"], 2);
    let stale = admin.patch(&path, &good).await.refusal(409, "conflict");
    assert!(stale["detail"].as_str().unwrap().contains("version 2"), "{stale}");
    let said = service.run(&format!("inbox edit {row} --type api.deploid")).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.contains("is still rejected: unknown_event_type"), "{said:?}");

    let command = format!("inbox edit {row} --type api.deployed --correlation-id c-1 --payload");
    let mut command = service.command(&command);
    command.arg(payload);
    let said = crate::support::command::run(&mut command).await;
    assert!(said.well().contains("is published as event"), "{said:?}");
    let mut socket = service.connected(&key).await;
    let event = socket.expect(1..=1).await.remove(0);
    assert_eq!((&event["type"], &event["correlationId"]), (&json!("api.deployed"), &json!("c-1")));
    assert_eq!(event["payload"]["deploymentId"], "d-1");
    assert_eq!(admin.get("/inbox/rejected?retried=true").await.success()["count"], 0);
    let actions = admin.get("/audit?limit=1000").await.success();
    let actions: Vec<_> = actions["list"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["action"].as_str().unwrap())
        .collect();
    assert!(actions.contains(&"rejected_row.edited"), "{actions:?}");
    assert!(actions.contains(&"rejected_row.published"), "{actions:?}");
    socket.send(Message::Close(None)).await;
}

/// Waits for longer than an action takes until it has effect on other nodes.
async fn effective_everywhere() {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    while began.elapsed() < Duration::from_secs(2) {
        ticks.tick().await;
    }
}

/// The node that holds the socket finds them by polling.
#[tokio::test]
async fn actions_on_one_node_take_effect_on_another() {
    let database = Database::new();
    let url = database.url();
    let settings = [
        ("DATABASE__URL", url.as_str()),
        ("DELIVERY__HEARTBEAT_INTERVAL", "200ms"),
        ("DELIVERY__WINDOW_EVENTS", "1"),
    ];
    let one = Service::start_with(&settings).await;
    let other = one.another().await;
    let (id, key) = one.gateway("far").await;
    let mut socket = other.connected(&key).await;
    let admin = one.admin();
    admin.post(&format!("/gateways/{id}/pause"), &json!({})).await.success();
    effective_everywhere().await;
    publish(&one, &id, 1..=3).await;
    for _ in 0..4 {
        assert!(tokio::time::timeout(TEST_TIMEOUT, socket.pinged_before_text()).await.unwrap());
    }
    admin.post(&format!("/gateways/{id}/resume"), &json!({})).await.success();
    assert_eq!(socket.unanswered().await["sequence"], 1);
    let event =
        admin.get(&format!("/gateways/{id}/log")).await.success()["list"][2]["eventId"].clone();
    let path = format!("/events/{}/payload", event.as_str().unwrap());
    remove(&admin, &path, &json!({"reason": "leaked"})).await.success();
    effective_everywhere().await;
    let skip = json!({"sequence": 1, "reason": "hangs"});
    admin.post(&format!("/gateways/{id}/skip"), &skip).await.success();
    socket.expect(2..=2).await;
    publish(&one, &id, 4..=4).await;
    socket.expect(4..=4).await;
}
