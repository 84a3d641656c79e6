//! Gateways that are not connected: for a moment, until an event expires, or permanently.

use std::time::Duration;

use gateway_events::clock::Timestamp;
use serde_json::{Value, json};

use crate::both_databases::{Backend, on_both};
use crate::support::{Service, TEST_TIMEOUT, deployed, get, pause};

on_both! {
    an_event_expires_on_time_while_its_gateway_is_not_connected
    events_expire_after_their_types_time_to_live
    a_gateway_that_reconnects_within_the_grace_period_has_no_failures
    a_deleted_gateways_undelivered_events_are_failed_and_stay_visible
}

/// Publishes an event with this id and these additional members.
async fn publish(service: &Service, gateways: &[&str], id: &str, more: Value) {
    let mut event = deployed(gateways, id);
    event["id"] = json!(id);
    for (name, value) in more.as_object().expect("members") {
        event[name] = value.clone();
    }
    service.api().post("/events", &event).await.expect("accepted");
}

/// The number of failed deliveries to a gateway with this reason.
async fn failures(service: &Service, gateway: &str, reason: &str) -> usize {
    let path = format!("/deliveries?gatewayId={gateway}&reason={reason}");
    let page = get(&service.api(), &path).await.expect("a page");
    page["list"].as_array().expect("a list").len()
}

async fn an_event_expires_on_time_while_its_gateway_is_not_connected(backend: Backend) {
    let service = backend.start().await;
    let ((away, away_key), (there, key)) =
        (service.gateway("away").await, service.gateway("there").await);
    let mut socket = service.connected(&key).await;
    publish(&service, &[&away, &there], "short", json!({"ttlSeconds": 2})).await;
    publish(&service, &[&away, &there], "long", json!({"ttlSeconds": 3600})).await;
    socket.expect(1..=2).await;
    let socket = socket.serve();
    service.eventually(&format!("/gateways/{there}"), |shown| shown["confirmed"] == 2).await;
    // It disconnects before the event expires, having confirmed it.
    socket.abort();
    let path = format!("/deliveries?gatewayId={away}&reason=expired");
    let page = service.eventually(&path, |page| page["count"] == 1).await;
    let row = &page["list"][0];
    assert_eq!((&row["eventId"], &row["state"]), (&json!("short"), &json!("failed")), "{page:#}");
    let event = service.api().get("/events/short").await.expect("the event");
    let at = |value: &Value| Timestamp::parse(value.as_str().expect("a time")).expect("RFC 3339");
    let late = at(&row["lastFailureAt"]).since(at(&event["expiresAt"]));
    assert!(late < TEST_TIMEOUT, "expired {late:?} late");
    assert!(at(&row["lastFailureAt"]) >= at(&event["expiresAt"]), "{row:#}");
    assert_eq!(failures(&service, &there, "expired").await, 0, "it was confirmed");
    // It does not expire again when its gateway reconnects.
    let mut socket = service.connected(&away_key).await;
    socket.expect(2..=2).await;
    let _socket = socket.serve();
    service.eventually(&format!("/gateways/{away}"), |shown| shown["confirmed"] == 2).await;
    let event = service.api().get("/events/short").await.expect("the event");
    let of_away = |delivery: &&Value| delivery["gatewayId"] == *away;
    let delivery = event["deliveries"].as_array().expect("them").iter().find(of_away);
    let attempts = delivery.expect("its delivery")["attempts"].as_array().expect("attempts");
    let expired = attempts.iter().filter(|attempt| attempt["reason"] == "expired").count();
    assert_eq!(expired, 1, "{event:#}");
}

async fn events_expire_after_their_types_time_to_live(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("away").await;
    let admin = service.admin();
    let path = "/event-types/cache.flushed";
    for ttl in [json!(0), json!(-1), json!(1.5), json!("2s"), json!(316_224_001)] {
        admin.put(path, &json!({"ttlSeconds": ttl})).await.refusal(422, "invalid");
    }
    let info = admin.put(path, &json!({"ttlSeconds": 2})).await.success();
    assert_eq!(info["ttlSeconds"], 2, "{info:#}");
    let flushed = |name: &str| json!({"type": "cache.flushed", "id": name, "gatewayIds": [id], "payload": {}});
    admin.post("/events", &flushed("by-default")).await.success();
    let mut longer = flushed("longer");
    longer["ttlSeconds"] = json!(3600);
    admin.post("/events", &longer).await.success();
    // An event that is inserted has its type's time to live, too.
    backend
        .change(
            &service,
            &format!(
                "insert into inbox (event_id, type, gateway_id, payload)
             values ('inserted', 'cache.flushed', '{id}', '{{}}')"
            ),
        )
        .await;
    service.eventually("/deliveries?reason=expired", |page| page["count"] == 2).await;
    // Without a time to live, later events do not expire, and the earlier ones keep their expiry.
    admin.put(path, &json!({})).await.success();
    let info = admin.get(path).await.success();
    assert_eq!(info.get("ttlSeconds"), None, "{info:#}");
    admin.post("/events", &flushed("kept")).await.success();
    let kept = admin.get("/events/kept").await.success();
    assert_eq!(kept["expiresAt"], Value::Null, "{kept:#}");
    let mut socket = service.connected(&key).await;
    for name in ["longer", "kept"] {
        let text = socket.next_text().await.expect("an event");
        assert!(text.contains(&format!("\"eventId\":\"{name}\"")), "{text}");
    }
    let changes = admin.get("/audit?action=event_type.changed").await.success();
    let change = &changes["list"][0];
    assert_eq!(change["before"]["ttlSeconds"], 2, "{changes:#}");
    assert_eq!(change["after"].get("ttlSeconds"), None, "{changes:#}");
}

async fn a_gateway_that_reconnects_within_the_grace_period_has_no_failures(backend: Backend) {
    let grace = [("DELIVERY__NOT_CONNECTED_GRACE", "4s")];
    let mut service = backend.start_with(&grace).await;
    let ((back, key), (gone, gone_key)) =
        (service.gateway("back").await, service.gateway("gone").await);
    let mut last = 0;
    for restarts in [false, true] {
        let sockets = (service.connected(&key).await, service.connected(&gone_key).await);
        if restarts {
            let ending = tokio::spawn(async move {
                let (mut one, mut other) = sockets;
                tokio::join!(one.until_closed(), other.until_closed());
            });
            assert_eq!(service.terminate().await, Some(0));
            ending.await.expect("no panic");
            service.restart().await;
        } else {
            drop(sockets);
            service.eventually("/connections", |live| live["count"] == 0).await;
        }
        publish(&service, &[&back, &gone], &format!("restarts-{restarts}"), json!({})).await;
        // Longer than a sweep without a grace period takes.
        pause(Duration::from_secs(1)).await;
        last += 1;
        let mut socket = service.connected(&key).await;
        socket.expect(last..=last).await;
        let socket = socket.serve();
        let missed = format!("/deliveries?gatewayId={gone}&reason=not_connected");
        service.eventually(&missed, |page| page["count"] == last).await;
        assert_eq!(failures(&service, &back, "not_connected").await, 0);
        socket.abort();
    }
}

async fn a_deleted_gateways_undelivered_events_are_failed_and_stay_visible(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("doomed").await;
    let mut socket = service.connected(&key).await;
    publish(&service, &[&id], "received", json!({})).await;
    socket.expect(1..=1).await;
    let socket = socket.serve();
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 1).await;
    socket.abort();
    service.eventually("/connections", |live| live["count"] == 0).await;
    for event in ["missed-1", "missed-2"] {
        publish(&service, &[&id], event, json!({})).await;
    }
    let refused = service.run(&format!("gateway delete {id}")).await;
    refused.failed(1, &["doomed", "2 undelivered events will be recorded as failed", "--yes"]);
    service.api().get(&format!("/gateways/{id}")).await.expect("it is still there");
    service.run(&format!("gateway delete {id} --yes")).await.well();

    let failed = format!("/deliveries?gatewayId={id}&reason=gateway_deleted");
    let page = get(&service.api(), &failed).await.expect("a page");
    let rows = page["list"].as_array().expect("a list");
    let shown: Vec<_> = rows.iter().map(|row| (&row["eventId"], &row["gatewayName"])).collect();
    let name = json!("doomed");
    assert_eq!(shown, [(&json!("missed-2"), &name), (&json!("missed-1"), &name)], "{page:#}");
    for (event, state) in
        [("received", "delivered"), ("missed-1", "failed"), ("missed-2", "failed")]
    {
        let history = service.api().get(&format!("/events/{event}")).await.expect("the event");
        let delivery = &history["deliveries"][0];
        assert_eq!((&delivery["state"], &delivery["gatewayName"]), (&json!(state), &name));
    }
    let report = backend.verify(&service).await;
    assert_eq!(report.problems, Vec::<String>::new());
}
