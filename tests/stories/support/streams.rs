//! Compares every frame in the tests with the AsyncAPI document.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use gateway_events::client::BASE_PATH;
use gateway_events::http::asyncapi;
use jsonschema::Validator;
use reqwest::{Method, Url};
use serde_json::{Value, json};

static DOCUMENT: LazyLock<Value> = LazyLock::new(asyncapi::document);

/// Validators by the name of their schema.
static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(<_>::default);

/// Checks a frame that travelled on a channel of the document.
#[track_caller]
pub(crate) fn check(channel: &str, frame: &Value) {
    let Some(name) = schema_for(channel, frame) else {
        panic!("{channel} has no message {}", frame["type"]);
    };
    check_as(name, frame);
}

/// Likewise, a frame that a gateway sent and that must be valid. Those of an unknown type are ignored.
#[track_caller]
pub(crate) fn check_sent(channel: &str, frame: &Value) {
    if FROM_GATEWAY.iter().any(|name| *name == frame["type"]) {
        check(channel, frame);
    }
}

/// Compares the answer to what a gateway sent over a WebSocket, the code of `connection.error`, with
/// what the document says about the frames.
#[track_caller]
pub(crate) fn check_refused(sent: &[String], code: &str) {
    let is_valid = |text: &String| match serde_json::from_str::<Value>(text) {
        Ok(frame) => {
            schema_for("reliable", &frame).is_some_and(|it| validator(it).is_valid(&frame))
        }
        Err(_) => false,
    };
    match code {
        "invalid_frame" | "malformed_frame" => {
            assert!(!sent.iter().all(is_valid), "{code}, and the document allows all of {sent:?}");
        }
        "beyond_sent" | "not_in_flight" | "hello_repeated" | "hello_expected" => {
            assert!(sent.iter().all(is_valid), "{code}, and the document refuses one of {sent:?}");
        }
        _ => {}
    }
}

/// Compares a gateway's request and the response with the document.
#[track_caller]
pub(crate) fn check_request(
    method: &Method,
    url: &Url,
    sent: Option<&[u8]>,
    status: u16,
    body: &str,
) {
    let path = url.path().strip_prefix(BASE_PATH).unwrap_or_default();
    if *method == Method::POST && path.starts_with("/gateways/") && path.ends_with("/frames") {
        check_posted(sent.unwrap_or_default(), status, body);
    } else if *method == Method::GET && path == "/gateways/events" {
        check_query("sendPolled", url, status);
        if status == 200 {
            check_as("PolledEvents", &serde_json::from_str(body).expect("JSON"));
        }
    } else if *method == Method::GET && path == "/gateways/stream" {
        check_query("sendEventStream", url, status);
    }
}

/// Frames that count must be valid, and those that don't because they are invalid must not be.
#[track_caller]
fn check_posted(sent: &[u8], status: u16, body: &str) {
    let Ok(mut sent) = serde_json::from_slice::<Value>(sent) else { return };
    if let Some(frames) = sent.as_array_mut() {
        frames.retain(|frame| {
            let frame_type = frame["type"].as_str();
            frame_type.is_none_or(|it| FROM_GATEWAY.contains(&it))
        });
    } else if !FROM_GATEWAY.iter().any(|name| *name == sent["type"]) {
        return;
    }
    if status == 204 {
        check_as("GatewayFrames", &sent);
    } else if status == 422 && body.contains("\"invalid_frame\"") {
        let is_valid = validator("GatewayFrames").is_valid(&sent);
        assert!(!is_valid, "{body}, and the document allows {sent}");
    }
}

/// A query that is accepted must be one of the document.
#[track_caller]
fn check_query(operation: &str, url: &Url, status: u16) {
    if !matches!(status, 200 | 204) {
        return;
    }
    let schema = &DOCUMENT["operations"][operation]["bindings"]["http"]["query"];
    let value = |name: &str, text: &str| match &schema["properties"][name]["type"] {
        kind if kind == "integer" => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
        _ => Value::from(text),
    };
    let query: serde_json::Map<String, Value> =
        url.query_pairs().map(|(name, text)| (name.to_string(), value(&name, &text))).collect();
    let validator = jsonschema::validator_for(schema).expect("a schema");
    if let Err(error) = validator.validate(&Value::Object(query)) {
        panic!("{operation}: {error} in {url}");
    }
}

/// Checks a message of an event stream: `event` is the type of the frame, or `message` for events, and
/// `id` the position after it.
#[track_caller]
pub(crate) fn check_streamed(kind: &str, id: Option<&str>, frame: &Value) {
    check("eventStream", frame);
    let frame_type = frame["type"].as_str().expect("a type");
    let is_event = frame["previous"].is_number() || frame["specversion"].is_string();
    assert_eq!(kind, if is_event { "message" } else { frame_type }, "{frame}");
    assert_eq!(id.is_some(), is_event || kind == "delivery.mark", "{frame}");
}

/// Checks a value by the name of its schema.
#[track_caller]
pub(crate) fn check_as(name: &'static str, value: &Value) {
    if let Err(error) = validator(name).validate(value) {
        panic!("{name}: {error} in {value:#}");
    }
}

/// The types of frames of gateways in reliable mode.
const FROM_GATEWAY: [&str; 5] =
    ["connection.hello", "delivery.ack", "delivery.nack", "delivery.progress", "delivery.credit"];

/// The name of the schema of a frame.
fn schema_for(channel: &str, frame: &Value) -> Option<&'static str> {
    let messages = DOCUMENT["channels"][channel]["messages"].as_object();
    let schemas: Vec<&str> = messages
        .unwrap_or_else(|| panic!("there is no channel {channel}"))
        .values()
        .filter_map(|message| schema_of(follow(message)))
        .collect();
    let frame_type = frame["type"].as_str()?;
    let of_type = |name: &&str| {
        let schema = &DOCUMENT["components"]["schemas"][*name];
        schema["properties"]["type"]["const"] == frame_type
    };
    // The type of an event is not fixed.
    let is_cloud_event = frame["specversion"].is_string();
    let is_event = |name: &&str| match *name {
        "CloudEvent" => is_cloud_event,
        other => !is_cloud_event && (other.ends_with("Event") || other.ends_with("EventFrame")),
    };
    let found = schemas.iter().copied().find(|name| of_type(name));
    found.or_else(|| schemas.iter().copied().find(|name| is_event(name)))
}

/// What a reference leads to.
fn follow(value: &Value) -> &'static Value {
    let pointer = value["$ref"].as_str().expect("a reference").trim_start_matches('#');
    DOCUMENT.pointer(pointer).unwrap_or_else(|| panic!("{pointer} leads nowhere"))
}

/// The name of a message's schema; `None` if it has no body.
fn schema_of(message: &'static Value) -> Option<&'static str> {
    message["payload"]["$ref"].as_str()?.rsplit('/').next()
}

fn validator(name: &str) -> Arc<Validator> {
    let mut validators = VALIDATORS.lock().expect("no story fails in here");
    let compile = || {
        let schema = json!({
            "$ref": format!("#/components/schemas/{name}"),
            "components": { "schemas": DOCUMENT["components"]["schemas"] },
        });
        let options = jsonschema::options().should_validate_formats(true);
        Arc::new(options.build(&schema).expect("a schema"))
    };
    Arc::clone(validators.entry(name.to_owned()).or_insert_with(compile))
}
