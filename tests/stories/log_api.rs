//! `GET /gateways/{id}/log`: a gateway's sequences with their states, in pages, and followed as
//! they are appended. Reading confirms nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::both_databases::{Backend, on_both};
use crate::server::Database;
use crate::support::{Service, deployed, failed_report, pause};

on_both! {
    a_log_is_paged_by_sequence_with_states
    a_long_poll_waits_until_there_is_an_entry
}

fn sequences(page: &Value) -> Vec<i64> {
    let list = page["list"].as_array().expect("a list");
    list.iter().map(|entry| entry["sequence"].as_i64().expect("a number")).collect()
}

async fn a_log_is_paged_by_sequence_with_states(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("berlin").await;
    let admin = service.admin();
    let log = async |query: &str| admin.get(&format!("/gateways/{id}/log{query}")).await.success();
    let empty = log("").await;
    assert_eq!((&empty["head"], &empty["count"]), (&json!(0), &json!(0)));
    for number in 1..=5 {
        admin.post("/events", &deployed(&[&id], &format!("d-{number}"))).await.success();
    }
    // One of three is dead-lettered, the others are confirmed.
    let mut socket = service.connected(&key).await;
    socket.expect(1..=5).await;
    socket.send(failed_report("d-2").into()).await;
    let serving = socket.serve();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 5).await;
    serving.abort();
    service.eventually("/connections", |page| page["count"] == 0).await;
    let raw = r#"{"configType":"cache", "action": "update","n":1.10}"#;
    let body = format!(
        r#"{{"type":"gateway.config.updated","gatewayIds":["{id}"],"payload":{raw},"userId":"u"}}"#
    );
    admin.publish(body).await.success();
    let path = format!("/gateways/{id}/log");
    let whole = service
        .eventually(&path, |page| page["list"][1]["state"] == "failed" && page["count"] == 6)
        .await;
    assert_eq!(whole["gatewayName"], "berlin");
    assert_eq!(sequences(&whole), [1, 2, 3, 4, 5, 6]);
    let states: Vec<&str> = whole["list"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["state"].as_str().expect("a state"))
        .collect();
    assert_eq!(states, ["delivered", "failed", "delivered", "delivered", "delivered", "pending"]);
    assert_eq!(whole["list"][5]["userId"], "u");
    assert_eq!(whole["pagination"]["next"], Value::Null);
    let text = admin.get(&path).await.body;
    assert!(text.contains(raw), "the payload keeps its bytes: {text}");

    // Each sequence is on one page.
    let (mut seen, mut after) = (Vec::new(), 0);
    loop {
        let page = log(&format!("?after={after}&limit=4")).await;
        seen.extend(sequences(&page));
        match page["pagination"]["next"].as_i64() {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
    assert!(sequences(&log("?after=6").await).is_empty());
    assert!(sequences(&log("?after=9007199254740991").await).is_empty());
    for (query, field) in [
        ("?after=-1", "after"),
        ("?after=9223372036854775807", "after"),
        ("?limit=0", "limit"),
        ("?wait=26s", "wait"),
        ("?wait=5", "wait"),
        ("?colour=red", "colour"),
    ] {
        admin.get(&format!("{path}{query}")).await.invalid(field, &[]);
    }
    let unknown = "/gateways/0198c0de-0000-7000-8000-000000000001/log?wait=20s";
    admin.get(unknown).await.refusal(404, "not_found");
    service.caller(None).get(&path).await.refusal(401, "unauthorized");
    service.scoped(&["publish"]).await.get(&path).await.refusal(403, "insufficient_scope");
    service.scoped(&["read"]).await.get(&path).await.success();
}

async fn a_long_poll_waits_until_there_is_an_entry(backend: Backend) {
    let one = backend.start().await;
    // On Postgres it is appended on another node.
    let other = match &backend {
        Backend::Postgres(_) => Some(one.another().await),
        Backend::Sqlite => None,
    };
    let publisher = other.as_ref().unwrap_or(&one);
    let (id, _) = one.gateway("berlin").await;
    let waiting = async |after: i64| {
        let path = format!("/gateways/{id}/log?after={after}&wait=25s");
        one.admin().get(&path).await.success()
    };
    let publishing = async |deployment: &str| {
        publisher.admin().post("/events", &deployed(&[&id], deployment)).await.success()
    };
    let (page, _) = tokio::join!(waiting(0), publishing("d-1"));
    assert_eq!(sequences(&page), [1]);
    let (page, _) = tokio::join!(waiting(1), publishing("d-2"));
    assert_eq!(sequences(&page), [2]);
    // Existing entries are returned at once, and an empty page after the timeout.
    assert_eq!(sequences(&waiting(0).await), [1, 2]);
    let path = format!("/gateways/{id}/log?after=2&wait=50ms");
    assert!(sequences(&one.admin().get(&path).await.success()).is_empty());
}

/// Reads are rolled back, and nothing else in this test is.
async fn reads(database: &mut PgConnection) -> i64 {
    let counter = "select xact_rollback from pg_stat_database where datname = current_database()";
    sqlx::query_scalar(counter).fetch_one(database).await.expect("a counter")
}

#[tokio::test]
async fn a_request_that_waits_for_a_later_sequence_does_not_read_at_each_append() {
    const APPENDS: u8 = 100;
    let database = Database::new();
    let settings =
        [("DATABASE__URL", database.url()), ("DATABASE__QUERY_CONNECTIONS", "1".to_owned())];
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let service = Service::start_with(&settings).await;
    let mut statistics = PgConnection::connect(&database.url()).await.expect("a connection");
    let (id, _) = service.gateway("berlin").await;
    let admin = service.admin();
    // A session reports its counters after a transaction, but not twice in a second.
    let settled = async |statistics: &mut PgConnection| {
        pause(Duration::from_secs(2)).await;
        admin.get(&format!("/gateways/{id}/log")).await.success();
        reads(statistics).await
    };
    let before = settled(&mut statistics).await;
    let path = format!("/gateways/{id}/log?after={}&wait=25s", u32::from(APPENDS));
    let waiting = async { admin.get(&path).await.success() };
    let begun = Instant::now();
    let publishing = async {
        for number in 1..=APPENDS {
            admin.post("/events", &deployed(&[&id], &format!("d-{number}"))).await.success();
        }
        let during = settled(&mut statistics).await - before;
        let elapsed = begun.elapsed();
        admin.post("/events", &deployed(&[&id], "last")).await.success();
        (during, elapsed)
    };
    let (page, (during, elapsed)) = tokio::join!(waiting, publishing);
    assert_eq!(sequences(&page), [i64::from(APPENDS) + 1]);
    // It reads ten times a second at most, and a few reads are the story's own.
    let most = elapsed.as_millis() / 100 + 10;
    let read = u128::try_from(during).expect("a count");
    assert!(read <= most, "{read} reads in {elapsed:?} for {APPENDS} appends");
}

#[tokio::test]
async fn long_polls_beyond_the_limit_are_answered_at_once() {
    const PLACES: usize = 256;
    let service = Service::start_with(&[("SERVER__MAX_HTTP_CONNECTIONS", "1000")]).await;
    let (id, _) = service.gateway("berlin").await;
    let admin = service.admin();
    let path = format!("/gateways/{id}/log?wait=25s");
    let mut waiting: FuturesUnordered<_> = (0..PLACES + 5)
        .map(|number| {
            let (admin, path) = (admin.clone(), path.clone());
            async move { (number, admin.get(&path).await.success()) }
        })
        .collect();
    // Requests in excess are answered although nothing has happened.
    let mut answered = BTreeSet::new();
    for _ in 0..5 {
        let (number, page) = waiting.next().await.expect("an answer");
        assert_eq!(page["count"], 0);
        answered.insert(number);
    }
    admin.post("/events", &deployed(&[&id], "d-1")).await.success();
    while let Some((number, page)) = waiting.next().await {
        assert_eq!(sequences(&page), [1]);
        answered.insert(number);
    }
    assert_eq!(answered.len(), PLACES + 5);
}

#[tokio::test]
async fn a_long_poll_does_not_delay_the_shutdown() {
    let mut service = Service::start().await;
    let (id, _) = service.gateway("berlin").await;
    let (admin, path) = (service.admin(), format!("/gateways/{id}/log?wait=25s"));
    let waiting = tokio::spawn(async move { admin.get(&path).await });
    service.admin().get("/gateways").await.success();
    assert_eq!(service.terminate().await, Some(0));
    assert!(!service.log().contains("cut off"), "{}", service.log());
    drop(waiting);
}
