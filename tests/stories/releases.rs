//! Databases of earlier releases with all kinds of data are migrated and used further.
//! `releases/000k.sql` is the data of the release with migration k in addition to that of the
//! previous release.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use gateway_events::clock::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::both_databases::{Backend, on_both};
use crate::offline_database::OfflineDatabase;
use crate::support::Service;
use crate::support::http::reply;

on_both! {
    the_first_release_is_migrated
    every_later_release_is_migrated
}

/// Keys that were issued by that release, and exist only in these databases.
const ADMIN: &str = "gwa_nlxqvsnbacbh_vxqpik3w2lrha5phthzt4r57z4fybnudojlmqqzf2j26hj4ueyym6rzkpm";
const BERLIN_KEY: &str =
    "gwk_6mge4ne2iadl_c7wuyomox6umjqbiegwagufiu63ac3uwcbxdthjjvq5qcbl4izvlfstwz4";
const TOKYO_KEY: &str =
    "gwk_ucfu6635fots_do3aqexkvnmixz3ik4z2vv2l6x3uzq4gawdwwzltza4aiu723t5fsdnfne";
const BERLIN: &str = "0198c0de-0000-7000-8000-000000000001";
const TOKYO: &str = "0198c0de-0000-7000-8000-000000000002";
const LIMA: &str = "0198c0de-0000-7000-8000-000000000004";
const MINUTE: Duration = Duration::from_mins(1);

async fn the_first_release_is_migrated(backend: Backend) {
    let database = OfflineDatabase::new(backend);
    follow(database, 1).await;
}

/// Including the newest release, whose own data must survive a restart.
async fn every_later_release_is_migrated(backend: Backend) {
    let versions = OfflineDatabase::new(backend.fresh()).versions();
    let later = versions.into_iter().filter(|version| *version > 1);
    let releases = later.map(|release| follow(OfflineDatabase::new(backend.fresh()), release));
    // Each starts several processes.
    futures_util::stream::iter(releases).buffer_unordered(4).collect::<()>().await;
}

/// Creates the database of a release, migrates it, and uses it.
async fn follow(database: OfflineDatabase, release: usize) {
    let (from, to) = leave(&database, release).await;
    database.ours("migrate").await.well();
    let report = database.ours("verify --json").await.json();
    assert_eq!(report["problems"], json!([]), "release {release}");
    let inbox = i64::from(release >= 2);
    let counted = json!({"gateways": 4, "events": 7, "deliveries": 11, "attempts": 16, "deadLetters": 1,
        "inbox": inbox, "rejected": inbox, "auditRecords": 0,
        "auditHead": format!("0:{}", "0".repeat(64)), "auditRemoved": 0, "problems": []});
    assert_eq!(report, counted, "release {release}");
    let (service, backend) = database.start(ADMIN).await;
    queries_answer(&service, from, to).await;
    publishers_are_known(&service).await;
    let head = gateways_go_on(&service, release).await;
    operators_act(&service, from, head).await;
    let report = backend.verify(&service).await;
    assert_eq!(report.problems, [""; 0], "release {release}");
}

/// Migrates as far as that release did, and inserts its data; returns a window of time that
/// contains it.
async fn leave(database: &OfflineDatabase, release: usize) -> (Timestamp, Timestamp) {
    database.theirs(&format!("run --target-version {release}")).await.well();
    let now = Timestamp::now();
    for step in 1..=release {
        let file = format!("tests/stories/releases/{step:04}.sql");
        match std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)) {
            Ok(script) => database.change(&translated(&script, now, database.is_shared())).await,
            // The release has no data of its own, for example only indexes.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
        }
    }
    (now.minus(7000 * MINUTE), now.minus(MINUTE))
}

/// The script with the database's literals for timestamps and bytes.
fn translated(script: &str, now: Timestamp, for_postgres: bool) -> String {
    // Comments explain the markers, so nothing is replaced in them.
    let script: Vec<_> = script.lines().filter(|line| !line.starts_with("--")).collect();
    let script = script.join("\n");
    let mut parts = script.split('@');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (minutes, rest) = part.split_at(digits);
        let instant = now.minus(MINUTE * minutes.parse().expect("minutes"));
        let instant =
            if for_postgres { format!("'{instant}'") } else { instant.micros().to_string() };
        text.push_str(&instant);
        text.push_str(rest);
    }
    if for_postgres { text.replace(" x'", " '\\x") } else { text }
}

/// The values of a member in all rows.
fn texts<'a>(page: &'a Value, member: &str) -> Vec<&'a str> {
    let list = page["list"].as_array().expect("a list");
    list.iter().map(|row| row[member].as_str().unwrap_or_default()).collect()
}

/// Every query that was possible before has the same result.
async fn queries_answer(service: &Service, from: Timestamp, to: Timestamp) {
    let admin = service.admin();
    let gateways = admin.get("/gateways").await.success();
    assert_eq!(texts(&gateways, "name"), ["berlin", "lima", "tokyo"]);
    let berlin = admin.get(&format!("/gateways/{BERLIN}")).await.success();
    assert_eq!((&berlin["floor"], &berlin["confirmed"]), (&json!(2), &json!(6)), "{berlin:#}");
    assert_eq!(berlin["epoch"], "0198c0de-0000-7000-8000-0000000000e1");
    assert_eq!(admin.get(&format!("/gateways/{LIMA}")).await.success()["disabled"], true);

    let window = format!("from={from}&to={to}");
    let failed = admin.get(&format!("/deliveries?{window}")).await.success();
    let expected = ["e-10", "e-9", "e-keyed", "e-5", "e-4", "e-3"];
    let known: Vec<_> = texts(&failed, "eventId").into_iter().filter(|id| !id.is_empty()).collect();
    assert_eq!(known, expected, "{failed:#}");
    let dead = admin.get(&format!("/deliveries?{window}&reason=connection_lost")).await.success();
    let dead = &dead["list"][0];
    assert_eq!((&dead["state"], &dead["failures"]), (&json!("failed"), &json!(5)), "{dead:#}");
    let again = admin.get(&format!("/deliveries?{window}&correlationId=c-3")).await.success();
    assert_eq!(again["list"][0]["redriven"], true, "{again:#}");
    let summary = admin.get(&format!("/deliveries/summary?{window}&bucket=7d")).await.success();
    let count = |reason: &str| {
        let rows = summary["list"].as_array().expect("a list");
        let of = rows.iter().filter(|row| row["key"] == reason);
        of.filter_map(|row| row["count"].as_i64()).sum::<i64>()
    };
    assert_eq!(count("connection_lost"), 5, "{summary:#}");
    assert_eq!(count("not_connected"), 4, "{summary:#}");

    let event = admin.get("/events/e-4").await.success();
    assert_eq!((&event["userId"], &event["correlationId"]), (&json!("alice"), &json!("c-4")));
    let states = event["deliveries"].as_array().expect("deliveries").iter();
    let states: Vec<_> =
        states.map(|it| (it["gatewayName"].as_str(), it["state"].as_str())).collect();
    let expected = [("berlin", "delivered"), ("lima", "pending"), ("tokyo", "delivered")];
    assert_eq!(states, expected.map(|(name, state)| (Some(name), Some(state))));
    let overview = admin.get("/stats").await.success();
    let totals = &overview["eventDelivery"];
    assert_eq!((&totals["totalEventsSent"], &totals["deadLetters"]), (&json!(6), &json!(1)));
    assert!(totals["failedDeliveries"].as_i64().is_some_and(|failed| failed >= 11), "{totals:#}");

    let sockets = format!("/gateways/{BERLIN}/connections");
    let sockets =
        service.eventually(&sockets, |page| !texts(page, "closeReason").contains(&"")).await;
    let reasons = ["node_lost", "closed_by_gateway", "connection_lost"];
    assert_eq!(texts(&sockets, "closeReason"), reasons, "{sockets:#}");
}

/// Repeats are still recognised, and registered types are still known.
async fn publishers_are_known(service: &Service) {
    let first = json!([{"gatewayId": BERLIN, "sequence": 8}, {"gatewayId": TOKYO, "sequence": 2}]);
    let repeat = service.admin().publish(KEYED).await.success();
    assert_eq!(repeat["deliveries"], first, "by its id");
    let with_key =
        service.admin().request(Method::POST, "/events").header("idempotency-key", "k-1");
    let with_key = with_key.header("content-type", "application/json").body(KEYED);
    assert_eq!(reply(with_key).await.success()["deliveries"], first, "by its request's key");
    let wrong = json!({"type": "cache.flushed", "gatewayIds": [TOKYO], "payload": {}});
    service.admin().post("/events", &wrong).await.invalid("payload", &["cache"]);
}

/// The body of the request with the stored key.
const KEYED: &str = r#"{"type":"gateway.config.updated","id":"e-keyed","correlationId":"c-keyed","gatewayIds":["0198c0de-0000-7000-8000-000000000001","0198c0de-0000-7000-8000-000000000002"],"payload":{"configType":"cache","action":"update","ratio":1.10}}"#;

/// A gateway with its old key receives what was pending, in order and byte for byte; one with a
/// revoked key does not. Returns the gateway's head.
async fn gateways_go_on(service: &Service, release: usize) -> i64 {
    assert_eq!(service.connect(TOKYO_KEY).await.err().expect("revoked").0, 401);
    let mut pending = vec!["e-3", "e-keyed", "e-9", "e-10"];
    if release >= 2 {
        pending.push("e-inbox");
        let rejected = service.admin().get("/inbox/rejected").await.success();
        assert_eq!(texts(&rejected, "eventId"), ["e-misspelt"], "{rejected:#}");
        service.eventually(&format!("/gateways/{BERLIN}"), |berlin| berlin["head"] == 11).await;
    }
    let mut socket = service.connected(BERLIN_KEY).await;
    let mut sequence = 6;
    for event in pending {
        sequence += 1;
        let text = socket.next_text().await.expect("an event");
        let frame: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&frame["sequence"], &frame["eventId"]), (&json!(sequence), &json!(event)));
        if event == "e-9" {
            let payload = r#"{"z":"\u0000 \"quoted\" ü","cache":"tokens","n":1.50}"#;
            assert!(text.contains(payload), "{text}");
        }
    }
    let next =
        json!({"type": "cache.flushed", "gatewayIds": [BERLIN], "payload": {"cache": "all"}});
    let next = service.admin().post("/events", &next).await.success();
    assert_eq!(next["deliveries"][0]["sequence"], sequence + 1);
    socket.expect(sequence + 1..=sequence + 1).await;
    let socket = socket.serve();
    let berlin = format!("/gateways/{BERLIN}");
    service.eventually(&berlin, |berlin| berlin["confirmed"] == sequence + 1).await;
    socket.abort();
    sequence + 1
}

/// Dead letters can still be redriven, and no other failed deliveries.
async fn operators_act(service: &Service, from: Timestamp, head: i64) {
    let all = json!({"filter": {"gatewayId": BERLIN, "from": from.to_string()}});
    let done = service.admin().post("/deliveries/redrive", &all).await.success();
    let redriven = done["redriven"].as_array().expect("a list");
    assert_eq!((redriven.len(), &done["alreadyRedriven"]), (1, &json!(1)), "{done:#}");
    assert_eq!(
        (&redriven[0]["sequence"], &redriven[0]["newSequence"]),
        (&json!(5), &json!(head + 1))
    );
}
