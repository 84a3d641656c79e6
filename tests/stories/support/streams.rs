//! Compares every frame in the tests with the AsyncAPI document.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use gateway_events::http::asyncapi;
use jsonschema::Validator;
use serde_json::{Value, json};

static DOCUMENT: LazyLock<Value> = LazyLock::new(asyncapi::document);

/// Validators by the name of their schema.
static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(<_>::default);

/// Checks a frame that travelled on a channel of the document.
#[track_caller]
pub(crate) fn check(channel: &str, frame: &Value) {
    let messages = DOCUMENT["channels"][channel]["messages"].as_object();
    let schemas: Vec<&str> = messages
        .unwrap_or_else(|| panic!("there is no channel {channel}"))
        .values()
        .map(|message| schema_of(follow(message)))
        .collect();
    let frame_type = &frame["type"];
    let of_type = |name: &&str| {
        let schema = &DOCUMENT["components"]["schemas"][*name];
        schema["properties"]["type"]["const"] == *frame_type
    };
    // The type of an event is not fixed.
    let is_cloud_event = frame["specversion"].is_string();
    let is_event = |name: &&str| match *name {
        "CloudEvent" => is_cloud_event,
        other => !is_cloud_event && (other.ends_with("Event") || other.ends_with("EventFrame")),
    };
    let found = schemas.iter().copied().find(|name| of_type(name));
    let found = found.or_else(|| schemas.iter().copied().find(|name| is_event(name)));
    let name = found.unwrap_or_else(|| panic!("{channel} has no message {frame_type}"));
    if let Err(error) = validator(name).validate(frame) {
        panic!("{name}: {error} in {frame:#}");
    }
}

/// What a reference leads to.
fn follow(value: &Value) -> &'static Value {
    let pointer = value["$ref"].as_str().expect("a reference").trim_start_matches('#');
    DOCUMENT.pointer(pointer).unwrap_or_else(|| panic!("{pointer} leads nowhere"))
}

fn schema_of(message: &'static Value) -> &'static str {
    let reference = message["payload"]["$ref"].as_str().expect("a reference");
    reference.rsplit('/').next().expect("a name")
}

fn validator(name: &str) -> Arc<Validator> {
    let mut validators = VALIDATORS.lock().expect("no story fails in here");
    let compile = || {
        let schema = json!({
            "$ref": format!("#/components/schemas/{name}"),
            "components": { "schemas": DOCUMENT["components"]["schemas"] },
        });
        Arc::new(jsonschema::validator_for(&schema).expect("a schema"))
    };
    Arc::clone(validators.entry(name.to_owned()).or_insert_with(compile))
}
