//! The AsyncAPI document of the streams, which needs no token. The frames of all other tests are
//! compared with it.

use gateway_events::http::asyncapi;
use serde_json::{Value, json};

use crate::support::streams::check;
use crate::support::{Service, deployed};

const COMMITTED: &str = include_str!("../../docs/asyncapi.json");

#[test]
fn the_committed_document_is_up_to_date() {
    assert!(
        asyncapi::json() == COMMITTED,
        "docs/asyncapi.json is outdated; refresh it: cargo run -- asyncapi > docs/asyncapi.json"
    );
}

#[test]
fn every_reference_resolves_and_every_schema_is_used() {
    let document = asyncapi::document();
    let mut used = Vec::new();
    references(&document, &mut used);
    for reference in &used {
        let found = document.pointer(reference.trim_start_matches('#'));
        assert!(found.is_some(), "{reference} leads nowhere");
    }
    for kind in ["messages", "schemas", "securitySchemes"] {
        for name in document["components"][kind].as_object().expect("components").keys() {
            let reference = format!("#/components/{kind}/{name}");
            assert!(used.contains(&reference), "{reference} is not used");
        }
    }
    for name in document["channels"].as_object().expect("channels").keys() {
        assert!(used.contains(&format!("#/channels/{name}")), "{name} has no operation");
    }
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str() {
                    Some(reference) if name == "$ref" => found.push(reference.to_owned()),
                    _ => references(member, found),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                references(item, found);
            }
        }
        _ => {}
    }
}

#[test]
fn the_schemas_refuse_what_the_parser_refuses() {
    let hello = json!({
        "type": "connection.hello", "instance": "a", "resume": "server", "window": 1,
        "windowBytes": 1, "types": ["api.deployed"], "confirm": "applied",
    });
    check("reliable", &hello);
    for (member, value) in [
        ("instance", json!("")),
        ("instance", json!("a\u{7}")),
        ("instance", json!("a".repeat(65))),
        ("resume", json!("now")),
        ("resume", json!({"sequence": 1})),
        ("window", json!(-1)),
        ("windowBytes", json!(9_007_199_254_740_992_i64)),
        ("types", json!([])),
        ("types", json!(["connection.x", "x"])),
        ("confirm", json!("pong")),
    ] {
        let mut changed = hello.clone();
        changed[member] = value;
        let refused = std::panic::catch_unwind(|| check("reliable", &changed));
        assert!(refused.is_err(), "{changed}");
    }
}

#[test]
fn members_that_are_null_are_omitted_and_one_is_required() {
    for frame in [
        json!({"type": "delivery.ack", "applied": 1, "received": null}),
        json!({"type": "delivery.credit", "window": null, "windowBytes": 0}),
        json!({"type": "delivery.nack", "sequence": 1, "code": "invalid", "retryable": true,
               "retryAfterMs": null, "detail": null}),
        json!({"type": "connection.hello", "resume": "server", "confirm": "applied",
               "instance": null, "types": null, "envelope": null}),
    ] {
        check("reliable", &frame);
    }
    for frame in [
        json!({"type": "delivery.ack"}),
        json!({"type": "delivery.ack", "applied": null}),
        json!({"type": "delivery.credit", "window": null, "windowBytes": null}),
    ] {
        let refused = std::panic::catch_unwind(|| check("reliable", &frame));
        assert!(refused.is_err(), "{frame}");
    }
}

#[test]
fn queries_have_all_parameters_with_their_limits() {
    let document = asyncapi::document();
    let query = |operation: &str| {
        let query = &document["operations"][operation]["bindings"]["http"]["query"]["properties"];
        query.as_object().expect("parameters").clone()
    };
    let poll = query("sendPolled");
    let names: Vec<&String> = poll.keys().collect();
    assert_eq!(names, ["ack", "after", "envelope", "instance", "max", "snapshot", "wait"]);
    assert_eq!((&poll["max"]["minimum"], &poll["max"]["maximum"]), (&json!(1), &json!(256)));
    let stream = query("sendEventStream");
    let names: Vec<&String> = stream.keys().collect();
    assert_eq!(names, ["confirm", "envelope", "instance", "resume", "types", "window"]);
    assert_eq!(stream["envelope"]["enum"], json!(["native", "cloudevents"]));
    let headers = &document["components"]["messages"]["streamRequest"]["headers"];
    assert!(headers["properties"]["Last-Event-ID"].is_object());
}

#[tokio::test]
async fn the_document_is_served_to_anyone() {
    let service = Service::start().await;
    let reply = service.caller(None).root("/asyncapi.json").await;
    assert_eq!((reply.status, reply.content_type()), (200, "application/json"));
    assert_eq!(reply.body, COMMITTED);
    assert_eq!(reply.headers["connection"], "close", "{reply:?}");
    assert_eq!(reply.json()["asyncapi"], "3.0.0");
    let printed = service.run("asyncapi").await;
    assert_eq!(printed.well(), COMMITTED);
}

#[tokio::test]
async fn the_frames_of_plain_mode_match_the_document() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    let mut socket = service.connect(&key).await.expect("admitted");
    for expected in ["connection.ack", "api.deployed"] {
        let frame = socket.next().await.expect("a frame");
        assert_eq!(frame["type"], expected);
        check("plain", &frame);
    }
}
