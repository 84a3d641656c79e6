//! Reports on deployments (`deployment.ack`).

use serde_json::{Value, json};

use crate::raw_gateway::{CLOSE, RawGateway};
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

/// Publishes a deployment, which the gateway receives; returns its event id.
async fn taken(service: &Service, gateway: &mut RawGateway, id: &str, deployment: &str) -> String {
    service.api().post("/events", &deployed(&[id], deployment)).await.expect("accepted");
    let event = gateway.event().await;
    assert_eq!(event["payload"]["deploymentId"], deployment);
    event["eventId"].as_str().expect("an id").to_owned()
}

/// The recorded outcomes of an event's only delivery.
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
    let mut gateway = RawGateway::connect(&service, service.port, &key).await;
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
    let mut gateway = RawGateway::connect(&service, service.port, &key).await;
    let codes = [
        ("GATEWAY_PROCESSING_ERROR", "gateway_processing_error"),
        ("DEPLOYMENT_ID_MISMATCH", "deployment_id_mismatch"),
        ("SOMETHING_NEW", "apply_failed"),
    ];
    for (sequence, (code, reason)) in (1..).zip(codes) {
        let deployment = format!("d-{sequence}");
        let event = taken(&service, &mut gateway, &id, &deployment).await;
        gateway.text(&report(&deployment, "failed", &json!({"errorCode": code}))).await;
        // It was handled nevertheless: the stream continues.
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
async fn a_report_without_a_matching_event_is_ignored_and_counted() {
    const LOGGED: &str = "unknown_deployment";
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let (other, _) = service.gateway("other").await;
    let mut gateway = RawGateway::connect(&service, service.port, &key).await;
    let event = taken(&service, &mut gateway, &id, "d-1").await;
    // Another gateway's deployment does not count.
    service.api().post("/events", &deployed(&[&other], "d-other")).await.expect("accepted");
    let unknown = [
        report("d-other", "failed", &json!({})),
        report("d-2", "success", &json!({})),
        report("d-1", "failed", &json!({"artifactId": "a-2"})),
        report("d-1", "failed", &json!({"action": "undeploy"})),
    ];
    for report in &unknown {
        gateway.text(report).await;
    }
    gateway.text(&report("d-1", "success", &json!({}))).await;
    let path = format!("/events/{event}");
    // Reports are matched in order, so the others have been processed.
    service.eventually(&path, |event| outcomes(event).contains(&"applied")).await;
    assert_eq!(service.invalid_messages(LOGGED).await, unknown.len() as u64);
    let page = get(&service.api(), &format!("/deliveries?gatewayId={id}")).await.expect("a page");
    assert_eq!(page["count"], 0, "{page:#}");
}

/// A backlog of which one window was sent: what follows can't have been handled yet.
#[tokio::test]
async fn a_report_on_an_event_that_was_not_sent_is_invalid() {
    let service = Service::start_with(&[("DELIVERY__WINDOW_EVENTS", "4")]).await;
    let (id, key) = service.gateway("one").await;
    let batch: Vec<Value> =
        (1..=20).map(|number| deployed(&[&id], &format!("d-{number}"))).collect();
    service.api().post("/events", &json!(batch)).await.expect("accepted");
    let missed = format!("/deliveries?gatewayId={id}&reason=not_connected");
    service.eventually(&missed, |page| page["count"] == 20).await;
    let mut gateway = RawGateway::connect(&service, service.port, &key).await;
    gateway.receipt_asked(4).await;
    gateway.text(&report("d-20", "success", &json!({}))).await;
    gateway.text(&report("d-19", "failed", &json!({}))).await;
    // The connection ends before the last two are matched, which makes no difference.
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

/// Two events may be the same deployment, performed at the same instant. The report may answer
/// either, so it confirms only the older one and what precedes both.
#[tokio::test]
async fn a_report_belongs_to_the_newest_event_that_it_matches() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let mut gateway = RawGateway::connect(&service, service.port, &key).await;
    let older = taken(&service, &mut gateway, &id, "d-1").await;
    let newer = taken(&service, &mut gateway, &id, "d-1").await;
    gateway.text(&report("d-1", "success", &json!({}))).await;
    let newer = format!("/events/{newer}");
    service.eventually(&newer, |event| outcomes(event) == ["applied"]).await;
    let shown = service.api().get(&format!("/events/{older}")).await.expect("the event");
    assert_eq!(outcomes(&shown), ["received"], "{shown:#}");
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;
}

/// Publishes an event of deployment `d-1`; returns its id.
async fn performed(service: &Service, id: &str, what: &str, performed_at: &str) -> String {
    let event = json!({
        "type": format!("api.{what}ed"),
        "payload": {"apiId": "a-1", "deploymentId": "d-1", "performedAt": performed_at},
        "gatewayIds": [id],
    });
    let accepted = service.api().post("/events", &event).await.expect("accepted");
    accepted["id"].as_str().expect("an id").to_owned()
}

/// The reasons for which an event's only delivery failed on a connection.
async fn failures(service: &Service, event: &str) -> Vec<Value> {
    let shown = service.api().get(&format!("/events/{event}")).await.expect("the event");
    let attempts = shown["deliveries"][0]["attempts"].as_array().cloned().unwrap_or_default();
    let failed = attempts.into_iter().filter(|one| one["connectionId"].is_string());
    failed.map(|one| one["reason"].clone()).filter(|reason| !reason.is_null()).collect()
}

#[tokio::test]
async fn each_of_several_reports_on_a_deployment_belongs_to_its_own_event() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let times = ["2026-01-31T09:30:00.001Z", "2026-01-31T09:31:00Z", "2026-01-31T09:32:00Z"];
    let mut events = Vec::new();
    for (what, performed_at) in ["deploy", "undeploy", "deploy"].into_iter().zip(times) {
        events.push(performed(&service, &id, what, performed_at).await);
    }
    let mut gateway = RawGateway::connect(&service, service.port, &key).await;
    for sequence in 1..=3 {
        assert_eq!(gateway.event().await["sequence"], sequence);
    }
    for (action, performed_at) in ["deploy", "undeploy", "deploy"].into_iter().zip(times) {
        let more = json!({"action": action, "performedAt": performed_at});
        gateway.text(&report("d-1", "failed", &more)).await;
    }
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 3).await;
    for event in &events {
        assert_eq!(failures(&service, event).await, ["apply_failed"], "{event}");
        let shown = service.api().get(&format!("/events/{event}")).await.expect("the event");
        assert_eq!(shown["deliveries"][0]["state"], "failed", "{shown:#}");
    }
    // A time that matches none of them: it refers to the newest one, which has failed already.
    let more = json!({"performedAt": "2026-01-31T09:40:00Z"});
    gateway.text(&report("d-1", "success", &more)).await;
    let newest = format!("/events/{}", events[2]);
    let shown = service.eventually(&newest, |event| outcomes(event).contains(&"applied")).await;
    assert_eq!(shown["deliveries"][0]["state"], "delivered", "{shown:#}");
}

#[tokio::test]
async fn a_report_confirms_its_event_and_earlier_ones_without_a_pong() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let batch: Vec<Value> =
        (1..=5).map(|number| deployed(&[&id], &format!("d-{number}"))).collect();
    service.api().post("/events", &json!(batch)).await.expect("accepted");
    let mut gateway = RawGateway::connect(&service, service.port, &key).await;
    let mut events = Vec::new();
    for _ in 1..=5 {
        events.push(gateway.event().await["eventId"].as_str().expect("an id").to_owned());
    }
    gateway.text(&report("d-2", "success", &json!({}))).await;
    gateway.text(&report("d-4", "failed", &json!({}))).await;
    // The connection ends before any ping is answered.
    gateway.send(true, CLOSE, &1000_u16.to_be_bytes()).await;
    while gateway.next().await.is_some() {}
    let connections = format!("/gateways/{id}/connections");
    service.eventually(&connections, |page| page["list"][0]["status"] == "closed").await;
    let shown = service.api().get(&format!("/gateways/{id}")).await.expect("the gateway");
    assert_eq!(shown["confirmed"], 4, "{shown:#}");
    let reasons: [&[&str]; 5] = [&[], &[], &[], &["apply_failed"], &["closed_by_gateway"]];
    for (event, reasons) in events.iter().zip(reasons) {
        assert_eq!(failures(&service, event).await, reasons, "{event}");
    }
    let mut gateway = RawGateway::connect(&service, service.port, &key).await;
    assert_eq!(gateway.event().await["sequence"], 5, "the others are not sent again");
}

#[tokio::test]
async fn a_repeated_report_is_logged_once() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let mut gateway = RawGateway::connect(&service, service.port, &key).await;
    let event = taken(&service, &mut gateway, &id, "d-1").await;
    for number in 0..500 {
        // Unchanged, and with another time, which makes it another message.
        let more = json!({"performedAt": format!("2026-01-31T09:30:01.{:03}Z", number / 2)});
        gateway.text(&report("d-1", "failed", &more)).await;
    }
    gateway.text(&report("d-1", "success", &json!({}))).await;
    let path = format!("/events/{event}");
    let shown = service.eventually(&path, |event| outcomes(event).contains(&"applied")).await;
    assert_eq!(outcomes(&shown).iter().filter(|one| **one == "failed").count(), 1, "{shown:#}");
    let lines = service.log().lines().filter(|line| line.contains("apply_failed")).count();
    assert_eq!(lines, 1);
    let counted = "gateway_events_delivery_failures_total{reason=\"apply_failed\"} 1";
    let metrics = service.metrics().await;
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
}

/// What a gateway reports about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reported {
    Applied,
    Failed,
    Unreported,
}

/// Reports that arrive late, twice, out of order, from several replicas, and after the service was
/// killed.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "the seed is shown when the test fails")]
async fn reports_in_any_order_leave_each_event_as_it_was_reported() {
    const EVENTS: usize = 12;
    let seed = fastrand::u64(..);
    println!("the seed is {seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut service = Service::start().await;
    let (id, key) = service.gateway("cluster").await;
    let mut replicas = Vec::new();
    for _ in 0..2 {
        replicas.push(RawGateway::connect(&service, service.port, &key).await);
    }
    let (mut events, mut reports) = (Vec::new(), Vec::new());
    for nth in 0..EVENTS {
        let action = if nth % 2 == 0 { "deploy" } else { "undeploy" };
        let performed_at = format!("2026-01-31T09:30:00.{nth:03}Z");
        events.push(performed(&service, &id, action, &performed_at).await);
        let fate = [Reported::Applied, Reported::Failed, Reported::Unreported][chance.usize(..3)];
        let status = if fate == Reported::Applied { "success" } else { "failed" };
        let more = json!({"action": action, "performedAt": performed_at});
        let text = report("d-1", status, &more);
        // Each replica may report it, repeatedly.
        let copies = if fate == Reported::Unreported { 0 } else { chance.usize(1..4) };
        reports.extend(std::iter::repeat_n((nth, fate, text), copies));
    }
    let mut fates = [Reported::Unreported; EVENTS];
    for (nth, fate, _) in &reports {
        fates[*nth] = *fate;
    }
    for replica in &mut replicas {
        for _ in 0..EVENTS {
            replica.event().await;
        }
    }
    chance.shuffle(&mut reports);
    let early = reports.len() / 2;
    for (_, _, text) in &reports[..early] {
        replicas[chance.usize(..2)].text(text).await;
    }
    let is_reported = |fate: Reported| {
        let outcome = if fate == Reported::Applied { "applied" } else { "failed" };
        move |event: &Value| outcomes(event).contains(&outcome)
    };
    for (nth, fate, _) in &reports[..early] {
        service.eventually(&format!("/events/{}", events[*nth]), is_reported(*fate)).await;
    }
    service.kill().await;
    service.restart().await;
    replicas.clear();
    for _ in 0..2 {
        replicas.push(RawGateway::connect(&service, service.port, &key).await);
    }
    // The rest, and repeats of some that arrived before.
    let again: Vec<_> = reports[..early].iter().filter(|_| chance.bool()).cloned().collect();
    reports.extend(again);
    for (_, _, text) in &reports[early..] {
        replicas[chance.usize(..2)].text(text).await;
    }
    let confirmed =
        fates.iter().rposition(|fate| *fate != Reported::Unreported).map_or(0, |it| it + 1);
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == confirmed).await;
    for (nth, fate) in fates.into_iter().enumerate() {
        let path = format!("/events/{}", events[nth]);
        if fate != Reported::Unreported {
            service.eventually(&path, is_reported(fate)).await;
        }
        let shown = service.api().get(&path).await.expect("the event");
        let state = &shown["deliveries"][0]["state"];
        let expected = match fate {
            Reported::Failed => "failed",
            _ if nth < confirmed => "delivered",
            _ => "pending",
        };
        assert_eq!(state, expected, "{fate:?}, seed {seed}: {shown:#}");
        let reported = failures(&service, &events[nth]).await;
        assert_eq!(
            reported.contains(&json!("apply_failed")),
            fate == Reported::Failed,
            "{shown:#}"
        );
    }
}

/// A report may name an event that only another replica's connection was sent.
#[tokio::test]
async fn a_report_does_not_move_its_connection_past_what_was_sent_on_it() {
    let service = Service::start_with(&[("DELIVERY__WINDOW_EVENTS", "4")]).await;
    let (id, key) = service.gateway("cluster").await;
    let fast = service.connected(&key).await.serve();
    let mut slow = RawGateway::connect(&service, service.port, &key).await;
    let path = format!("/gateways/{id}");
    service.eventually(&path, |shown| shown["connections"] == 2).await;
    let mut ninth = String::new();
    for number in 1..=12 {
        let event = deployed(&[&id], &format!("d-{number}"));
        let accepted = service.api().post("/events", &event).await.expect("accepted");
        if number == 9 {
            accepted["id"].as_str().expect("an id").clone_into(&mut ninth);
        }
    }
    service.eventually(&path, |shown| shown["confirmed"] == 12).await;
    slow.receipt_asked(4).await;
    slow.text(&report("d-9", "success", &json!({}))).await;
    let event = format!("/events/{ninth}");
    service.eventually(&event, |event| outcomes(event).contains(&"applied")).await;
    slow.send(true, CLOSE, &1000_u16.to_be_bytes()).await;
    while slow.next().await.is_some() {}
    service.eventually(&path, |shown| shown["connections"] == 1).await;
    let mut slow = RawGateway::connect(&service, service.port, &key).await;
    assert_eq!(slow.event().await["sequence"], 1, "it has confirmed nothing");
    fast.abort();
}
