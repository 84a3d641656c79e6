//! Publishing: valid events, their targets, and the errors of invalid ones.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::reply;
use crate::support::{Service, deployed};

const UNKNOWN: &str = "00000000-0000-0000-0000-000000000000";

/// The gateways in a response.
fn reached(answer: &Value) -> BTreeSet<&str> {
    let list = answer["deliveries"].as_array().expect("deliveries");
    list.iter().filter_map(|delivery| delivery["gatewayId"].as_str()).collect()
}

#[tokio::test]
async fn an_event_targets_named_or_labelled_gateways_or_all() {
    let service = Service::start().await;
    let admin = service.admin();
    let mut ids = Vec::new();
    for (name, labels) in [
        ("a", json!({"region": "eu", "tier": "gold"})),
        ("b", json!({"region": "eu"})),
        ("c", json!({"region": "us"})),
    ] {
        let gateway = admin.post("/gateways", &json!({"name": name, "labels": labels})).await;
        ids.push(gateway.success()["id"].as_str().expect("an id").to_owned());
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let to = |target: Value| {
        let mut event = deployed(&[], "d-1");
        event.as_object_mut().expect("an object").remove("gatewayIds");
        event["target"] = target;
        event
    };
    for (event, expected) in [
        (deployed(&[ids[2], ids[0], ids[2]], "d-1"), vec![ids[0], ids[2]]),
        (to(json!({"all": true})), ids.clone()),
        (to(json!({"labels": {"region": "eu"}})), vec![ids[0], ids[1]]),
        (to(json!({"labels": {"region": "eu", "tier": "gold"}})), vec![ids[0]]),
        (to(json!({"labels": {"region": "asia"}})), vec![]),
    ] {
        let answer = admin.post("/events", &event).await;
        assert_eq!(answer.status, 202);
        let answer = answer.json();
        assert_eq!(reached(&answer), expected.into_iter().collect(), "{answer:#}");
    }
    for target in [
        json!({}),
        json!({"all": false}),
        json!({"labels": {}}),
        json!({"all": true, "labels": {"region": "eu"}}),
        Value::Null,
    ] {
        admin.post("/events", &to(target)).await.invalid("target", &["exactly one of"]);
    }
    let mut both = to(json!({"all": true}));
    both["gatewayIds"] = json!([ids[0]]);
    admin.post("/events", &both).await.invalid("target", &["exactly one of"]);
    admin.post("/events", &deployed(&[], "d-1")).await.invalid("target", &["not empty"]);
    let misspelt = admin.post("/events", &to(json!({"everybody": true}))).await;
    misspelt.invalid("target/everybody", &["everybody", "labels"]);
    let deleted = admin.delete(&format!("/gateways/{}", ids[1])).await;
    assert_eq!(deleted.status, 204);
    let answer = admin.post("/events", &to(json!({"all": true}))).await.success();
    assert_eq!(reached(&answer), [ids[0], ids[2]].into_iter().collect());
    admin.post("/events", &deployed(&[ids[1]], "d-1")).await.refusal(404, "unknown_gateways");
}

#[tokio::test]
async fn a_batch_is_validated_event_by_event() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("one").await;
    let good = |deployment| deployed(&[&id], deployment);
    for batch in [json!([good("d-1"), good("d-2")]), json!({"events": [good("d-3"), good("d-4")]})]
    {
        let answer = admin.post("/events", &batch).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.json()["results"].as_array().map(Vec::len), Some(2));
    }
    let mixed =
        json!([good("d-5"), deployed(&[&id, UNKNOWN], "d-6"), {"type": "no.such"}, good("d-7"), 7]);
    let answer = admin.post("/events", &mixed).await;
    assert_eq!(answer.status, 207);
    let results = &answer.json()["results"];
    assert_eq!((&results[0]["status"], &results[3]["status"]), (&json!(202), &json!(202)));
    assert_eq!(results[0]["deliveries"][0]["sequence"], 5);
    assert_eq!(results[1]["code"], "unknown_gateways");
    assert_eq!(results[1]["gatewayIds"], json!([UNKNOWN]));
    assert_eq!(results[2]["errors"][0]["field"], "payload");
    // Refused events get no sequence.
    assert_eq!(results[3]["deliveries"][0]["sequence"], 6);
    assert_eq!(results[4]["status"], 422);
    let gateway = admin.get(&format!("/gateways/{id}")).await.success();
    assert_eq!(gateway["head"], 6);
    for (batch, says) in [
        (json!([]), "1 to 1000"),
        (json!({"events": []}), "1 to 1000"),
        (Value::Array(vec![good("d"); 1001]), "1 to 1000"),
    ] {
        admin.post("/events", &batch).await.invalid("events", &[says]);
    }
    admin.post("/events", &json!({"events": [], "more": 1})).await.invalid("more", &["more"]);
}

#[tokio::test]
async fn a_repeated_event_gets_the_first_answer() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("one").await;
    let event = deployed(&[&id], "d-1");
    let parallel = join_all((0..20).map(|_| admin.publish_once("key-1", &event))).await;
    let first = parallel[0].body.clone();
    for answer in &parallel {
        assert_eq!((answer.status, &answer.body), (202, &first));
    }
    let other = deployed(&[&id], "d-2");
    admin.publish_once("key-1", &other).await.refusal(422, "idempotency_key_reused");
    let mut named = deployed(&[&id], "d-3");
    named["id"] = json!("mine");
    let parallel = join_all((0..20).map(|_| admin.post("/events", &named))).await;
    assert!(parallel.iter().all(|answer| answer.status == 202 && answer.body == parallel[0].body));
    named["userId"] = json!("somebody else");
    admin.post("/events", &named).await.refusal(409, "event_id_taken");
    let head = admin.get(&format!("/gateways/{id}")).await.success()["head"].clone();
    assert_eq!(head, 2, "a repeat has taken a number");
    for key in ["", &"k".repeat(256)] {
        admin.publish_once(key, &event).await.invalid("Idempotency-Key", &["1 to 255"]);
    }
    admin.publish_once(&"k".repeat(255), &event).await.success();
}

#[tokio::test]
async fn a_refusal_names_the_field_and_what_is_allowed() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("one").await;
    let with = |field: &str, value: Value| {
        let mut event = deployed(&[&id], "d-1");
        event[field] = value;
        event
    };
    for (field, value, says) in [
        ("type", json!("connection.ack"), "reserved"),
        ("type", json!("delivery.mark"), "reserved"),
        ("type", json!("deployment.ack"), "reserved"),
        ("type", json!("api"), "joined by dots"),
        ("type", json!(7), "string"),
        ("type", Value::Null, "required"),
        ("payload", json!([1]), "object"),
        ("payload", json!("{}"), "object"),
        ("payload", Value::Null, "required"),
        ("gatewayIds", json!("all"), "array"),
        ("correlationId", json!("c".repeat(65)), "1 to 64"),
        ("correlationId", json!(""), "1 to 64"),
        ("correlationId", json!("with blank"), "without blanks"),
        ("id", json!("i".repeat(65)), "1 to 64"),
        ("id", json!(7), "string"),
        ("userId", json!("u".repeat(257)), "256"),
        ("userId", json!("u\u{0}"), "control"),
        ("expiresAt", json!("2020-01-01T00:00:00Z"), "past"),
        ("expiresAt", json!("2030-01-01T00:00:00"), "offset"),
        ("ttlSeconds", json!(0), "1 to"),
        ("ttlSeconds", json!(-1), "-1"),
        ("ttlSeconds", json!(1.5), "1.5"),
        ("gatewayIDs", json!([]), "gatewayIds"),
    ] {
        admin.post("/events", &with(field, value)).await.invalid(field, &[says]);
    }
    // In a list, the element is named.
    let nth = with("gatewayIds", json!(["0198c0de-0000-7000-8000-000000000001", "berlin"]));
    admin.post("/events", &nth).await.invalid("gatewayIds/1", &["must be a UUID", "\"berlin\""]);
    let nothing = admin.publish("").await.refusal(400, "malformed_json");
    assert_eq!(nothing["detail"], "The body is not JSON: it is empty.");
    let misshapen = with("payload", json!({"apiId": 1, "performedAt": "2026-01-31T09:30:00Z"}));
    let problem = admin.post("/events", &misshapen).await.refusal(422, "invalid");
    let fields = [&problem["errors"][0]["field"], &problem["errors"][1]["field"]];
    assert_eq!(fields, ["payload", "payload/apiId"], "{problem:#}");
    let mut both = with("ttlSeconds", json!(60));
    both["expiresAt"] = json!("2999-01-01T00:00:00Z");
    admin.post("/events", &both).await.invalid("ttlSeconds", &["together"]);
    let unknown = admin.post("/events", &with("type", json!("no.such"))).await;
    let problem = unknown.refusal(422, "unknown_event_type");
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains("PUT /api/internal/v1/event-types/no.such"), "{detail}");
    admin.post("/events", &json!({})).await.invalid("type", &["required"]);
    for nothing in ["7", "null", "\"text\"", "true"] {
        admin.publish(nothing).await.invalid("body", &["list of events"]);
    }
    let gateway = admin.get(&format!("/gateways/{id}")).await.success();
    assert_eq!(gateway["head"], 0, "something refused was stored");
}

#[tokio::test]
async fn a_malformed_body_is_refused_and_affects_nothing() {
    let service = Service::start_with(&[("SERVER__BODY_LIMIT", "2MiB")]).await;
    let admin = service.admin();
    let (id, _) = service.gateway("one").await;
    let whole = deployed(&[&id], "d-1").to_string();
    for broken in
        [&b""[..], b"{", b"\xff\xfe", b"{\"type\": \"\xc3\"}", b"{} {}", &whole.as_bytes()[1..]]
    {
        admin.publish(broken.to_vec()).await.refusal(400, "malformed_json");
    }
    // Thousands of levels, wherever nesting is possible.
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    for deep in [
        format!("{open}{close}"),
        open.clone(),
        "{\"a\":".repeat(100_000),
        format!("{{\"type\":{open}{close}}}"),
        format!("{{\"target\":{open}{close}}}"),
        whole.replace("\"a-1\"", &format!("{open}{close}")),
        format!("{{\"events\":{open}{close}}}"),
    ] {
        let answer = admin.publish(deep).await;
        let code = answer.json()["code"].clone();
        assert!(matches!(answer.status, 400 | 207 | 422), "{answer:?}");
        if answer.status != 207 {
            answer.refusal(answer.status, code.as_str().expect("a code"));
        }
    }
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        whole.replace("\"a-1\"", &format!("\"a-1\",\"deep\":{open}{close}"))
    };
    admin.publish(nested(127)).await.success();
    admin.publish(nested(128)).await.invalid("payload", &["127 levels"]);
    // Parsers disagree on the meaning of a repeated member.
    let twice = whole.replacen('{', "{\"type\":\"api.undeployed\",", 1);
    admin.publish(twice).await.invalid("type", &["duplicate field"]);
    let escaped = whole.replacen('{', "{\"\\u0069d\":\"x\",\"id\":\"y\",", 1);
    admin.publish(escaped).await.invalid("id", &["duplicate field"]);

    let of_type = |content_type: &str| {
        let request = admin.request(Method::POST, "/events").header("content-type", content_type);
        reply(request.body(whole.clone()))
    };
    for other in ["text/plain", "application/xml", "application/jsonx", "multipart/form-data"] {
        of_type(other).await.refusal(415, "unsupported_media_type");
    }
    for json in ["application/json; charset=utf-8", "APPLICATION/JSON"] {
        of_type(json).await.success();
    }
    let padded = |length: usize| format!("{whole}{}", " ".repeat(length - whole.len()));
    admin.publish(padded(2 << 20)).await.success();
    admin.publish(padded((2 << 20) + 1)).await.refusal(413, "body_too_large");
    assert_eq!(admin.get(&format!("/gateways/{id}")).await.success()["head"], 4);
}

#[tokio::test]
async fn an_expired_event_is_skipped_and_listed_as_failed() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, key) = service.gateway("one").await;
    let mut short = deployed(&[&id], "d-1");
    short["ttlSeconds"] = json!(1);
    short["id"] = json!("short");
    let mut long = deployed(&[&id], "d-2");
    long["ttlSeconds"] = json!(3600);
    admin.post("/events", &json!([short, long])).await.success();
    let event = admin.get("/events/short").await.success();
    let expires =
        gateway_events::clock::Timestamp::parse(event["expiresAt"].as_str().expect("set"));
    let expires = expires.expect("a time");
    let occurred = event["occurredAt"].as_str().expect("a time").to_owned();
    assert_eq!(expires.minus(std::time::Duration::from_secs(1)).to_string(), occurred);
    // The service uses this machine's clock, so the test waits for the instant itself.
    let left = expires.since(gateway_events::clock::Timestamp::now());
    tokio::time::timeout(left, std::future::pending::<()>()).await.expect_err("it passes");
    let mut socket = service.connected(&key).await;
    let next = socket.next().await.expect("the other one");
    assert_eq!((&next["sequence"], &next["payload"]["deploymentId"]), (&json!(2), &json!("d-2")));
    let socket = socket.serve();
    let failed = format!("/deliveries?gatewayId={id}&reason=expired");
    let failed = service.eventually(&failed, |page| page["count"] == 1).await;
    assert_eq!(failed["list"][0]["state"], "failed");
    assert_eq!(failed["list"][0]["eventId"], "short");
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 2).await;
    let event = admin.get("/events/short").await.success();
    assert_eq!(event["deliveries"][0]["state"], "failed");
    assert_eq!(event["deliveries"][0]["reason"], "expired");
    socket.abort();
}
