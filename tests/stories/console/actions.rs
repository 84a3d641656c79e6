//! What an admin does in the console: each action has the effect of the API's, and is audited with the
//! token that opened the session.

use serde_json::Value;

use super::visitor::Visitor;
use crate::audit::running_job;
use crate::both_databases::{Backend, on_both};
use crate::support::{Service, deployed};

on_both! {
    a_gateway_is_paused_and_resumed
    failures_are_redriven_after_a_dry_run
    a_key_is_rotated_step_by_step
    a_log_is_replayed_and_an_event_resent_after_a_dry_run
    a_rejected_row_is_put_back
    a_rejected_row_is_corrected
    a_gateway_is_disabled_and_enabled
    a_job_is_aborted
}

/// The newest change, by the audit log.
async fn last_change(service: &Service) -> Value {
    service.api().get("/audit").await.expect("an answer")["list"][0].clone()
}

async fn a_gateway_is_paused_and_resumed(backend: Backend) {
    let service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let path = format!("/console/gateways/{id}");
    let done = visitor.submit(&format!("{path}/pause"), &[("reason", "upgrade of its host")]).await;
    assert_eq!((done.status, done.header("location")), (303, path.as_str()), "{done:?}");
    let page = visitor.get(&path).await;
    assert!(page.says("upgrade of its host") && page.says("Resume delivery"), "{page:?}");
    let change = last_change(&service).await;
    let own = service.token.split('_').nth(1).expect("a public id");
    assert_eq!(
        (&change["action"], &change["principal"]["id"]),
        (&"gateway.paused".into(), &own.into())
    );
    assert_eq!(visitor.submit(&format!("{path}/resume"), &[]).await.status, 303);
    assert!(visitor.get(&path).await.says("Pause delivery"));
    assert_eq!(last_change(&service).await["action"], "gateway.resumed");
}

async fn failures_are_redriven_after_a_dry_run(backend: Backend) {
    let service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    service.eventually("/deliveries", |list| list["count"] == 1).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let skip = format!("/console/gateways/{id}/skip");
    let skipped = visitor.submit(&skip, &[("sequence", "1"), ("reason", "not needed")]).await;
    assert!(skipped.status == 200 && skipped.says("is now a dead letter"), "{skipped:?}");

    let list = visitor.get("/console/failures").await;
    assert!(list.says("Redrive all matching") && list.says("skipped"), "{list:?}");
    let filter =
        [("step", "dry-run"), ("from", "2020-01-01T00:00:00Z"), ("gatewayId", id.as_str())];
    let planned = visitor.submit("/console/failures/redrive", &filter).await;
    assert!(
        planned.status == 200 && planned.says("1 delivery would be appended again"),
        "{planned:?}"
    );
    let head = |gateway: Value| gateway["head"].as_i64();
    let path = format!("/gateways/{id}");
    assert_eq!(head(service.api().get(&path).await.expect("an answer")), Some(1), "a dry run");
    let confirmed = [("step", "confirmed"), filter[1], filter[2]];
    let done = visitor.submit("/console/failures/redrive", &confirmed).await;
    assert!(done.status == 200 && done.says("1 delivery appended again"), "{done:?}");
    assert_eq!(head(service.api().get(&path).await.expect("an answer")), Some(2));
    let again = visitor.submit("/console/failures/redrive", &confirmed).await;
    assert!(again.says("0 deliveries appended again"), "{again:?}");
}

async fn a_key_is_rotated_step_by_step(backend: Backend) {
    let service = backend.start().await;
    let (id, first) = service.gateway("one").await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let path = format!("/console/gateways/{id}");
    let page = visitor.get(&path).await;
    assert!(page.says("To rotate the key") && page.says("Create a key"), "{page:?}");
    let made = visitor.submit(&format!("{path}/keys"), &[("days", "30")]).await;
    assert!(made.status == 200 && made.says("only time that the key is shown"), "{made:?}");
    let start = made.body.find("gwk_").expect("a key");
    let second: String =
        made.body[start..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    drop(service.connected(&second).await);
    let page = visitor.get(&path).await;
    assert!(page.says("two valid keys") && !page.says(&second), "{page:?}");
    let old = first.split('_').nth(1).expect("an id");
    let revoked = visitor.submit(&format!("{path}/keys/{old}/revoke"), &[]).await;
    assert_eq!(revoked.status, 303, "{revoked:?}");
    assert_eq!(service.connect(&first).await.err().expect("refused").0, 401);
    assert_eq!(last_change(&service).await["action"], "gateway_token.revoked");
}

async fn a_log_is_replayed_and_an_event_resent_after_a_dry_run(backend: Backend) {
    let service = backend.start().await;
    let (one, key) = service.gateway("one").await;
    let (other, _) = service.gateway("other").await;
    let event = service.api().post("/events", &deployed(&[&one], "d-1")).await.expect("accepted");
    let event = event["id"].as_str().expect("an id");
    let mut socket = service.connected(&key).await;
    socket.expect(1..=1).await;
    let socket = socket.serve();
    let path = format!("/gateways/{one}");
    service.eventually(&path, |gateway| gateway["confirmed"] == 1).await;

    let visitor = Visitor::signed_in(&service, &service.token).await;
    let replay = format!("/console/gateways/{one}/replay");
    let planned = visitor.submit(&replay, &[("step", "dry-run"), ("from", "1"), ("to", "")]).await;
    assert!(
        planned.status == 200 && planned.says("1 event would be appended again"),
        "{planned:?}"
    );
    assert_eq!(service.api().get(&path).await.expect("an answer")["head"], 1, "a dry run");
    let done = visitor.submit(&replay, &[("step", "confirmed"), ("from", "1"), ("to", "1")]).await;
    assert!(done.status == 200 && done.says("appended again"), "{done:?}");
    service.eventually(&path, |gateway| gateway["confirmed"] == 2).await;

    let resend = format!("/console/events/{event}/resend");
    let named = [("step", "dry-run"), ("gateways", "other\r\n")];
    let planned = visitor.submit(&resend, &named).await;
    assert!(planned.status == 200 && planned.says("Resend it to 1 gateway"), "{planned:?}");
    assert!(planned.says(&format!("name=\"gateways\" value=\"{other}\"")), "{planned:?}");
    let unknown = visitor.submit(&resend, &[("step", "dry-run"), ("gateways", "nowhere")]).await;
    assert!(unknown.status == 422 && unknown.says("no gateway is named"), "{unknown:?}");
    let to = ("gateways", other.as_str());
    let done = visitor.submit(&resend, &[("step", "confirmed"), to]).await;
    assert!(done.status == 200 && done.says("It was appended for 1 gateway"), "{done:?}");
    let again = visitor.submit(&resend, &[("step", "dry-run"), to]).await;
    assert!(again.says("have it in their log"), "{again:?}");
    let unclear = visitor.submit(&resend, &[("step", "dry-run")]).await;
    assert!(unclear.status == 422 && unclear.says("give either labels or gateways"), "{unclear:?}");
    drop(service);
    socket.await.expect("closed");
}

async fn a_rejected_row_is_put_back(backend: Backend) {
    let service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    let row =
        format!("insert into inbox (type, payload, gateway_id) values ('no.such', '{{}}', '{id}')");
    backend.change(&service, &row).await;
    let rows = service.eventually("/inbox/rejected", |rows| rows["count"] == 1).await;
    let number = rows["list"][0]["id"].as_i64().expect("an id");
    let visitor = Visitor::signed_in(&service, &service.token).await;
    assert!(visitor.get("/console/inbox").await.says("unknown_event_type"));
    let page = visitor.get(&format!("/console/inbox/{number}")).await;
    assert!(page.says("Put it back into the inbox"), "{page:?}");
    service.api().put("/event-types/no.such", &serde_json::json!({})).await.expect("registered");
    let done = visitor.submit(&format!("/console/inbox/{number}/retry"), &[]).await;
    assert_eq!(done.status, 303, "{done:?}");
    service.eventually("/events?type=no.such", |events| events["count"] == 1).await;
}

async fn a_rejected_row_is_corrected(backend: Backend) {
    let service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    let row = format!(
        "insert into inbox (type, payload, gateway_id) values ('gateway.config.update', '{{\"configType\":\"c\"}}', '{id}')"
    );
    backend.change(&service, &row).await;
    let rows = service.eventually("/inbox/rejected", |rows| rows["count"] == 1).await;
    let number = rows["list"][0]["id"].as_i64().expect("an id");
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let path = format!("/console/inbox/{number}");
    let page = visitor.get(&path).await;
    assert!(page.says("Correct and publish") && page.says("gateway.config.update"), "{page:?}");
    // Another type, for which the payload lacks a member: it stays rejected, with the new reason.
    let edit = format!("{path}/edit");
    let type_only = [
        ("version", "1"),
        ("type", "gateway.config.updated"),
        ("gateway", id.as_str()),
        ("payload", r#"{"configType":"c"}"#),
    ];
    let done = visitor.submit(&edit, &type_only).await;
    assert_eq!((done.status, done.header("location")), (303, path.as_str()), "{done:?}");
    assert!(visitor.get(&path).await.says("is a required property"));
    // A submission from an older version of the page is refused, and what was typed is shown.
    let late = visitor.submit(&edit, &type_only).await;
    assert!(late.status == 409 && late.says("gateway.config.updated"), "{late:?}");
    let elsewhere = [&[("gateway", "nowhere")][..], &type_only[..2]].concat();
    let unclear = visitor.submit(&edit, &elsewhere).await;
    assert!(unclear.status == 422 && unclear.says("no gateway is named"), "{unclear:?}");
    let whole = [
        ("version", "2"),
        ("type", "gateway.config.updated"),
        ("gateway", "one"),
        ("payload", "{\"configType\": \"c\",\r\n\"action\": \"update\"}"),
    ];
    let done = visitor.submit(&edit, &whole).await;
    assert_eq!(done.status, 303, "{done:?}");
    assert!(done.header("location").starts_with("/console/events/"), "{done:?}");
    let events = service.eventually("/events", |events| events["count"] == 1).await;
    assert_eq!(events["list"][0]["type"], "gateway.config.updated");
    let change = last_change(&service).await;
    assert_eq!(change["action"], "rejected_row.published", "{change:#}");
}

async fn a_gateway_is_disabled_and_enabled(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    let socket = service.connected(&key).await.serve();
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let path = format!("/console/gateways/{id}");
    assert_eq!(visitor.submit(&format!("{path}/disable"), &[]).await.status, 303);
    socket.await.expect("closed");
    assert!(visitor.get(&path).await.says("Enable the gateway"));
    assert_eq!(last_change(&service).await["action"], "gateway.disabled");
    assert_eq!(visitor.submit(&format!("{path}/enable"), &[]).await.status, 303);
    assert!(visitor.get(&path).await.says("Disable the gateway"));
    let socket = service.connected(&key).await.serve();
    service.eventually(&format!("/gateways/{id}"), |it| it["connected"] == true).await;
    socket.abort();
}

async fn a_job_is_aborted(backend: Backend) {
    let service = backend.start().await;
    let id = running_job(&backend, &service).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    assert!(visitor.get("/console/jobs").await.says("Abort job"));
    let done = visitor.submit(&format!("/console/jobs/{id}/abort"), &[]).await;
    assert_eq!((done.status, done.header("location")), (303, "/console/jobs"), "{done:?}");
    let page = visitor.get("/console/jobs").await;
    assert!(page.says("aborted") && !page.says("Abort job"), "{page:?}");
    assert_eq!(last_change(&service).await["action"], "job.aborted");
}
