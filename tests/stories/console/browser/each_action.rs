//! The actions that no other story does in a browser, each by its form. The audit log says what was done.

use serde_json::json;

use super::driver::Browser;
use crate::alerts::receiver::{Answer, Receiver};
use crate::audit::running_job;
use crate::both_databases::Backend;
use crate::support::{Service, deployed};

async fn signed_in(service: &Service) -> Browser {
    let browser = Browser::start(service).await;
    browser.go("/console").await;
    browser.sign_in(&service.token).await;
    browser
}

/// Waits until this is the last change on record.
async fn recorded(service: &Service, action: &str) {
    service.eventually("/audit", |page| page["list"][0]["action"] == action).await;
}

#[tokio::test]
async fn a_gateways_deliveries_labels_and_keys_are_changed() {
    let service = Service::start().await;
    let (id, key) = service.gateway("berlin").await;
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    let browser = signed_in(&service).await;
    let path = format!("/console/gateways/{id}");

    browser.go(&path).await;
    browser.unfold("Skip a pending delivery").await;
    browser.type_into("#skip-reason", "never needed").await;
    browser.press("Skip this delivery").await;
    recorded(&service, "delivery.skipped").await;
    service.eventually("/stats", |it| it["eventDelivery"]["deadLetters"] == 1).await;

    // It has only used plain mode, so this is refused, with what to do instead.
    browser.go(&path).await;
    browser.unfold("Request a resync").await;
    browser.press("Request a resync").await;
    browser.until_says("Replay a part of its log instead").await;

    browser.go(&path).await;
    browser.unfold("Change its labels").await;
    browser.type_into("#field-labels", "region=eu-west").await;
    browser.press("Save the labels").await;
    recorded(&service, "gateway.labelled").await;
    let is_labelled = |it: &serde_json::Value| it["labels"] == json!({"region": "eu-west"});
    service.eventually(&format!("/gateways/{id}"), is_labelled).await;

    browser.go(&path).await;
    browser.press("Create a key").await;
    browser.until("return document.querySelector('#key')?.textContent.startsWith('gwk_')").await;
    let new = browser.text("#key").await;
    let socket = service.connected(&new).await.serve();
    browser.follow("Back to the gateway").await;
    let old = key.split('_').nth(1).expect("a public id");
    browser.click(&format!("details:has(form[action$='/keys/{old}/revoke']) summary")).await;
    browser.click(&format!("form[action$='/keys/{old}/revoke'] button")).await;
    recorded(&service, "gateway_token.revoked").await;

    browser.go(&path).await;
    browser.unfold("Disable the gateway").await;
    browser.press("Disable the gateway").await;
    recorded(&service, "gateway.disabled").await;
    socket.await.expect("closed");
    browser.press("Enable the gateway").await;
    recorded(&service, "gateway.enabled").await;
    browser.close().await;
}

#[tokio::test]
async fn rejected_rows_jobs_and_tokens_are_changed() {
    let backend = Backend::Sqlite;
    let service = backend.start().await;
    let (gateway, _) = service.gateway("berlin").await;
    for nth in 0..2 {
        let row = format!(
            "insert into inbox (type, payload, gateway_id) values ('no.such.{nth}', '{{}}', '{gateway}')"
        );
        backend.change(&service, &row).await;
    }
    let rows = service.eventually("/inbox/rejected", |rows| rows["count"] == 2).await;
    let ids = [0, 1].map(|nth: usize| rows["list"][nth]["id"].to_string());
    let browser = signed_in(&service).await;

    browser.go(&format!("/console/inbox/{}", ids[0])).await;
    browser.unfold("Delete it").await;
    browser.press("Delete permanently").await;
    recorded(&service, "rejected_row.deleted").await;
    browser.go(&format!("/console/inbox/{}", ids[1])).await;
    browser.unfold("Correct its content").await;
    browser.run("for (const id of ['edit-type', 'edit-payload']) document.getElementById(id).value = ''").await;
    browser.type_into("#edit-type", "gateway.config.updated").await;
    browser.type_into("#edit-payload", r#"{"configType": "cache", "action": "update"}"#).await;
    browser.click("form[action$='/edit'] button").await;
    recorded(&service, "rejected_row.published").await;
    service.eventually(&format!("/gateways/{gateway}"), |it| it["head"] == 1).await;

    running_job(&backend, &service).await;
    browser.go("/console/jobs").await;
    browser.press("Abort").await;
    recorded(&service, "job.aborted").await;

    browser.go("/console/access-tokens").await;
    browser.type_into("#field-name", "ci").await;
    // `read` is ticked from the start.
    browser.click("label[for='field-scopes-1']").await;
    browser.press("Create the token").await;
    browser.until("return document.querySelector('#secret')?.textContent.startsWith('gwa_')").await;
    let token = browser.text("#secret").await;
    service.api_with(&token).get("/stats").await.expect("it is valid");
    let id = token.split('_').nth(1).expect("a public id").to_owned();
    browser.go("/console/access-tokens").await;
    browser.click(&format!("details:has(form[action$='/{id}/revoke']) summary")).await;
    browser.click(&format!("form[action$='/{id}/revoke'] button")).await;
    recorded(&service, "access_token.revoked").await;
    browser.press("Sign out").await;
    browser.until("return location.pathname === '/console/sign-in'").await;
    browser.close().await;
}

#[tokio::test]
async fn alerts_and_event_types_are_changed() {
    let key = crate::alerts::Key::new();
    let service = crate::alerts::start(&Backend::Sqlite, &key).await;
    let receiver = Receiver::start(Answer::Status(200, "")).await;
    let browser = signed_in(&service).await;

    browser.go("/console/alerts/new-destination").await;
    browser.type_into("#field-id", "pager").await;
    browser.click("#field-kind option[value='webhook']").await;
    browser.type_into("#field-url", &receiver.url("/hook")).await;
    browser.press("Create the destination").await;
    recorded(&service, "alert_destination.created").await;
    browser.go("/console/alerts/destinations/pager").await;
    browser.press("Test it").await;
    receiver.until(|all| all.len() == 1).await;
    browser.until_says("200").await;
    browser.go("/console/alerts/destinations/pager").await;
    browser.type_into("#field-description", "The pager").await;
    browser.press("Save the destination").await;
    service
        .eventually("/alerts/destinations/pager", |it| it["settings"]["description"] == "The pager")
        .await;

    let rule = "/console/alerts/rules/gateway-away";
    browser.go(rule).await;
    browser.unfold("Silence it").await;
    browser.press("Silence the rule").await;
    recorded(&service, "alert_rule.silenced").await;
    browser.press("End its silence").await;
    browser.until_says("Silence it").await;
    browser.press("Disable the rule").await;
    browser.until_says("Enable the rule").await;
    browser.press("Enable the rule").await;
    browser.until_says("Disable the rule").await;
    browser.press("Disable the rule").await;
    browser.until_says("Enable the rule").await;
    browser.unfold("Restore the built-in rule").await;
    browser.press("Restore the built-in rule").await;
    recorded(&service, "alert_rule.deleted").await;

    browser.go("/console/alerts/destinations/pager").await;
    browser.unfold("Delete it").await;
    browser.press("Delete the destination").await;
    recorded(&service, "alert_destination.deleted").await;

    browser.go("/console/event-types").await;
    browser.run("for (const it of document.querySelectorAll('details')) it.open = true").await;
    browser.type_into("#field-name", "plan.changed").await;
    browser.type_into("#field-description", "A plan changed").await;
    browser.press("Register the type").await;
    recorded(&service, "event_type.registered").await;
    browser.go("/console/event-types/plan.changed").await;
    browser.run("for (const it of document.querySelectorAll('details')) it.open = true").await;
    browser.type_into("#field-ttlSeconds", "60").await;
    browser.press("Save the type").await;
    service.eventually("/event-types/plan.changed", |it| it["ttlSeconds"] == 60).await;
    browser.close().await;
}
