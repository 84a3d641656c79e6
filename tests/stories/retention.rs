//! Retention: confirmed events are removed by the limits, unconfirmed ones only by the hard limits,
//! which is recorded.

use serde_json::{Value, json};

use crate::support::command::{command, run};
use crate::support::{Service, deployed};

/// Publishes events `first..=last` with the ids `e-N`.
async fn publish(service: &Service, gateways: &[&str], first: u32, last: u32) {
    for number in first..=last {
        let mut event = deployed(gateways, &format!("d-{number}"));
        event["id"] = json!(format!("e-{number}"));
        service.admin().post("/events", &event).await.success();
    }
}

/// Stops the service and runs `verify` on its database.
async fn is_sound(mut service: Service) {
    assert_eq!(service.terminate().await, Some(0), "{}", service.log());
    let verify = format!("verify {}", service.database().display());
    let said = run(&mut command(&verify)).await;
    assert!(said.well().contains("sound: no problem was found"), "{said:?}");
}

#[tokio::test]
async fn unconfirmed_events_are_only_removed_by_the_hard_limit_which_is_recorded() {
    let service = Service::start_with(&[
        ("RETENTION__MAX_EVENTS", "2"),
        ("RETENTION__HARD_MAX_EVENTS", "4"),
        ("RETENTION__INTERVAL", "1s"),
        ("SHUTDOWN__DRAIN", "100ms"),
    ])
    .await;
    let (here, key) = service.gateway("here").await;
    let (away, away_key) = service.gateway("away").await;
    let socket = service.connected(&key).await.serve();
    publish(&service, &[&here, &away], 1, 4).await;
    let stands = |confirmed: i64, floor: i64| {
        move |gateway: &Value| gateway["confirmed"] == confirmed && gateway["floor"] == floor
    };
    // Two confirmed events are kept, and all unconfirmed ones.
    service.eventually(&format!("/gateways/{here}"), stands(4, 2)).await;
    let waiting = service.admin().get(&format!("/gateways/{away}")).await.success();
    assert_eq!((&waiting["head"], &waiting["floor"]), (&json!(4), &json!(0)));
    publish(&service, &[&here, &away], 5, 6).await;
    let lost = format!("/deliveries?gatewayId={away}&reason=retention");
    let lost = service.eventually(&lost, |page| page["count"] == 2).await;
    let mut sequences: Vec<_> = lost["list"].as_array().expect("a list").iter().collect();
    sequences.sort_by_key(|row| row["sequence"].as_i64());
    for (row, sequence) in sequences.into_iter().zip([1, 2]) {
        assert_eq!((&row["sequence"], &row["state"]), (&json!(sequence), &json!("failed")));
        assert_eq!(row["deliveredSince"], false);
    }
    let stats = service.admin().get("/stats").await.success();
    assert_eq!(stats["eventDelivery"]["deadLetters"], 2, "{stats:#}");
    assert_eq!(stats["eventDelivery"]["lastFailureReason"], "retention");
    // The event is kept as long as a repeat of its id is recognised, and shows its deliveries.
    let shown = service.admin().get("/events/e-1").await.success();
    for delivery in shown["deliveries"].as_array().expect("a list") {
        let expected = if delivery["gatewayId"] == away.as_str() { "failed" } else { "delivered" };
        assert_eq!((&delivery["state"], &delivery["trimmed"]), (&json!(expected), &json!(true)));
    }
    let mut again = deployed(&[&here, &away], "d-1");
    again["id"] = json!("e-1");
    let repeat = service.admin().post("/events", &again).await.success();
    assert_eq!(repeat["deliveries"].as_array().map(Vec::len), Some(2), "{repeat:#}");
    let redrive = json!({"gatewayId": away, "sequence": 1, "dryRun": true});
    let would = service.admin().post("/deliveries/redrive", &redrive).await.success();
    assert_eq!(would["redriven"].as_array().map(Vec::len), Some(1), "{would:#}");
    // A gateway that reconnects receives what is left, in order.
    let mut late = service.connected(&away_key).await;
    late.expect(3..=6).await;
    let late = late.serve();
    service.eventually(&format!("/gateways/{away}"), stands(6, 4)).await;
    assert_eq!(service.admin().get("/stats").await.success()["eventDelivery"]["deadLetters"], 2);
    let ended = is_sound(service);
    let (_, _, ()) = tokio::join!(socket, late, ended);
}

#[tokio::test]
async fn confirmed_events_and_their_ledger_are_removed_by_age_and_unconfirmed_ones_stay() {
    let service = Service::start_with(&[
        ("RETENTION__MAX_AGE", "1s"),
        ("RETENTION__INTERVAL", "1s"),
        ("SHUTDOWN__DRAIN", "100ms"),
    ])
    .await;
    let (here, key) = service.gateway("here").await;
    let (away, away_key) = service.gateway("away").await;
    let socket = service.connected(&key).await.serve();
    publish(&service, &[&here], 1, 2).await;
    publish(&service, &[&away], 3, 3).await;
    service.eventually(&format!("/gateways/{here}"), |here| here["floor"] == 2).await;
    let gone = async { while service.admin().get("/events/e-1").await.status != 404 {} };
    tokio::time::timeout(crate::support::TEST_TIMEOUT, gone).await.expect("it goes");
    service.eventually("/deliveries", |page| page["count"] == 0).await;
    let kept = service.admin().get("/events/e-3").await.success();
    assert_eq!(kept["deliveries"][0]["state"], "pending");
    // Its id can be reused, because nothing of it is kept.
    publish(&service, &[&here], 1, 1).await;
    service.eventually(&format!("/gateways/{here}"), |here| here["confirmed"] == 3).await;
    let mut late = service.connected(&away_key).await;
    assert_eq!(late.expect(1..=1).await[0]["eventId"], "e-3");
    let late = late.serve();
    let ended = is_sound(service);
    let (_, _, ()) = tokio::join!(socket, late, ended);
}
