//! What a gateway reports about deployments (`deployment.ack`).

use serde_json::{Value, json};

use crate::raw::{CLOSE, Raw};
use crate::support::{Service, deployed, get};

/// A report on the deployment that [`deployed`] publishes.
fn report(deployment: &str, status: &str, more: &Value) -> String {
    let mut payload = json!({
        "deploymentId": deployment, "artifactId": "a-1", "resourceType": "api",
        "action": "deploy", "status": status, "performedAt": "2026-01-31T09:30:00.001Z",
    });
    for (name, value) in more.as_object().expect("members") {
        payload[name] = value.clone();
    }
    json!({"type": "deployment.ack", "payload": payload}).to_string()
}

/// Publishes a deployment, which the gateway takes; returns its event id.
async fn taken(service: &Service, gateway: &mut Raw, id: &str, deployment: &str) -> String {
    service.api().post("/events", &deployed(&[id], deployment)).await.expect("accepted");
    let event = gateway.event().await;
    assert_eq!(event["payload"]["deploymentId"], deployment);
    event["eventId"].as_str().expect("an id").to_owned()
}

/// The outcomes on record of an event's only delivery.
fn outcomes(event: &Value) -> Vec<&str> {
    event["deliveries"][0]["attempts"]
        .as_array()
        .map(|attempts| attempts.iter().filter_map(|one| one["outcome"].as_str()).collect())
        .unwrap_or_default()
}

#[tokio::test]
async fn an_applied_deployment_is_shown_so_whatever_offset_its_time_is_written_in() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let mut gateway = Raw::connect(&service, service.port, &key).await;
    for (sequence, performed_at) in
        (1..).zip(["2026-01-31T09:30:00.001Z", "2026-01-31T15:00:00.001+05:30"])
    {
        let deployment = format!("d-{sequence}");
        let event = taken(&service, &mut gateway, &id, &deployment).await;
        let more = json!({"performedAt": performed_at});
        gateway.text(&report(&deployment, "success", &more)).await;
        gateway.receipt_asked(sequence).await;
        gateway.pong(&sequence.to_string()).await;
        let path = format!("/events/{event}");
        let shown = service.eventually(&path, |event| outcomes(event).len() == 2).await;
        let outcomes = outcomes(&shown);
        assert!(outcomes.contains(&"applied") && outcomes.contains(&"received"), "{shown:#}");
        assert_eq!(shown["deliveries"][0]["state"], "delivered", "{shown:#}");
    }
}

#[tokio::test]
async fn a_failed_deployment_is_a_failed_delivery_for_the_reason_given() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let mut gateway = Raw::connect(&service, service.port, &key).await;
    let codes = [
        ("GATEWAY_PROCESSING_ERROR", "gateway_processing_error"),
        ("DEPLOYMENT_ID_MISMATCH", "deployment_id_mismatch"),
        ("SOMETHING_NEW", "apply_failed"),
    ];
    for (sequence, (code, reason)) in (1..).zip(codes) {
        let deployment = format!("d-{sequence}");
        let event = taken(&service, &mut gateway, &id, &deployment).await;
        gateway.text(&report(&deployment, "failed", &json!({"errorCode": code}))).await;
        // It was handled all the same: the stream goes on.
        gateway.receipt_asked(sequence).await;
        gateway.pong(&sequence.to_string()).await;
        let path = format!("/deliveries?gatewayId={id}&eventId={event}");
        let page = service.eventually(&path, |page| page["count"] == 1).await;
        assert_eq!(page["list"][0]["reason"], reason, "{page:#}");
        assert_eq!(page["list"][0]["state"], "failed", "{page:#}");
    }
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 3).await;
}

#[tokio::test]
async fn a_report_that_names_nothing_known_is_ignored_and_counted() {
    const WHAT: &str = "a report on a deployment that we don't know";
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let (other, _) = service.gateway("other").await;
    let mut gateway = Raw::connect(&service, service.port, &key).await;
    let event = taken(&service, &mut gateway, &id, "d-1").await;
    // Another gateway's deployment is none of this one's.
    service.api().post("/events", &deployed(&[&other], "d-other")).await.expect("accepted");
    let unknown = [
        report("d-other", "failed", &json!({})),
        report("d-2", "success", &json!({})),
        report("d-1", "failed", &json!({"artifactId": "a-2"})),
        report("d-1", "failed", &json!({"action": "undeploy"})),
        report("d-1", "failed", &json!({"performedAt": "2026-01-31T09:30:00.002Z"})),
    ];
    for report in &unknown {
        gateway.text(report).await;
    }
    gateway.text(&report("d-1", "success", &json!({}))).await;
    let path = format!("/events/{event}");
    // Reports are matched in order, so the others have been looked at.
    service.eventually(&path, |event| outcomes(event) == ["applied"]).await;
    assert_eq!(service.odd_messages(WHAT).await, unknown.len() as u64);
    let page = get(&service.api(), &format!("/deliveries?gatewayId={id}")).await.expect("a page");
    assert_eq!(page["count"], 0, "{page:#}");
}

/// A backlog of which a window's worth was sent: what lies behind it can't have
/// been handled yet.
#[tokio::test]
async fn a_report_on_what_was_never_sent_is_nonsense() {
    let service = Service::start_with(&[("DELIVERY__WINDOW_EVENTS", "4")]).await;
    let (id, key) = service.gateway("one").await;
    let batch: Vec<Value> =
        (1..=20).map(|number| deployed(&[&id], &format!("d-{number}"))).collect();
    service.api().post("/events", &json!(batch)).await.expect("accepted");
    let missed = format!("/deliveries?gatewayId={id}&reason=not_connected");
    service.eventually(&missed, |page| page["count"] == 20).await;
    let mut gateway = Raw::connect(&service, service.port, &key).await;
    gateway.receipt_asked(4).await;
    gateway.text(&report("d-20", "success", &json!({}))).await;
    gateway.text(&report("d-19", "failed", &json!({}))).await;
    // Its connection ends before the last two are matched, which changes nothing.
    gateway.text(&report("d-4", "failed", &json!({}))).await;
    gateway.text(&report("d-18", "failed", &json!({}))).await;
    gateway.send(true, CLOSE, &1000_u16.to_be_bytes()).await;
    while gateway.next().await.is_some() {}
    let reported = format!("/deliveries?gatewayId={id}&reason=apply_failed");
    let page = service.eventually(&reported, |page| page["count"] != 0).await;
    let sequences: Vec<&Value> =
        page["list"].as_array().expect("a list").iter().map(|row| &row["sequence"]).collect();
    assert_eq!(sequences, [&json!(4)], "{page:#}");
    service
        .eventually(&format!("/gateways/{id}/connections"), |page| {
            page["list"][0]["status"] == "closed"
        })
        .await;
    let page = get(&service.api(), &reported).await.expect("a page");
    assert_eq!(page["count"], 1, "{page:#}");
}

/// Two events may name the same deployment: what is reported is the newest.
#[tokio::test]
async fn a_report_belongs_to_the_newest_event_that_it_fits() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let mut gateway = Raw::connect(&service, service.port, &key).await;
    let older = taken(&service, &mut gateway, &id, "d-1").await;
    let newer = taken(&service, &mut gateway, &id, "d-1").await;
    gateway.text(&report("d-1", "success", &json!({}))).await;
    service.eventually(&format!("/events/{newer}"), |event| outcomes(event) == ["applied"]).await;
    let shown = service.api().get(&format!("/events/{older}")).await.expect("the event");
    assert!(outcomes(&shown).is_empty(), "{shown:#}");
}
