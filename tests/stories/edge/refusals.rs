//! What operators learn about refused connections and failed deliveries from the log, the metrics
//! and the gateway itself, and its limits.

use reqwest::Method;
use serde_json::{Value, json};

use super::log::{lines, public_id};
use crate::both_databases::Backend;
use crate::raw_gateway::RawGateway;
use crate::support::http::reply;
use crate::support::{Service, deployed, failed_report};

/// The log line of a refused upgrade. Also checks the metrics.
async fn refused(service: &Service, code: &str) -> Value {
    let of = |line: &Value| line["message"] == "refused a connection" && line["code"] == code;
    let line = lines(service, 1, of).await.remove(0);
    assert_eq!(line["address"], "127.0.0.1", "{line:#}");
    let series = format!("gateway_events_connection_attempts_refused_total{{code=\"{code}\"}} ");
    assert!(service.metrics().await.contains(&series), "{series}");
    line
}

/// The last refusal shown at a gateway; waits for it.
async fn last_refusal(service: &Service, id: &str) -> Value {
    let path = format!("/gateways/{id}");
    let gateway = service.eventually(&path, |gateway| gateway["lastRefusal"].is_object()).await;
    let refusal = gateway["lastRefusal"].clone();
    assert_eq!(refusal["address"], "127.0.0.1", "{gateway:#}");
    assert!(refusal["at"].is_string(), "{gateway:#}");
    refusal
}

async fn every_refused_upgrade_is_logged_counted_and_recorded(backend: Backend) {
    let mut service = backend.start_with(&[("DELIVERY__MAX_CONNECTIONS", "1")]).await;
    let named = |line: &Value, id: &str, name: &str| {
        assert_eq!((&line["gateway"], &line["gateway_name"]), (&json!(id), &json!(name)));
    };
    let (revoked, old) = service.gateway("revoked").await;
    let token = public_id(&old);
    service.api().delete(&format!("/gateways/{revoked}/tokens/{token}")).await.expect("revoked");
    assert_eq!(service.connect(&old).await.err().expect("refused").0, 401);
    let line = refused(&service, "unauthorized").await;
    named(&line, &revoked, "revoked");
    assert_eq!((&line["token"], &line["status"]), (&json!(token), &json!(401)));
    let noted = last_refusal(&service, &revoked).await;
    assert_eq!(noted["code"], "unauthorized");

    let (disabled, key) = service.gateway("disabled").await;
    let change = json!({"disabled": true});
    service.api().patch(&format!("/gateways/{disabled}"), &change).await.expect("disabled");
    assert_eq!(service.connect(&key).await.err().expect("refused").0, 403);
    named(&refused(&service, "gateway_disabled").await, &disabled, "disabled");
    assert_eq!(last_refusal(&service, &disabled).await["code"], "gateway_disabled");

    let (limited, key) = service.gateway("limited").await;
    let (_, only) = service.gateway("only").await;
    let held = service.connected(&only).await;
    assert_eq!(service.connect(&key).await.err().expect("refused").0, 503);
    named(&refused(&service, "connection_limit").await, &limited, "limited");
    assert_eq!(last_refusal(&service, &limited).await["code"], "connection_limit");
    drop(held);

    let (plain, key) = service.gateway("plain").await;
    let connect = || service.caller(None).request(Method::GET, "/ws/gateways/connect");
    let request = connect().header("api-key", &key);
    reply(request).await.refusal(426, "upgrade_required");
    named(&refused(&service, "upgrade_required").await, &plain, "plain");
    let request = connect().header("api-key", &key).header("origin", "https://page.example");
    reply(request).await.refusal(400, "origin_refused");
    refused(&service, "origin_refused").await;
    while service.connect("gwk_nonsense").await.err().expect("refused").0 != 429 {}
    let line = refused(&service, "too_many_attempts").await;
    assert_eq!((&line["gateway"], &line["token"]), (&Value::Null, &Value::Null), "{line:#}");
    assert!(!service.log().contains(&old) && !service.log().contains(&key), "a key is logged");

    // Other nodes show it, and it survives the process.
    if matches!(backend, Backend::Postgres(_)) {
        assert_eq!(last_refusal(&service.another().await, &revoked).await, noted);
    }
    service.kill().await;
    service.restart().await;
    assert_eq!(last_refusal(&service, &revoked).await, noted);
}

#[tokio::test]
async fn every_refused_upgrade_is_logged_counted_and_recorded_embedded() {
    every_refused_upgrade_is_logged_counted_and_recorded(Backend::Sqlite).await;
}

#[tokio::test]
async fn every_refused_upgrade_is_logged_counted_and_recorded_shared() {
    every_refused_upgrade_is_logged_counted_and_recorded(Backend::postgres()).await;
}

#[tokio::test]
async fn a_flood_of_refusals_is_counted_and_logged_in_few_lines() {
    const FLOOD: usize = 300;
    let service = Service::start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "1000")]).await;
    let unauthorized = service.caller(Some("gwa_wrong"));
    for _ in 0..FLOOD {
        reply(unauthorized.request(Method::GET, "/gateways")).await.refusal(401, "unauthorized");
    }
    let series =
        format!("gateway_events_authentication_failures_total{{kind=\"access_token\"}} {FLOOD}");
    assert!(service.metrics().await.contains(&series));
    let written = service.log().matches("refused a credential").count();
    // Ten a minute; the flood may span several minutes.
    assert!((1..=FLOOD / 3).contains(&written), "{written} lines");
    // Another kind of failure of the same peer has its own lines.
    assert_eq!(service.connect("gwk_nonsense").await.err().expect("refused").0, 401);
    refused(&service, "unauthorized").await;
}

#[tokio::test]
async fn a_failed_delivery_is_a_warning_that_names_gateway_event_and_type() {
    let service = Service::start().await;
    let (id, key) = service.gateway("berlin").await;
    let publish = async |deployment: &str| {
        let event = deployed(&[&id], deployment);
        let answer = service.api().post("/events", &event).await.expect("accepted");
        answer["id"].as_str().expect("an id").to_owned()
    };
    let warned = async |reason: &str, event: &str| {
        let of = |line: &Value| line["reason"] == reason && line["event_id"] == event;
        let line = lines(&service, 1, of).await.remove(0);
        assert_eq!((&line["level"], &line["outcome"]), (&json!("WARN"), &json!("failed")));
        assert_eq!((&line["gateway"], &line["gateway_name"]), (&json!(id), &json!("berlin")));
        assert_eq!(line["event_type"], "api.deployed", "{line:#}");
    };
    let missed = publish("d-1").await;
    warned("not_connected", &missed).await;
    let mut gateway = RawGateway::connect(&service, service.port, &key).await;
    gateway.receipt_asked(1).await;
    gateway.text(&failed_report("d-1")).await;
    gateway.pong("1").await;
    warned("gateway_processing_error", &missed).await;
    let lost = [publish("d-2").await, publish("d-3").await];
    gateway.receipt_asked(3).await;
    drop(gateway);
    for event in &lost {
        warned("connection_lost", event).await;
    }
}
