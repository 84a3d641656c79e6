//! The built-in event types: which payloads they accept, and which they refuse because a gateway
//! could not parse them.

use serde_json::{Value, json};

use crate::both_databases::{Backend, on_both};
use crate::conformance::{InboxProgram as _, Row};
use crate::inbox_program::{Program, deployed as row};
use crate::support::{Service, deployed};

const AT: &str = "2026-01-31T09:30:00.001Z";

/// Each type with the payload that the platform sends, and its ids.
fn types() -> Vec<(String, Value, Vec<&'static str>)> {
    let mut types = Vec::new();
    for (artifacts, id) in [
        (&["api", "websub", "webbroker"][..], "apiId"),
        (&["llmprovider"], "providerId"),
        (&["llmproxy", "mcpproxy"], "proxyId"),
    ] {
        for artifact in artifacts {
            for verb in ["deployed", "undeployed"] {
                let payload = json!({id: "a-1", "deploymentId": "d-1", "performedAt": AT,
                    "revisionId": "r-1", "vhost": "v", "environment": "prod"});
                types.push((format!("{artifact}.{verb}"), payload, vec![id, "deploymentId"]));
            }
            types.push((format!("{artifact}.deleted"), json!({id: "a-1"}), vec![id]));
        }
    }
    let mut add = |name: &str, payload: Value, ids: &[&'static str]| {
        types.push((name.to_owned(), payload, ids.to_vec()));
    };
    let hashes = "{\"sha256\": \"ab\"}";
    for verb in ["created", "updated", "deleted"] {
        let secret = json!({"artifactUuid": "a-1", "secretName": "s"});
        add(&format!("websub.hmacsecret.{verb}"), secret, &["artifactUuid", "secretName"]);
        let plan =
            json!({"planId": "p-1", "handle": "gold", "planName": "Gold", "status": "ACTIVE"});
        add(&format!("subscriptionPlan.{verb}"), plan, &["planId", "handle"]);
        let mut subscription = json!({"apiId": "a-1", "subscriptionId": "s-1",
            "subscriptionToken": "t", "applicationId": ""});
        if verb != "deleted" {
            subscription["status"] = json!("ACTIVE");
            subscription["subscriptionPlanId"] = Value::Null;
        }
        add(&format!("subscription.{verb}"), subscription, &["apiId", "subscriptionId"]);
    }
    let key = json!({"uuid": "u-1", "apiId": "a-1", "apiKeyHashes": hashes, "maskedApiKey": "***",
        "name": "k", "externalRefId": null, "expiresAt": null});
    add("apikey.created", key, &["uuid", "apiId"]);
    let key = json!({"apiId": "a-1", "keyName": "k", "apiKeyHashes": hashes, "expiresAt": AT});
    add("apikey.updated", key, &["apiId", "keyName"]);
    add("apikey.revoked", json!({"apiId": "a-1", "keyName": "k"}), &["apiId", "keyName"]);
    let application = json!({"applicationId": "a-1", "applicationUuid": "u-1",
        "applicationName": "n", "applicationType": "", "mappings": [{"apiKeyUuid": "u-2"}]});
    add("application.updated", application, &["applicationId", "applicationUuid"]);
    let config = json!({"configType": "cors", "action": "update"});
    add("gateway.config.updated", config, &[]);
    let secret = json!({"handle": "h", "name": "n", "hash": "ab", "revision": 3});
    add("secret.updated", secret, &["handle"]);
    add("secret.deleted", json!({"handle": "h", "revision": 4}), &["handle"]);
    types
}

/// Optional members.
const OPTIONAL: [&str; 11] = [
    "revisionId",
    "vhost",
    "environment",
    "applicationId",
    "subscriptionPlanId",
    "name",
    "externalRefId",
    "expiresAt",
    "status",
    "apiKeyHashes",
    "maskedApiKey",
];

/// Invalid variants of a valid payload, with the field that the error must name.
fn invalid_variants(event_type: &str, payload: &Value, ids: &[&str]) -> Vec<(String, Value)> {
    let mut invalid_variants = Vec::new();
    let members = payload.as_object().expect("an object");
    let is_free = |name: &str| match (event_type, name) {
        ("application.updated", "applicationId")
        | ("secret.updated", "name")
        | ("subscription.created" | "subscription.updated", "status")
        | ("apikey.created", "apiKeyHashes" | "maskedApiKey") => false,
        _ => OPTIONAL.contains(&name),
    };
    let mut with = |name: &str, value: Value| {
        let mut payload = payload.clone();
        payload[name] = value;
        invalid_variants.push((format!("payload/{name}"), payload));
    };
    for id in ids {
        with(id, json!(""));
        with(id, json!(7));
        with(id, Value::Null);
    }
    if members.contains_key("performedAt") {
        for time in [
            json!("2026-01-31t09:30:00Z"),
            json!("2026-01-31T09:30:60Z"),
            json!("2026-01-31T24:00:00Z"),
            json!("2026-01-31T09:30:00+0100"),
            json!("2026-02-30T09:30:00Z"),
            json!(1_767_225_600),
        ] {
            with("performedAt", time);
        }
    }
    if members.contains_key("apiKeyHashes") {
        for hashes in [json!({"sha256": "ab"}), json!("ab"), json!("[1]"), json!("")] {
            with("apiKeyHashes", hashes);
        }
        with("expiresAt", json!("tomorrow"));
    }
    if members.contains_key("mappings") {
        with("mappings", json!({}));
    }
    if members.contains_key("revision") {
        with("revision", json!([3]));
    }
    for name in members.keys().filter(|name| !is_free(name)) {
        let mut payload = payload.clone();
        payload.as_object_mut().expect("an object").remove(name);
        invalid_variants.push(("payload".to_owned(), payload));
    }
    invalid_variants
}

#[tokio::test]
async fn each_type_accepts_the_platforms_payloads_and_refuses_what_gateways_can_not_parse() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("one").await;
    let listed = admin.get("/event-types").await.success();
    let listed: Vec<&str> = listed["list"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|it| it["name"].as_str())
        .collect();
    let types = types();
    let mut names: Vec<&str> = types.iter().map(|(name, ..)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(listed, names, "the table below is not of all types");
    let event =
        |name: &str, payload: &Value| json!({"type": name, "gatewayIds": [id], "payload": payload});
    for (name, payload, ids) in &types {
        let answer = admin.post("/events", &event(name, payload)).await;
        assert_eq!(answer.status, 202, "{name}: {answer:?}");
        let invalid_variants = invalid_variants(name, payload, ids);
        let batch: Vec<Value> =
            invalid_variants.iter().map(|(_, payload)| event(name, payload)).collect();
        let answer = admin.post("/events", &json!(batch)).await;
        assert_eq!(answer.status, 207, "{name}: {answer:?}");
        for ((field, payload), result) in
            invalid_variants.iter().zip(answer.json()["results"].as_array().expect("results"))
        {
            assert_eq!(result["code"], "invalid", "{name} {payload}: {result}");
            assert_eq!(result["errors"][0]["field"], *field, "{name} {payload}: {result}");
        }
    }
    let mut none = types
        .iter()
        .find(|(name, ..)| name == "application.updated")
        .expect("it is there")
        .1
        .clone();
    none["mappings"] = Value::Null;
    admin.post("/events", &event("application.updated", &none)).await.success();
}

#[tokio::test]
async fn inbox_rows_are_validated_like_published_events() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    let program = Program::start(&service.database()).await;
    let (mut rows, mut fields) = (Vec::new(), Vec::new());
    for (name, payload, ids) in types() {
        let inserted = |payload: &Value| Row {
            event_type: name.clone(),
            payload: payload.to_string(),
            ..row(&id, "d")
        };
        rows.push(inserted(&payload));
        if let Some((field, payload)) = invalid_variants(&name, &payload, &ids).first() {
            rows.push(inserted(payload));
            fields.push(field.clone());
        }
    }
    program.insert(&rows).await;
    let good = rows.len() - fields.len();
    socket.expect(1..=i64::try_from(good).expect("few")).await;
    let page =
        service.eventually("/inbox/rejected?limit=100", |page| page["count"] == fields.len()).await;
    let mut rejected = page["list"].as_array().expect("a list").clone();
    rejected.reverse();
    for (row, field) in rejected.iter().zip(&fields) {
        assert_eq!(row["reason"], "invalid", "{row:#}");
        assert!(row["detail"].as_str().expect("a text").starts_with(field), "{field}: {row:#}");
    }
}

/// What is registered under the name of a built-in type adds to its check, and removes
/// nothing of it.
async fn a_built_in_type_keeps_its_check_whatever_is_registered(backend: Backend) {
    let mut service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    let event =
        |payload: Value| json!({"type": "api.deleted", "gatewayIds": [id], "payload": payload});
    let accepts = async |service: &Service, payload: &Value| {
        let answer = service.admin().post("/events", &event(payload.clone())).await;
        if answer.status == 202 {
            return true;
        }
        answer.refusal(422, "invalid");
        false
    };
    let path = "/event-types/api.deleted";
    let before = service.admin().get(path).await.success();
    assert_eq!(before["schema"]["required"], json!(["apiId"]), "{before:#}");
    assert_eq!(before.get("builtInSchema"), None, "{before:#}");
    let (good, empty) = (json!({"apiId": "a-1"}), json!({}));
    // Without a schema, as an earlier version stored it, the built-in one is shown and applies.
    let put = service.admin().put(path, &json!({"description": "d"})).await;
    assert_eq!(put.status, 200, "{put:?}");
    for _ in 0..2 {
        let shown = service.admin().get(path).await.success();
        assert_eq!((&shown["description"], &shown["schema"]), (&json!("d"), &before["schema"]));
        assert_eq!(shown.get("builtInSchema"), None, "{shown:#}");
        assert!(accepts(&service, &good).await && !accepts(&service, &empty).await);
        service.kill().await;
        service.restart().await;
    }
    // With one, both apply and both are shown.
    let own = json!({"required": ["vhost"]});
    let put = service.admin().put(path, &json!({"schema": own})).await.success();
    let listed = service.admin().get("/event-types").await.success();
    let listed = listed["list"].as_array().expect("a list").clone();
    let listed = listed.into_iter().find(|one| one["name"] == "api.deleted");
    for shown in [put, service.admin().get(path).await.success(), listed.expect("it is listed")] {
        assert_eq!((&shown["schema"], &shown["builtInSchema"]), (&own, &before["schema"]));
    }
    let both = json!({"apiId": "a-1", "vhost": "v"});
    for (payload, is_good) in [(&good, false), (&json!({"vhost": "v"}), false), (&both, true)] {
        assert_eq!(accepts(&service, payload).await, is_good, "{payload}");
    }
    // What is shown can be registered again: it changes nothing.
    let put = service.admin().put(path, &json!({"schema": before["schema"]})).await.success();
    assert_eq!(put["schema"], before["schema"]);
    assert!(accepts(&service, &good).await && !accepts(&service, &empty).await);
    // A type of one's own without a schema takes any object.
    service.admin().put("/event-types/our.own", &json!({})).await.success();
    let shown = service.admin().get("/event-types/our.own").await.success();
    assert_eq!((&shown["schema"], shown.get("builtInSchema")), (&Value::Null, None));
}

on_both! { a_built_in_type_keeps_its_check_whatever_is_registered }

/// Events as the platform publishes them: with one gateway and a timestamp.
#[tokio::test]
async fn the_platforms_own_envelope_is_accepted() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    let envelope = json!({
        "type": "api.deleted", "payload": {"apiId": "a-1"}, "gatewayId": id,
        "timestamp": "2026-01-31T09:30:00.123456+01:00", "correlationId": "c-1", "userId": "u",
    });
    let answer = admin.post("/events", &envelope).await.success();
    let frame = socket.next().await.expect("the event");
    assert_eq!(frame["timestamp"], "2026-01-31T08:30:00.123456Z");
    assert_eq!((&frame["correlationId"], &frame["userId"]), (&json!("c-1"), &json!("u")));
    let event =
        admin.get(&format!("/events/{}", answer["id"].as_str().expect("an id"))).await.success();
    assert_eq!(event["occurredAt"], frame["timestamp"]);
    assert_ne!(event["appendedAt"], event["occurredAt"]);
    for (timestamp, says) in [
        (json!("2026-01-31"), "RFC 3339"),
        (json!("2999-01-01T00:00:00Z"), "future"),
        (json!("0001-01-01T00:00:00Z"), "past"),
        (json!(1_767_225_600), "string"),
    ] {
        let mut envelope = envelope.clone();
        envelope["timestamp"] = timestamp;
        admin.post("/events", &envelope).await.invalid("timestamp", &[says]);
    }
    let mut both = envelope.clone();
    both["gatewayIds"] = json!([id]);
    admin.post("/events", &both).await.invalid("gatewayId", &["not both"]);
    // A repeat may have another timestamp; it is the same event.
    let mut named = deployed(&[&id], "d-1");
    named["id"] = json!("mine");
    let first = admin.post("/events", &named).await.success();
    named["timestamp"] = json!("2026-01-31T09:30:00Z");
    assert_eq!(admin.post("/events", &named).await.success(), first);
}
