//! Organisations are isolated from each other. The first one is created by the schema; a second one
//! is a row that operators insert.

use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::support::http::Caller;
use crate::support::{Service, deployed};

/// An admin of another organisation.
async fn other_organisation(service: &Service) -> Caller {
    let other_organisation = service.scoped(&["publish", "read", "admin"]).await;
    let mut database = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(service.database())
        .connect()
        .await
        .expect("the database");
    let organisation = "insert into organisations (name, created_at) values ('other', 0)";
    sqlx::query(organisation).execute(&mut database).await.expect("an organisation");
    let moved = "update access_tokens set organisation = last_insert_rowid() where name = 'scoped'";
    let moved = sqlx::query(moved).execute(&mut database).await.expect("moved");
    assert_eq!(moved.rows_affected(), 1);
    database.close().await.expect("closed");
    other_organisation
}

#[tokio::test]
async fn another_organisation_sees_nothing_and_changes_nothing() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let ours = service.admin();
    let socket = service.connected(&key).await.serve();
    let (away, _) = service.gateway("away").await;
    let mut event = deployed(&[&id, &away], "d-1");
    event["id"] = json!("ours-1");
    ours.post("/events", &event).await.success();
    service.eventually("/deliveries", |page| page["count"] == 1).await;
    ours.put("/event-types/our.own", &json!({"description": "Ours"})).await.success();
    let tokens = ours.get(&format!("/gateways/{id}/tokens")).await.success();
    let key_id = tokens["list"][0]["id"].as_str().expect("an id").to_owned();
    let first = ours.get("/access-tokens").await.success()["list"][0]["id"].clone();
    let theirs = other_organisation(&service).await;

    for list in [
        "/gateways",
        "/connections",
        "/connections?status=all",
        "/deliveries",
        "/deliveries/summary",
        "/events",
        "/events?idPrefix=ours",
        "/events?artifactId=a-1",
        "/audit",
    ] {
        assert_eq!(theirs.get(list).await.success()["count"], 0, "{list}");
        let mine = ours.get(list).await.success();
        assert!(mine["count"].as_i64() > Some(0), "{list}: {mine:#}");
    }
    for filter in ["eventId=ours-1", "type=api.deployed", "reason=not_connected"] {
        assert_eq!(theirs.get(&format!("/deliveries?{filter}")).await.success()["count"], 0);
    }
    let stats = theirs.get("/stats").await.success();
    assert_eq!(stats["gatewayConnections"], json!({"totalActive": 0, "connections": []}));
    let delivery = &stats["eventDelivery"];
    for total in ["totalEventsSent", "failedDeliveries", "deadLetters", "pending"] {
        assert_eq!(delivery[total], 0, "{total}");
    }
    assert_eq!(delivery["lastFailureTime"], Value::Null);
    assert!(!theirs.get("/event-types").await.body.contains("our.own"));
    let own_tokens = theirs.get("/access-tokens").await.success();
    assert_eq!(own_tokens["count"], 1, "{own_tokens:#}");

    for path in [
        format!("/gateways/{id}"),
        format!("/gateways/{id}/tokens"),
        format!("/gateways/{id}/connections"),
        format!("/gateways/{id}/log?wait=10s"),
        format!("/gateways/{id}/diagnosis"),
        format!("/deliveries?gatewayId={away}"),
        format!("/events?gatewayId={away}"),
        "/events/ours-1".to_owned(),
        "/events/ours-1/diagnosis".to_owned(),
        "/rollouts?eventId=ours-1".to_owned(),
        "/event-types/our.own".to_owned(),
    ] {
        theirs.get(&path).await.refusal(404, "not_found");
        ours.get(&path).await.success();
    }
    theirs
        .patch(&format!("/gateways/{id}"), &json!({"disabled": true}))
        .await
        .refusal(404, "not_found");
    theirs.post(&format!("/gateways/{id}/tokens"), &json!({})).await.refusal(404, "not_found");
    for path in [
        format!("/gateways/{id}"),
        format!("/gateways/{id}/tokens/{key_id}"),
        format!("/access-tokens/{}", first.as_str().expect("an id")),
        "/event-types/our.own".to_owned(),
    ] {
        theirs.delete(&path).await.refusal(404, "not_found");
    }
    assert!(!socket.is_finished(), "the first organisation's gateway lost its socket");
    assert_eq!(ours.get(&format!("/gateways/{id}")).await.success()["disabled"], false);
    socket.abort();
}

#[tokio::test]
async fn another_organisation_publishes_and_redrives_its_own_only() {
    let service = Service::start_with(&[
        ("RETENTION__MAX_EVENTS", "1"),
        ("RETENTION__HARD_MAX_EVENTS", "1"),
        ("RETENTION__INTERVAL", "1s"),
    ])
    .await;
    let (id, _) = service.gateway("one").await;
    let ours = service.admin();
    let mut event = deployed(&[&id], "d-1");
    event["id"] = json!("shared-id");
    ours.post("/events", &event).await.success();
    let theirs = other_organisation(&service).await;
    let unknown = theirs.post("/events", &deployed(&[&id], "d-2")).await;
    assert_eq!(unknown.refusal(404, "unknown_gateways")["gatewayIds"], json!([id]));
    for target in [json!({"all": true}), json!({"labels": {"name": "one"}})] {
        let mut to_all = deployed(&[], "d-3");
        to_all["gatewayIds"].take();
        to_all["target"] = target;
        let accepted = theirs.post("/events", &to_all).await.success();
        assert_eq!(accepted["deliveries"], json!([]));
        assert_eq!(accepted["warnings"][0]["code"], "no_gateways_matched");
    }
    // Ids, keys and names are scoped by organisation.
    let own = theirs.post("/gateways", &json!({"name": "one"})).await.success();
    let own = own["id"].as_str().expect("an id").to_owned();
    let mut same_id = deployed(&[&own], "d-9");
    same_id["id"] = json!("shared-id");
    let accepted = theirs.publish_once("shared-key", &same_id).await.success();
    assert_eq!(accepted["deliveries"], json!([{"gatewayId": own, "sequence": 1}]));
    let again = ours.publish_once("shared-key", &deployed(&[&id], "d-4")).await.success();
    assert_eq!(again["deliveries"][0]["sequence"], 2);
    // A gateway's id is unique everywhere; the error does not say who has it.
    let taken = theirs.post("/gateways", &json!({"name": "two", "id": id})).await;
    taken.refusal(409, "conflict");

    // The first event is lost to the hard limit, which makes it a dead letter of the first
    // organisation.
    service.eventually("/stats", |stats| stats["eventDelivery"]["deadLetters"] == 1).await;
    let one = theirs.post("/deliveries/redrive", &json!({"gatewayId": id, "sequence": 1})).await;
    one.refusal(404, "not_found");
    let filter = json!({"filter": {"gatewayId": id}});
    theirs.post("/deliveries/redrive", &filter).await.refusal(404, "not_found");
    let all = theirs
        .post("/deliveries/redrive", &json!({"filter": {"reason": "retention"}}))
        .await
        .success();
    assert_eq!((&all["redriven"], &all["eventRemoved"]), (&json!([]), &json!(0)), "{all:#}");
    let many = ours.post("/deliveries/redrive", &filter).await.success();
    assert_eq!(many["redriven"].as_array().map(Vec::len), Some(1), "{many:#}");
}
