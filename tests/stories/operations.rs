//! What operators use: health, metrics, totals, and how soon a failure is visible.

use std::collections::BTreeMap;
use std::time::Duration;

use gateway_events::clock::Timestamp;
use serde_json::{Value, json};

use crate::support::{Service, deployed};

/// Parses the text format of Prometheus into series.
fn series(text: &str) -> BTreeMap<String, String> {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut all = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name, rest) = (words.next(), words.next(), words.next());
            let (name, rest) = (name.expect("a name"), rest.unwrap_or_default());
            if kind == Some("TYPE") {
                assert!(["counter", "gauge", "summary", "histogram"].contains(&rest), "{line}");
                assert!(types.insert(name, rest).is_none(), "typed twice: {line}");
            }
            continue;
        }
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        let bare = name.split('{').next().expect("a name");
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        assert!(bare.chars().all(is_name) && name.is_ascii(), "{line}");
        assert_eq!(name.contains('{'), name.ends_with('}'), "{line}");
        let family = ["_sum", "_count", "_bucket"].iter().find_map(|end| bare.strip_suffix(end));
        let known = |name: &str| types.contains_key(name);
        assert!(known(bare) || family.is_some_and(known), "no type: {line}");
        assert!(value.parse::<f64>().is_ok(), "no number: {line}");
        assert!(all.insert(name.to_owned(), value.to_owned()).is_none(), "twice: {line}");
    }
    all
}

#[tokio::test]
async fn metrics_move_when_events_are_delivered_and_when_they_fail() {
    let service = Service::start_with(&[("METRICS__FURTHEST_BEHIND", "0")]).await;
    let admin = service.admin();
    assert_eq!(admin.root("/livez").await.body, "ok\n");
    assert_eq!(admin.root("/readyz").await.body, "ok\n");
    let (one, key) = service.gateway("one").await;
    let (away, _) = service.gateway("away").await;
    let measured = async || {
        let answer = admin.root("/metrics").await;
        assert!(answer.content_type().starts_with("text/plain; version=0.0.4"), "{answer:?}");
        assert!(!answer.body.contains(&one), "no gateway is named");
        series(&answer.body)
    };
    // The sum of all series whose names begin like this. The ones used here are integers.
    let value = |all: &BTreeMap<String, String>, name: &str| -> i64 {
        let labelled = format!("{name}{{");
        let is_ours = |series: &str| series == name || series.starts_with(&labelled);
        let ours = all.iter().filter(|(series, _)| is_ours(series));
        ours.map(|(_, value)| value.parse::<i64>().expect("a whole number")).sum()
    };
    let socket = service.connected(&key).await.serve();
    service.eventually("/connections", |page| page["count"] == 1).await;
    let before = measured().await;
    assert_eq!(value(&before, "gateway_events_connections"), 1);
    admin.post("/events", &deployed(&[&one, &away], "d-1")).await.success();
    service.eventually(&format!("/gateways/{one}"), |gateway| gateway["confirmed"] == 1).await;
    service.eventually("/deliveries", |page| page["count"] == 1).await;
    service.connect("nonsense").await.err().expect("refused");
    let after = measured().await;
    for name in [
        "gateway_events_events_written_total",
        "gateway_events_delivery_failures_total{reason=\"not_connected\"}",
        "gateway_events_delivery_failures_by_type_total{type=\"api.deployed\"}",
        "gateway_events_authentication_failures_total",
        "gateway_events_receipt_delay_seconds_count",
        "gateway_events_dispatch_delay_seconds_count",
        "gateway_events_append_duration_seconds_count",
        "gateway_events_receipts_total",
    ] {
        assert_eq!(value(&after, name) - value(&before, name), 1, "{name}: {after:#?}");
    }
    admin.delete(&format!("/gateways/{one}")).await.success();
    socket.await.expect("closed");
    service.eventually("/connections", |page| page["count"] == 0).await;
    assert_eq!(value(&measured().await, "gateway_events_connections"), 0);
}

#[tokio::test]
async fn a_draining_node_is_alive_and_not_ready() {
    let mut service = Service::start_with(&[("SHUTDOWN__DRAIN", "60s")]).await;
    let admin = service.admin();
    let (_, key) = service.gateway("one").await;
    let (first, second) =
        (service.connected(&key).await.serve(), service.connected(&key).await.serve());
    service.ask_to_end();
    let not_ready = async {
        loop {
            let answer = admin.root("/readyz").await;
            if answer.status != 200 {
                break answer;
            }
        }
    };
    let answer =
        tokio::time::timeout(crate::support::TEST_TIMEOUT, not_ready).await.expect("it drains");
    answer.refusal(503, "draining");
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(admin.root("/livez").await.status, 200);
    let (status, body) = service.connect(&key).await.err().expect("refused");
    assert_eq!(status, 503, "{body}");
    // The second signal ends it at once.
    service.ask_to_end();
    assert_eq!(service.ended().await, Some(130));
    first.abort();
    second.abort();
}

#[tokio::test]
async fn a_failure_is_recorded_at_once() {
    let mut quickest = Duration::MAX;
    let service = Service::start().await;
    let admin = service.admin();
    let (away, _) = service.gateway("away").await;
    for number in 1..=5 {
        let answer = admin.post("/events", &deployed(&[&away], &format!("d-{number}"))).await;
        let id = answer.success()["id"].as_str().expect("an id").to_owned();
        let question = format!("/deliveries?eventId={id}");
        let found = service.eventually(&question, |page| page["count"] == 1).await;
        let row = &found["list"][0];
        let time =
            |value: &Value| Timestamp::parse(value.as_str().expect("a time")).expect("a time");
        let took = time(&row["attempts"][0]["finishedAt"]).since(time(&row["appendedAt"]));
        quickest = quickest.min(took);
    }
    assert!(quickest <= Duration::from_secs(1), "{quickest:?}");
}

#[tokio::test]
async fn totals_are_from_the_database_and_survive_a_kill() {
    let mut service = Service::start().await;
    let admin = service.admin();
    let empty = admin.get("/stats").await.success();
    assert_eq!(
        empty,
        json!({
            "gatewayConnections": {"totalActive": 0, "connections": []},
            "nodes": {"live": 1, "connections": 0, "maxConnections": 1000},
            "eventDelivery": {"totalEventsSent": 0, "failedDeliveries": 0, "deadLetters": 0,
                "pending": 0, "lastFailureTime": null, "lastFailureReason": null},
        })
    );
    let (one, key) = service.gateway("one").await;
    let (away, _) = service.gateway("away").await;
    let socket = service.connected(&key).await.serve();
    for deployment in ["d-1", "d-2"] {
        admin.post("/events", &deployed(&[&one, &away], deployment)).await.success();
    }
    let settled = |stats: &Value| {
        let delivery = &stats["eventDelivery"];
        delivery["totalEventsSent"] == 2 && delivery["failedDeliveries"] == 2
    };
    let stats = service.eventually("/stats", settled).await;
    let connection = &stats["gatewayConnections"]["connections"][0];
    for member in ["gatewayId", "connectionId", "connectedAt", "lastHeartbeat", "status"] {
        assert!(connection[member].is_string(), "{member}: {stats:#}");
    }
    assert_eq!(
        (&connection["gatewayId"], &connection["status"]),
        (&json!(one), &json!("connected"))
    );
    let delivery = stats["eventDelivery"].clone();
    assert_eq!(
        (&delivery["pending"], &delivery["lastFailureReason"]),
        (&json!(2), &json!("not_connected"))
    );
    let newest =
        admin.get("/deliveries?limit=1").await.success()["list"][0]["lastFailureAt"].clone();
    assert_eq!(delivery["lastFailureTime"], newest);
    service.kill().await;
    socket.await.expect("the kill closed it");
    service.restart().await;
    let after = service.admin().get("/stats").await.success();
    assert_eq!(after["eventDelivery"], delivery);
    assert_eq!(after["gatewayConnections"]["totalActive"], 0, "{after:#}");
    let past = service.admin().get("/connections?status=all").await.success();
    assert_eq!(past["list"][0]["closeReason"], "node_lost", "{past:#}");
}

#[tokio::test]
async fn the_state_of_a_gateway_and_of_an_event_is_shown() {
    let service = Service::start().await;
    let admin = service.admin();
    let (one, key) = service.gateway("one").await;
    let (away, _) = service.gateway("away").await;
    let socket = service.connected(&key).await.serve();
    let mut event = deployed(&[&one, &away], "d-1");
    event["id"] = json!("a/b?c");
    event["userId"] = json!("somebody");
    admin.post("/events", &event).await.success();
    let gateway =
        service.eventually(&format!("/gateways/{one}"), |one| one["confirmed"] == 1).await;
    assert_eq!(gateway["lag"], json!({"events": 0, "seconds": 0}));
    assert_eq!((&gateway["connected"], &gateway["connections"]), (&json!(true), &json!(1)));
    let lags = |gateway: &Value| gateway["lag"]["seconds"].as_i64() >= Some(1);
    let behind = service.eventually(&format!("/gateways/{away}"), lags).await;
    assert_eq!((&behind["lag"]["events"], &behind["head"]), (&json!(1), &json!(1)));
    assert_eq!((&behind["connected"], &behind["confirmed"]), (&json!(false), &json!(0)));

    let shown = admin.get("/events/a%2Fb%3Fc").await.success();
    assert_eq!((&shown["id"], &shown["userId"]), (&json!("a/b?c"), &json!("somebody")));
    let deliveries = shown["deliveries"].as_array().expect("a list");
    let of = |id: &str| deliveries.iter().find(|row| row["gatewayId"] == id).expect("its delivery");
    assert_eq!(
        (of(&one)["state"].as_str(), of(&away)["state"].as_str()),
        (Some("delivered"), Some("pending"))
    );
    let (received, missed) = (&of(&one)["attempts"][0], &of(&away)["attempts"][0]);
    assert_eq!(received["outcome"], "received");
    assert_eq!(
        (&missed["outcome"], &missed["reason"]),
        (&json!("failed"), &json!("not_connected"))
    );
    let live = admin.get("/connections").await.success();
    assert_eq!(received["connectionId"], live["list"][0]["connectionId"]);
    admin.get("/events/unknown").await.refusal(404, "not_found");

    // What a gateway says about itself is stored and shown to admins.
    let announce =
        service.caller(None).request(reqwest::Method::POST, &format!("/gateways/{one}/manifest"));
    let manifest = json!({"version": "1.2", "functionalityType": "regular", "policies": []});
    let kept = crate::support::http::reply(announce.header("api-key", &key).json(&manifest)).await;
    assert_eq!((kept.status, kept.body.as_str()), (204, ""));
    assert_eq!(admin.get(&format!("/gateways/{one}")).await.success()["manifest"], manifest);

    admin.patch(&format!("/gateways/{one}"), &json!({"disabled": true})).await.success();
    socket.await.expect("closed");
    let past = format!("/gateways/{one}/connections");
    let past = service.eventually(&past, |page| page["list"][0]["status"] == "closed").await;
    assert_eq!(past["list"][0]["closeReason"], "gateway_disabled");
    assert!(past["list"][0]["closedAt"].is_string());
    assert_eq!(service.connect(&key).await.err().expect("refused").0, 403);
    admin.patch(&format!("/gateways/{one}"), &json!({"disabled": false})).await.success();
    service.connected(&key).await;
}
