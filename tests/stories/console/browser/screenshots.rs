//! Takes the screenshots in `docs/console` of a service with six gateways: deployments fail at one, one
//! has never connected, and one is paused. `CONSOLE_SCREENSHOTS` names the directory for them.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::applied;
use super::driver::{Browser, Look};
use crate::support::{Service, failed_report};

/// The gateways with their regions, by name.
const GATEWAYS: [(&str, &str); 6] = [
    ("amsterdam", "eu-west"),
    ("denver", "us-west"),
    ("lisbon", "eu-west"),
    ("madrid", "eu-south"),
    ("osaka", "ap-east"),
    ("toronto", "us-east"),
];

async fn publish(service: &Service, deployment: &str) {
    let event = json!({
        "type": "api.deployed", "target": {"all": true}, "id": deployment, "userId": "anna",
        "payload": {"apiId": "a-1", "deploymentId": deployment, "performedAt": "2026-01-31T09:30:00.001Z"},
    });
    service.api().post("/events", &event).await.expect("accepted");
}

/// Waits until gateways have confirmed this much.
async fn confirmed(service: &Service, names: &[&str], sequence: i64) {
    let is_confirmed = |gateway: &Value| {
        !names.iter().any(|name| gateway["name"] == *name) || gateway["confirmed"] == sequence
    };
    let all = |list: &Value| list["list"].as_array().expect("a list").iter().all(is_confirmed);
    service.eventually("/gateways", all).await;
}

/// Builds the scene. Returns the id of the gateway that refuses deployments.
async fn build(service: &Service, token: &str) -> String {
    let api = service.api();
    let mut refusing = String::new();
    let mut paused = String::new();
    for (name, region) in GATEWAYS {
        let (id, key) = service.gateway(name).await;
        let labels = json!({"labels": {"env": "prod", "region": region}});
        api.patch(&format!("/gateways/{id}"), &labels).await.expect("changed");
        match name {
            "madrid" => continue,
            "denver" => refusing = id,
            "osaka" => paused = id,
            _ => {}
        }
        let mut socket = service.connected(&key).await;
        tokio::spawn(async move {
            while let Some(frame) = socket.next().await {
                let Some(deployment) = frame["payload"]["deploymentId"].as_str() else { continue };
                let refuses = name == "denver";
                let report = if refuses { failed_report(deployment) } else { applied(deployment) };
                socket.send(Message::text(report)).await;
            }
        });
    }
    for (nth, deployment) in ["orders-v1", "orders-v2", "orders-v3"].iter().enumerate() {
        publish(service, deployment).await;
        let sequence = i64::try_from(nth + 1).expect("small");
        confirmed(service, &["amsterdam", "denver", "lisbon", "osaka", "toronto"], sequence).await;
    }
    let reason = json!({"reason": "upgrade of its host"});
    let operator = service.api_with(token);
    operator.post(&format!("/gateways/{paused}/pause"), &reason).await.expect("paused");
    publish(service, "orders-v4").await;
    confirmed(service, &["amsterdam", "denver", "lisbon", "toronto"], 4).await;
    service.eventually("/deliveries", |list| list["count"].as_i64() >= Some(8)).await;
    refusing
}

#[tokio::test]
async fn the_overview_an_event_and_a_gateway_show_what_is_wrong() {
    let service = Service::start().await;
    let scopes = json!({"name": "operations", "scopes": ["read", "publish", "admin"]});
    let token = service.api().post("/access-tokens", &scopes).await.expect("created");
    let token = token["token"].as_str().expect("a token");
    let refusing = build(&service, token).await;
    let browser = Browser::start(&service).await;
    browser.look(Look::of_picture("light")).await;
    browser.go("/console").await;
    browser.sign_in(token).await;
    let headline = browser.text("main .notice").await;
    assert_eq!(headline, "3 of 6 gateways need attention. 4 dead letters have not been redriven.");
    browser.save_picture("overview", "light").await;

    browser.go("/console/events/orders-v4").await;
    let rollout = browser.text("section[aria-labelledby=rollout] .legend").await;
    for part in ["applied 3", "pending 1", "not connected 1", "failed 1"] {
        assert!(rollout.contains(part), "{part}: {rollout}");
    }
    browser.save_picture("event", "dark").await;

    browser.look(Look::of_picture("light")).await;
    browser.go(&format!("/console/gateways/{refusing}")).await;
    assert!(browser.text(".verdict").await.contains("4 deployments failed"));
    browser.save_picture("gateway", "light").await;

    browser.go("/console/gateways").await;
    browser.click("#live tbody tr:nth-child(1) input").await;
    browser.click("#live tbody tr:nth-child(3) input").await;
    browser.until("return document.getElementById('selected').textContent === '2 selected'").await;
    browser.point_at(".brand").await;
    browser.save_picture("gateways", "light").await;

    browser.go("/console/publish?type=gateway.config.updated").await;
    browser.type_into("#member-0", "update").await;
    browser.type_into("#member-1", "cache").await;
    browser.click("input[name=to][value=labels]").await;
    browser.type_into("#field-labels", "region=eu-west").await;
    browser.click("form.sheet button").await;
    browser
        .until("return document.querySelector('h1')?.innerText.includes('preview') === true")
        .await;
    assert!(browser.text("main").await.contains("lisbon"));
    browser.save_picture("publish", "light").await;
    browser.close().await;
}
