//! Redrives: a dead letter is appended again, once.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Service, deployed, failed_report};

#[tokio::test]
async fn only_dead_letters_are_redriven_and_only_once() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    let batch = json!([deployed(&[&id], "d-1"), deployed(&[&id], "d-2"), deployed(&[&id], "d-3")]);
    admin.post("/events", &batch).await.success();
    socket.expect(1..=3).await;
    for deployment in ["d-1", "d-2"] {
        socket.send(Message::text(failed_report(deployment))).await;
    }
    let socket = socket.serve();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 3).await;
    service.eventually("/deliveries", |page| page["count"] == 2).await;
    let redrive = async |body: Value| admin.post("/deliveries/redrive", &body).await;
    let one = |sequence: i64| json!({"gatewayId": id, "sequence": sequence});
    let filter = json!({"filter": {"gatewayId": id, "reason": "gateway_processing_error"}});

    let mut dry = filter.clone();
    dry["dryRun"] = json!(true);
    for _ in 0..2 {
        let would = redrive(dry.clone()).await.success();
        assert_eq!(would["redriven"].as_array().map(Vec::len), Some(2), "{would:#}");
        assert_eq!(would["redriven"][0]["newSequence"], Value::Null);
    }
    assert_eq!(admin.get(&format!("/gateways/{id}")).await.success()["head"], 3);

    let delivered = redrive(one(3)).await.success();
    assert_eq!((&delivered["redriven"], &delivered["delivered"]), (&json!([]), &json!(1)));
    let first = redrive(one(1)).await.success();
    assert_eq!(first["redriven"][0]["newSequence"], 4, "{first:#}");
    assert_eq!(redrive(one(1)).await.success()["alreadyRedriven"], 1);
    let rest = redrive(filter.clone()).await.success();
    assert_eq!(rest["redriven"].as_array().map(Vec::len), Some(1), "{rest:#}");
    assert_eq!(rest["redriven"][0]["sequence"], 2);
    assert_eq!(rest["alreadyRedriven"], 1);
    let nothing = redrive(filter).await.success();
    assert_eq!((&nothing["redriven"], &nothing["alreadyRedriven"]), (&json!([]), &json!(2)));

    redrive(one(99)).await.refusal(404, "not_found");
    redrive(json!({"gatewayId": gateway_events::event::GatewayId::new(), "sequence": 1}))
        .await
        .refusal(404, "not_found");
    for (body, field, says) in [
        (json!({}), "body", "gatewayId and sequence"),
        (json!({"gatewayId": id}), "body", "gatewayId and sequence"),
        (json!({"gatewayId": id, "sequence": 1, "filter": {}}), "body", "gatewayId and sequence"),
        (one(0), "sequence", "1 to 9007199254740991"),
        (json!({"filter": {}}), "filter", "at least one condition"),
        (json!({"filter": {}, "dryRun": true}), "filter", "at least one condition"),
        (json!({"filter": {"reason": "bored"}}), "body", "not_connected"),
        (json!({"filter": {"limit": 1}}), "limit", "gatewayId"),
        (json!({"filter": {}, "dryrun": true}), "dryrun", "dryRun"),
    ] {
        redrive(body).await.invalid(field, &[says]);
    }
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 5).await;
    let failed = admin.get("/deliveries").await.success();
    for row in failed["list"].as_array().expect("a list") {
        assert_eq!((&row["redriven"], &row["state"]), (&json!(true), &json!("failed")), "{row:#}");
        let new = row["sequence"].as_i64().expect("a sequence") + 3;
        assert_eq!(row["redrivenAs"], json!({"sequence": new, "state": "delivered"}), "{row:#}");
        assert_eq!((&row["deliveredSince"], &row["attemptCount"]), (&json!(true), &json!(2)));
    }
    let shown = service.run("delivery failed").await;
    assert!(shown.well().contains("redriven as 4: delivered"), "{shown:?}");
    socket.abort();
}
