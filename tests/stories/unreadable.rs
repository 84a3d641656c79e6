//! Rows that this version can't read delay nothing else: they are recorded or shown as what they
//! are.

use serde_json::json;

use crate::both_databases::{Backend, on_both};
use crate::support::deployed;

on_both! {
    a_missing_event_is_recorded_as_failed_and_delivery_continues
    a_job_of_a_newer_version_is_listed_and_can_be_aborted
}

async fn a_missing_event_is_recorded_as_failed_and_delivery_continues(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, key) = service.gateway("one").await;
    for number in 1..=4 {
        admin.post("/events", &deployed(&[&id], &format!("d-{number}"))).await.success();
    }
    let loses = "delete from events where event in
        (select event from outbox where sequence in (2, 3));";
    match &backend {
        Backend::Sqlite => {
            backend.change(&service, &format!("pragma foreign_keys = off; {loses}")).await;
        }
        Backend::Postgres(_) => backend.change(&service, loses).await,
    }
    let socket = service.connected(&key).await.serve();
    service.eventually(&format!("/gateways/{id}"), |it| it["confirmed"] == 4).await;
    let failed = format!("/deliveries?status=failed&gatewayId={id}&reason=unreadable");
    let page = service.eventually(&failed, |page| page["count"] == 2).await;
    let sequences: Vec<_> = page["list"].as_array().expect("a list").iter().collect();
    assert!(sequences.iter().all(|it| it["state"] == "failed"), "{page:#}");
    admin.post("/events", &deployed(&[&id], "d-5")).await.success();
    service.eventually(&format!("/gateways/{id}"), |it| it["confirmed"] == 5).await;
    socket.abort();
}

async fn a_job_of_a_newer_version_is_listed_and_can_be_aborted(backend: Backend) {
    const ID: &str = "0198c0de-0000-7000-8000-000000000001";
    let service = backend.start().await;
    let admin = service.admin();
    let now = match &backend {
        Backend::Sqlite => "1700000000000000",
        Backend::Postgres(_) => "now()",
    };
    let newer = format!(
        "insert into bulk_jobs (id, organisation, kind, parameters, principal, principal_name,
            source, request_id, state, position, done, counts, created_at, updated_at)
        values ('{ID}', 1, 'compaction', '{{\"level\":[1]}}', 'p', 'newer', '', '', 'running',
            '{{\"compacted\":3}}', 3, '{{\"compacted\":3}}', {now}, {now})"
    );
    backend.change(&service, &newer).await;
    let page = admin.get("/jobs").await.success();
    assert_eq!((&page["count"], &page["list"][0]["kind"]), (&json!(1), &json!("unknown")));
    let one = admin.get(&format!("/jobs/{ID}")).await.success();
    assert_eq!((&one["state"], &one["startedBy"]["name"]), (&json!("running"), &json!("newer")));
    assert!(service.run("job list").await.well().contains("unknown"));
    let aborted = service.run(&format!("job abort {} --yes", &ID[..8])).await;
    assert!(aborted.well().contains("aborted"), "{aborted:?}");
    let again = admin.post(&format!("/jobs/{ID}/abort"), &json!({})).await.success();
    assert_eq!(again["state"], "aborted");
    let records = admin.get("/audit?action=job.aborted").await.success();
    assert_eq!(records["count"], 1, "{records:#}");
}
