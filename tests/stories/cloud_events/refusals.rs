//! Events that are refused: each error names the attribute and says what to do.

use serde_json::{Value, json};

use super::{BATCHED, STRUCTURED, event, post, post_binary};
use crate::support::Service;

#[tokio::test]
async fn an_error_about_a_structured_event_names_the_attribute() {
    let service = Service::start().await;
    service.gateway("one").await;
    let caller = service.admin();
    let without = |name: &str| {
        let mut event = event("A-1", &json!({}));
        event.as_object_mut().expect("an object").remove(name);
        event
    };
    let with = |name: &str, value: Value| event("A-1", &json!({ name: value }));
    let many: serde_json::Map<String, Value> =
        (0..60).map(|nth| (format!("z{nth:02}"), json!("a"))).collect();
    let large: serde_json::Map<String, Value> =
        (0..9).map(|nth| (format!("x{nth}"), json!("a".repeat(1000)))).collect();
    for (sent, field, says) in [
        (without("specversion"), "specversion", "is required"),
        (without("id"), "id", "is required"),
        (without("source"), "source", "is required"),
        (without("type"), "type", "is required"),
        (without("data"), "data", "is required"),
        (without("targetall"), "gatewayids", "exactly one"),
        (with("specversion", json!("0.3")), "specversion", "must be 1.0"),
        (with("specversion", json!(1)), "specversion", "must be a string"),
        (with("id", json!("a b")), "id", "without blanks"),
        (with("id", json!(1)), "id", "must be a string"),
        (with("source", json!("")), "source", "must not be empty"),
        (with("source", json!("a b")), "source", "URI reference"),
        (with("subject", json!("")), "subject", "omit it"),
        (with("dataschema", json!("/relative")), "dataschema", "a URI with a scheme"),
        (with("time", json!("yesterday")), "time", "RFC 3339"),
        (with("time", json!("2999-01-01T00:00:00Z")), "time", "in the future"),
        (with("expirytime", json!("2020-01-01T00:00:00Z")), "expirytime", "in the past"),
        (with("ttlseconds", json!(0)), "ttlseconds", "must be 1 to"),
        (with("ttlseconds", json!(-1)), "ttlseconds", "a whole number"),
        (with("userid", json!("u".repeat(257))), "userid", "at most 256 bytes"),
        (with("gatewayids", json!("x")), "gatewayids", "must be a UUID"),
        (with("targetlabels", json!("env=prod")), "targetlabels", "exactly one"),
        (with("targetall", json!(false)), "targetall", "must be true"),
        (with("traceparent", json!("00-1-2-3")), "traceparent", "W3C"),
        (with("datacontenttype", json!("text/xml")), "datacontenttype", "must be JSON"),
        (with("data", json!(1.5)), "data", "must be a JSON object"),
        (with("data", Value::Null), "data", "must be a JSON object"),
        (with("data", json!({"configType": 1, "action": "a"})), "data/configType", "a string"),
        (with("data_base64", json!("e30=")), "data_base64", "only one of them"),
        (with("Tenant", json!("a")), "Tenant", "lower-case letters"),
        (with("tenant_id", json!("a")), "tenant_id", "lower-case letters"),
        (with("tenant", json!({"a": 1})), "tenant", "into the data"),
        (with("tenant", json!(1.5)), "tenant", "as strings"),
        (with("tenant", json!(2_147_483_648_i64)), "tenant", "as strings"),
        (with("tenant", json!("a\u{1}")), "tenant", "U+0001"),
        (with("tenant", json!("a".repeat(1025))), "tenant", "at most 1024"),
        (with(&"t".repeat(65), json!("a")), &"t".repeat(64), "1 to 64"),
        (with("sequence", json!("1")), "sequence", "set by the service"),
        (event("A-1", &json!(many)), "z59", "at most 64"),
        (event("A-1", &json!(large)), "attributes", "at most 8192"),
    ] {
        post(&caller, STRUCTURED, sent.to_string()).await.invalid(field, &[says]);
    }
    let twice = r#"{"id":"a","id":"b","specversion":"1.0"}"#;
    post(&caller, STRUCTURED, twice).await.invalid("id", &["more than once"]);
    let twice = r#"{"id":null,"\u0069d":"b","specversion":"1.0"}"#;
    post(&caller, STRUCTURED, twice).await.invalid("id", &["more than once"]);
    let twice = r#"{"data":{},"data":{}}"#;
    post(&caller, STRUCTURED, twice).await.invalid("data", &["more than once"]);
    assert_eq!(caller.get("/events/A-1").await.status, 404);
}

#[tokio::test]
async fn data_in_base64_is_accepted_if_it_is_declared_to_be_json() {
    let service = Service::start().await;
    service.gateway("one").await;
    let caller = service.admin();
    // {"configType":"cache","action":"update"}
    let encoded = "eyJjb25maWdUeXBlIjoiY2FjaGUiLCJhY3Rpb24iOiJ1cGRhdGUifQ==";
    let sent = |id: &str, members: Value| {
        let mut event = event(id, &members);
        event.as_object_mut().expect("an object").remove("data");
        event.to_string()
    };
    let json = "application/json";
    let declared = json!({"data_base64": encoded, "datacontenttype": json});
    let answer = post(&caller, STRUCTURED, sent("A-1", declared)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let shown = caller.get("/events/A-1").await.success();
    assert_eq!(shown["payload"], json!({"configType": "cache", "action": "update"}));
    for (members, says) in [
        (json!({"data_base64": encoded}), "without a datacontenttype"),
        (json!({"data_base64": "e30", "datacontenttype": json}), "padding"),
        (json!({"data_base64": 1, "datacontenttype": json}), "must be a string"),
        (json!({"data_base64": "/w==", "datacontenttype": json}), "a JSON object"),
    ] {
        let answer = post(&caller, STRUCTURED, sent("A-2", members)).await;
        answer.invalid("data_base64", &[says]);
    }
}

#[tokio::test]
async fn an_error_about_a_binary_event_names_the_attribute() {
    let service = Service::start().await;
    service.gateway("one").await;
    let caller = service.admin();
    let data = r#"{"configType":"cache","action":"update"}"#;
    let complete = [
        ("ce-specversion", "1.0"),
        ("ce-id", "A-1"),
        ("ce-source", "/a"),
        ("ce-type", "gateway.config.updated"),
        ("ce-targetall", "true"),
        ("content-type", "application/json"),
    ];
    for missing in ["specversion", "id", "source", "type"] {
        let header = format!("ce-{missing}");
        let headers: Vec<_> = complete.into_iter().filter(|(name, _)| *name != header).collect();
        let answer = post_binary(&caller, &headers, data).await;
        answer.invalid(missing, &["is required", &header]);
    }
    for (name, value, field, says) in [
        ("ce-id", "A-2", "id", "more than once"),
        ("ce-datacontenttype", "application/json", "datacontenttype", "Content-Type"),
        ("ce-data", "{}", "data", "no attribute"),
        ("ce-tenant_id", "a", "tenant_id", "lower-case letters"),
        ("ce-", "a", "", "lower-case letters"),
        ("ce-tenant", "%C0%A0", "tenant", "not UTF-8"),
        ("ce-tenant", "100%", "tenant", "%25"),
        ("ce-tenant", "\"a", "tenant", "%22"),
        ("ce-tenant", "%00", "tenant", "U+0000"),
        ("ce-tenant", &"x".repeat(1025), "tenant", "at most 1024"),
        ("ce-collapsekey", &"x".repeat(10_000), "collapsekey", "256"),
        ("content-type", "application/json", "Content-Type", "given once"),
    ] {
        let headers: Vec<_> = complete.into_iter().chain([(name, value)]).collect();
        post_binary(&caller, &headers, data).await.invalid(field, &[says]);
    }
    let mut text = complete;
    text[5] = ("content-type", "text/plain");
    post_binary(&caller, &text, data).await.invalid("datacontenttype", &["must be JSON"]);
    for body in ["", "{", "\u{feff}{}"] {
        post_binary(&caller, &complete, body).await.refusal(400, "malformed_json");
    }
    post_binary(&caller, &complete, "{}").await.invalid("data", &["required property"]);
    let unknown: Vec<_> = complete
        .into_iter()
        .map(|(name, value)| {
            (name, if name == "ce-type" { "com.example.someevent" } else { value })
        })
        .collect();
    post_binary(&caller, &unknown, data).await.refusal(422, "unknown_event_type");
}

#[tokio::test]
async fn a_body_of_another_shape_or_format_is_refused() {
    let service = Service::start().await;
    let caller = service.admin();
    let one = event("A-1", &json!({})).to_string();
    post(&caller, BATCHED, "[]").await.invalid("body", &["1 to 1000 events"]);
    post(&caller, BATCHED, one.clone()).await.invalid("body", &[STRUCTURED]);
    post(&caller, STRUCTURED, format!("[{one}]")).await.invalid("body", &[BATCHED]);
    post(&caller, STRUCTURED, "7").await.invalid("body", &["a JSON object"]);
    post(&caller, STRUCTURED, "").await.refusal(400, "malformed_json");
    post(&caller, BATCHED, vec![b'[', 0xff]).await.refusal(400, "malformed_json");
    for media_type in [
        "application/cloudevents+xml",
        "application/cloudevents",
        "application/cloudevents-batch+avro",
        "application/cloudevents+json; charset=iso-8859-1",
    ] {
        let answer = post(&caller, media_type, one.clone()).await;
        answer.refusal(415, "unsupported_media_type");
    }
}
