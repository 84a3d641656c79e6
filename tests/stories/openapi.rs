//! The OpenAPI document and the reference page, which need no token.

use gateway_events::http::openapi;
use serde_json::Value;

use crate::support::Service;
use crate::support::document::{escaped, validator};

const COMMITTED: &str = include_str!("../../docs/openapi.json");

#[test]
fn the_committed_document_is_up_to_date() {
    assert!(
        openapi::json() == COMMITTED,
        "docs/openapi.json is outdated; refresh it: cargo run -- openapi > docs/openapi.json"
    );
}

#[tokio::test]
async fn the_document_is_served_to_anyone() {
    let service = Service::start().await;
    let reply = service.caller(None).root("/openapi.json").await;
    assert_eq!((reply.status, reply.content_type()), (200, "application/json"));
    assert_eq!(reply.body, COMMITTED);
    assert_eq!(reply.headers["connection"], "close", "{reply:?}");
    let document: Value = reply.json();
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
}

#[tokio::test]
async fn the_reference_page_loads_nothing_from_another_host() {
    let service = Service::start().await;
    let anyone = service.caller(None);
    let page = anyone.root("/docs").await;
    assert_eq!((page.status, page.content_type()), (200, "text/html; charset=utf-8"));
    let policy = page.headers["content-security-policy"].to_str().expect("text");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("http"), "{policy}");
    let mut files = 0;
    for attribute in ["src=\"", "href=\""] {
        for rest in page.body.split(attribute).skip(1) {
            let link = rest.split('"').next().expect("a closed attribute");
            if link == "data:," {
                continue;
            }
            assert!(link.starts_with('/') && !link.starts_with("//"), "{link}");
            let reply = anyone.root_bytes(link).await;
            assert_eq!(reply.status, 200, "{link}");
            files += 1;
        }
    }
    assert_eq!(files, 4);
    anyone.root("/docs/../Cargo.toml").await.refusal(404, "not_found");
    anyone.root("/docs/no-such-file").await.refusal(404, "not_found");
}

#[test]
fn each_json_body_has_an_example() {
    let document: Value = serde_json::from_str(COMMITTED).expect("JSON");
    let members = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let (mut bodies, mut missing) = (0, Vec::new());
    for (path, item) in members(&document["paths"]) {
        for (method, operation) in members(&item) {
            let answers = members(&operation["responses"]);
            let answers = answers.iter().filter(|(status, _)| status.starts_with('2'));
            let answers = answers.map(|(status, answer)| (status.as_str(), &answer["content"]));
            for (name, content) in
                answers.chain([("request", &operation["requestBody"]["content"])])
            {
                for (media, body) in members(content) {
                    if media.ends_with("json") {
                        bodies += 1;
                        if !has_example(&document, &body) {
                            missing.push(format!("{method} {path}, {name}: {media}"));
                        }
                    }
                }
            }
        }
    }
    assert!(bodies > 60, "only {bodies} bodies");
    assert!(missing.is_empty(), "without an example:\n  {}", missing.join("\n  "));
}

/// Whether a body or the type that its schema names has an example.
fn has_example(document: &Value, body: &Value) -> bool {
    let has_own = |value: &Value| value["example"].is_object() || value["examples"].is_object();
    let schema = &body["schema"];
    let named = [schema, &schema["oneOf"][0], &schema["items"]]
        .into_iter()
        .filter_map(|schema| document.pointer(schema["$ref"].as_str()?.strip_prefix('#')?))
        .any(has_own);
    named || has_own(body)
}

#[test]
fn each_example_matches_its_schema() {
    let document: Value = serde_json::from_str(COMMITTED).expect("JSON");
    let (mut count, mut invalid) = (0, Vec::new());
    check_examples(&document, "", &mut |schema, example| {
        count += 1;
        if let Err(error) = validator(schema).validate(example) {
            invalid.push(format!("{schema}: {error}"));
        }
    });
    assert!(count > 200, "only {count} examples");
    assert!(invalid.is_empty(), "invalid examples:\n  {}", invalid.join("\n  "));
}

/// Calls `check` with each example in a part of the document and the pointer of its schema.
fn check_examples(value: &Value, at: &str, check: &mut impl FnMut(&str, &Value)) {
    if let Some(list) = value.as_array() {
        for (nth, item) in list.iter().enumerate() {
            check_examples(item, &format!("{at}/{nth}"), check);
        }
        return;
    }
    let Some(members) = value.as_object() else { return };
    // A member of this name is a property of a schema.
    let is_properties = at.ends_with("/properties");
    let schema =
        if members.contains_key("schema") { format!("{at}/schema") } else { at.to_owned() };
    for (name, member) in members {
        match name.as_str() {
            "example" if !is_properties => check(&schema, member),
            "examples" if !is_properties => match member {
                Value::Array(list) => list.iter().for_each(|example| check(&schema, example)),
                named => {
                    for example in named.as_object().into_iter().flat_map(|named| named.values()) {
                        check(&schema, &example["value"]);
                    }
                }
            },
            _ => check_examples(member, &format!("{at}/{}", escaped(name)), check),
        }
    }
}
