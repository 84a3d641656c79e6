//! What the log shows operators: which events failed, whose connections a crash ended, and who was
//! refused.

use std::time::Duration;

use serde_json::{Value, json};

use super::unauthenticated::manifest;
use crate::support::{Service, TEST_TIMEOUT, deployed};
use crate::transports::{Kind, transport};

/// Waits for this many lines of the JSON log that satisfy a condition.
pub(crate) async fn lines(
    service: &Service,
    count: usize,
    satisfies: impl Fn(&Value) -> bool,
) -> Vec<Value> {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let mut found = Vec::new();
    let enough = tokio::time::timeout(TEST_TIMEOUT, async {
        while found.len() < count {
            looks.tick().await;
            let log = service.log();
            let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
            found = lines.inspect(numbers_are_numbers).filter(|line| satisfies(line)).collect();
        }
    })
    .await;
    assert!(enough.is_ok(), "{} of {count} lines\n{}", found.len(), service.log());
    found
}

/// Members that look like numbers must be numbers, so that programs can compare and add them.
fn numbers_are_numbers(line: &Value) {
    for (name, value) in line.as_object().into_iter().flatten() {
        let is_quoted = value.as_str().is_some_and(|text| text.parse::<f64>().is_ok());
        assert!(!is_quoted, "{name} is a number in quotes: {line}");
    }
}

#[tokio::test]
async fn numbers_are_logged_as_numbers_through_a_gateways_life() {
    let mut service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    lines(&service, 1, |line| line["reason"] == "not_connected").await;
    let mut socket = service.connected(&key).await;
    socket.expect(1..=1).await;
    let serving = socket.serve();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;
    service.terminate().await;
    serving.await.expect("its events");
    let ended = lines(&service, 1, |line| line["message"] == "disconnected").await.remove(0);
    assert_eq!(ended["confirmed"], 1, "{ended}");
    let draining = lines(&service, 1, |line| line["message"] == "draining").await.remove(0);
    assert_eq!((&draining["connections"], &draining["over_ms"]), (&json!(1), &json!(10_000)));
    lines(&service, 1, |line| line["outcome"] == "received" && line["first"] == 1).await;
}

#[tokio::test]
async fn failures_of_a_disconnected_gateway_are_logged_with_name_and_sequences() {
    let service = Service::start().await;
    let (one, _) = service.gateway("one").await;
    let (other, _) = service.gateway("other").await;
    let batch: Vec<Value> =
        (0..3).map(|number| deployed(&[&one], &format!("d-{number}"))).collect();
    service.api().post("/events", &json!(batch)).await.expect("accepted");
    service.api().post("/events", &deployed(&[&other], "d")).await.expect("accepted");
    for (gateway, last) in [(&one, 3), (&other, 1)] {
        let of = |line: &Value| line["reason"] == "not_connected" && line["gateway"] == **gateway;
        let line = lines(&service, 1, of).await.remove(0);
        assert_eq!((&line["first"], &line["last"]), (&json!(1), &json!(last)), "{line:#}");
        assert_eq!(line["outcome"], "failed", "{line:#}");
    }
}

#[tokio::test]
async fn each_connection_that_a_crash_ended_is_logged_once() {
    let mut service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let (_first, _second) = (service.connected(&key).await, service.connected(&key).await);
    let path = format!("/gateways/{id}/connections");
    let before = service.eventually(&path, |page| page["count"] == 2).await;
    service.kill().await;
    service.restart().await;
    let lost = |line: &Value| line["reason"] == "node_lost";
    let found = lines(&service, 2, lost).await;
    assert_eq!(found.len(), 2);
    for connection in before["list"].as_array().expect("a list") {
        let of = |line: &&Value| line["connection"] == connection["connectionId"];
        let line = found.iter().find(of).expect("a line for each");
        assert_eq!((&line["gateway"], &line["message"]), (&json!(id), &json!("disconnected")));
    }
}

#[tokio::test]
async fn every_refused_credential_is_logged_and_counted_and_none_is_shown() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let gateway_token = public_id(&key).to_owned();
    let admin_token = public_id(&service.token).to_owned();
    // The secret of another key with a known id: well formed except for its checksum.
    let unknown = "gwa_aaaaaaaaaaaa_notakeyatall";
    for token in [unknown, "nonsense", &key] {
        assert_eq!(
            service.api_with(token).get("/stats").await.expect_err("refused").status(),
            Some(401)
        );
    }
    let new = json!({"name": "gone", "scopes": ["read"]});
    let made = service.api().post("/access-tokens", &new).await.expect("made");
    let gone = made["token"].as_str().expect("a token").to_owned();
    service.api().delete(&format!("/access-tokens/{}", public_id(&gone))).await.expect("revoked");
    service.api_with(&gone).get("/stats").await.expect_err("revoked");
    let bare = service.api_with("").at_root(reqwest::Method::GET, "/api/internal/v1/stats");
    assert_eq!(bare.send().await.expect("an answer").status(), 401);
    service.api().delete(&format!("/gateways/{id}/tokens/{gateway_token}")).await.expect("revoked");
    assert_eq!(manifest(&service, &id, Some(&key)).await, 401);
    assert_eq!(service.connect(&key).await.err().expect("refused").0, 401);
    // The one at the upgrade has its own line.
    let refused = |line: &Value| {
        line["message"] == "refused a credential" || line["message"] == "refused a connection"
    };
    let found = lines(&service, 7, refused).await;
    assert!(found.iter().all(|line| line["address"] == "127.0.0.1"), "{found:#?}");
    let of = |kind: &str, token: Option<&str>| {
        let is_kind = |line: &&Value| match line["message"].as_str() {
            Some("refused a connection") => kind == "gateway_key",
            _ => line["kind"] == kind,
        };
        found.iter().filter(is_kind).filter(|line| line["token"].as_str() == token).count()
    };
    assert_eq!(of("access_token", None), 4);
    assert_eq!(of("access_token", Some(public_id(&gone))), 1);
    assert_eq!(of("gateway_key", Some(&gateway_token)), 2);
    assert_eq!(of("access_token", Some(&admin_token)), 0);
    for secret in [&key, &gone, &service.token, unknown] {
        assert!(!service.log().contains(secret), "a secret stands in the log");
    }
    let metrics = service.api().at_root(reqwest::Method::GET, "/metrics");
    let metrics = metrics.send().await.expect("an answer").text().await.expect("text");
    for (kind, count) in [("access_token", 5), ("gateway_key", 2)] {
        let series =
            format!("gateway_events_authentication_failures_total{{kind=\"{kind}\"}} {count}");
        assert!(metrics.contains(&series), "{metrics}");
    }
}

#[tokio::test]
async fn a_refused_connection_is_logged_with_its_transport() {
    let service = Service::start().await;
    assert_eq!(service.connect("gwk_nonsense").await.err().expect("refused").0, 401);
    let hello = json!({"type": "connection.hello", "resume": "server", "confirm": "applied"});
    let hello = serde_json::from_value(hello).expect("a hello");
    for kind in [Kind::WebSocket, Kind::Sse, Kind::LongPoll, Kind::Grpc] {
        // The link of long polling sends its first request later.
        let transport = transport(&service, kind, "gwk_nonsense");
        let Ok(mut link) = transport.connect(&hello).await else { continue };
        link.receive().await.expect_err("refused");
    }
    let refused = |line: &Value| line["message"] == "refused a connection";
    let found = lines(&service, 5, refused).await;
    for transport in ["websocket", "websocket.v1", "sse", "long_poll", "grpc"] {
        let of = found.iter().filter(|line| line["transport"] == transport).count();
        assert_eq!(of, 1, "{transport}: {found:#?}");
    }
}

pub(super) fn public_id(key: &str) -> &str {
    key.split('_').nth(1).expect("a key")
}
