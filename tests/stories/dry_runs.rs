//! Dry runs: they say what an action would do, and do nothing. A route without a body refuses one,
//! so that a `dryRun` that it does not know is never ignored.

use gateway_events::client::BASE_PATH;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::audit::{rejected_row, running_job};
use crate::both_databases::{Backend, on_both};
use crate::support::Service;
use crate::support::http::reply;

on_both! {
    a_dry_run_of_a_retry_says_what_would_be_published
    a_dry_run_of_a_filtered_retry_counts_the_rows
    a_dry_run_of_an_abort_leaves_the_job_running
    a_route_without_a_body_refuses_one
}

async fn registered(service: &Service, name: &str, event_type: &str) -> String {
    let (id, _) = service.gateway(name).await;
    let labels = json!({"labels": {"env": "prod"}});
    service.admin().patch(&format!("/gateways/{id}"), &labels).await.success();
    service.admin().put(&format!("/event-types/{event_type}"), &json!({})).await.success();
    id
}

async fn a_dry_run_of_a_retry_says_what_would_be_published(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let insert = r#"insert into inbox (type, payload, target)
        values ('no.such.type', '{"n":1}', '{"labels":{"env":"prod"}}')"#;
    backend.change(&service, insert).await;
    let page = service.eventually("/inbox/rejected", |page| page["count"] == 1).await;
    let id = page["list"][0]["id"].as_i64().expect("an id");
    let path = format!("/inbox/rejected/{id}/retry");
    let dry = json!({"dryRun": true});

    let reply = admin.post(&path, &dry).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let would = reply.json();
    assert_eq!((&would["retried"], &would["dryRun"]), (&json!(1), &json!(true)), "{would:#}");
    let row = &would["rows"][0];
    assert_eq!((&row["id"], &row["published"]), (&json!(id), &json!(false)), "{would:#}");
    assert_eq!(row["reason"], "unknown_event_type", "{would:#}");

    registered(&service, "one", "no.such.type").await;
    registered(&service, "two", "no.such.type").await;
    let registered = |would: &Value| would["rows"][0]["published"] == true;
    // A node learns of a new type within a second.
    let waits = async {
        loop {
            let would = admin.post(&path, &dry).await.success();
            if registered(&would) {
                return would;
            }
        }
    };
    let waited = tokio::time::timeout(crate::support::TEST_TIMEOUT, waits).await;
    let would = waited.expect("the type is known");
    assert_eq!(would["rows"][0]["gatewayCount"], 2, "{would:#}");
    assert_eq!(would["rows"][0]["reason"], Value::Null, "{would:#}");
    let said = service.run(&format!("inbox retry {id} --dry-run")).await;
    for says in ["2 gateways", "dry run"] {
        assert!(said.well().contains(says), "{says:?} is missing: {said:?}");
    }
    let still = admin.get("/inbox/rejected").await.success();
    assert_eq!(still["list"][0]["retriedAt"], Value::Null, "{still:#}");
    assert_eq!(admin.get("/events").await.success()["count"], 0);

    // Without a body, with `null` and with `dryRun: false` it is done.
    let done = admin.post(&path, &json!({"dryRun": false})).await;
    assert_eq!(done.status, 202, "{done:?}");
    assert_eq!(done.json()["dryRun"], false);
    service.eventually("/events", |page| page["count"] == 1).await;
    admin.post(&path, &dry).await.refusal(409, "conflict");
    admin.post(&path, &Value::Null).await.refusal(409, "conflict");
    admin.post("/inbox/rejected/999/retry", &dry).await.refusal(404, "not_found");
}

async fn a_dry_run_of_a_filtered_retry_counts_the_rows(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    for _ in 0..2 {
        rejected_row(&backend, &service).await;
    }
    for request in [json!({"all": true}), json!({"reason": "invalid"})] {
        let mut request = request;
        request["dryRun"] = json!(true);
        let reply = admin.post("/inbox/rejected/retry", &request).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let would = reply.json();
        assert_eq!((&would["retried"], &would["more"]), (&json!(2), &json!(false)), "{would:#}");
        assert_eq!(would["rows"].as_array().map(Vec::len), Some(2), "{would:#}");
    }
    let said = service.run("inbox retry --all --dry-run").await;
    assert!(said.well().contains("2 rows would be put back"), "{said:?}");
    let still = admin.get("/inbox/rejected").await.success();
    assert_eq!(still["count"], 2, "{still:#}");
    // `dryRun` alone selects nothing.
    admin
        .post("/inbox/rejected/retry", &json!({"dryRun": true}))
        .await
        .invalid("all", &["`all: true`"]);
}

async fn a_dry_run_of_an_abort_leaves_the_job_running(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let id = running_job(&backend, &service).await;
    let path = format!("/jobs/{id}/abort");
    let would = admin.post(&path, &json!({"dryRun": true})).await.success();
    assert_eq!((&would["dryRun"], &would["left"]), (&json!(true), &json!(900)), "{would:#}");
    assert_eq!(would["state"], "running", "{would:#}");
    let said = service.run(&format!("job abort {id} --dry-run")).await;
    for says in ["900", "dry run"] {
        assert!(said.well().contains(says), "{says:?} is missing: {said:?}");
    }
    let job = admin.get(&format!("/jobs/{id}")).await.success();
    assert_eq!(job["state"], "running", "{job:#}");
    let done = admin.post(&path, &Value::Null).await.success();
    assert_eq!((&done["state"], &done["dryRun"]), (&json!("aborted"), &json!(false)), "{done:#}");
}

async fn a_route_without_a_body_refuses_one(backend: Backend) {
    let service = backend.start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("one").await;
    let path = format!("/gateways/{id}");
    let dry = json!({"dryRun": true});
    let refused = reply(admin.request(Method::DELETE, &path).json(&dry)).await;
    let problem = refused.refusal(400, "bad_request");
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains("takes no body") && detail.contains("nothing was done"), "{detail}");
    // In chunks, without a length.
    let answer = chunked(&service, &path, "2\r\n{}\r\n0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    admin.get(&path).await.success();
    // An empty body is none.
    let answer = chunked(&service, &path, "0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    admin.get(&path).await.refusal(404, "not_found");
}

/// The answer to a `DELETE` with this body, whose length is not announced.
async fn chunked(service: &Service, path: &str, body: &str) -> String {
    let mut stream = service.tls(service.port).await;
    let head = format!(
        "DELETE {BASE_PATH}{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n{body}",
        service.token
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    // The connection may end without a notice.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).expect("text")
}
