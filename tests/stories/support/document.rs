//! Compares every response in the tests with the OpenAPI document: its status and the code of a
//! problem must be documented, and a JSON body must match its schema.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use gateway_events::http::openapi;
use jsonschema::Validator;
use reqwest::Method;
use serde_json::{Value, json};

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(&openapi::json()).expect("JSON"));

/// Validators by the JSON pointer of their schema.
static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(<_>::default);

/// Checks a response. Undocumented paths and methods must be answered with 404 and 405.
pub(crate) fn check(method: &Method, path: &str, status: u16, content_type: &str, body: &str) {
    let method = method.as_str().to_lowercase();
    let Some(template) = template(path, &method) else {
        assert!(matches!(status, 404 | 405), "{method} {path} is not documented: {status}");
        return;
    };
    let at = format!("/paths/{}/{method}/responses/{status}", escaped(template));
    let response = DOCUMENT.pointer(&at);
    let response = response.unwrap_or_else(|| panic!("{method} {path}: {status} {body}"));
    let (response, at) = match response["$ref"].as_str() {
        Some(reference) => {
            let at = reference.trim_start_matches('#').to_owned();
            (DOCUMENT.pointer(&at).expect("a shared response"), at)
        }
        None => (response, at),
    };
    let media = content_type.split(';').next().unwrap_or_default();
    if !media.ends_with("json") {
        return;
    }
    assert!(response["content"][media].is_object(), "{method} {path}: {status} {media}");
    let schema = format!("{at}/content/{}/schema", escaped(media));
    let body: Value = serde_json::from_str(body).expect("JSON");
    if let Err(error) = validator(&schema).validate(&body) {
        panic!("{method} {path}, {status}: {error} in {body:#}");
    }
}

/// The documented path with the fewest parameters that matches.
fn template(path: &str, method: &str) -> Option<&'static str> {
    let fits = |template: &str| {
        let (mut parts, mut of) = (path.split('/'), template.split('/'));
        loop {
            match (parts.next(), of.next()) {
                (None, None) => return true,
                (Some(part), Some(of))
                    if part == of || (of.starts_with('{') && !part.is_empty()) => {}
                _ => return false,
            }
        }
    };
    let paths = DOCUMENT["paths"].as_object().expect("paths");
    paths
        .iter()
        .filter(|(template, item)| fits(template) && item[method].is_object())
        .map(|(template, _)| template.as_str())
        .min_by_key(|template| template.matches('{').count())
}

/// The validator of the schema at a JSON pointer of the document.
pub(crate) fn validator(pointer: &str) -> Arc<Validator> {
    let mut validators = VALIDATORS.lock().expect("no story fails in here");
    let compile = || {
        let schema = json!({
            "$ref": format!("#{}", pointer.replace('{', "%7B").replace('}', "%7D")),
            "paths": DOCUMENT["paths"],
            "components": DOCUMENT["components"],
        });
        Arc::new(jsonschema::validator_for(&schema).expect("a schema"))
    };
    Arc::clone(validators.entry(pointer.to_owned()).or_insert_with(compile))
}

/// Escapes a part of a JSON pointer.
pub(crate) fn escaped(part: &str) -> String {
    part.replace('~', "~0").replace('/', "~1")
}
