//! Publishing in the console: fields from the schema, a preview first, and refusals that keep what was
//! typed.

use serde_json::{Value, json};

use super::visitor::{Page, Visitor};
use crate::both_databases::{Backend, on_both};
use crate::server::Database;
use crate::support::Service;

on_both! {
    an_event_is_published_once_after_its_preview
}

const PATH: &str = "/console/publish";

/// The value of a hidden field.
fn hidden(page: &Page, name: &str) -> String {
    let start = format!("name=\"{name}\" value=\"");
    let from = page.body.find(&start).unwrap_or_else(|| panic!("no {name}: {page:?}"));
    let value = page.body[from + start.len()..].split('"').next().expect("a value");
    let value = value.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">");
    value.replace("&amp;", "&")
}

/// The fields of the confirmation that a preview offers.
fn confirmation(page: &Page) -> Vec<(String, String)> {
    let form = page.body.split("<form").find(|form| form.contains("Publish for")).expect("a form");
    let form = Page { body: form.to_owned(), status: 200, headers: page.headers.clone() };
    let names = form.body.split("name=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let names = names.filter(|name| *name != "form_token").map(str::to_owned);
    names.map(|name| (name.clone(), hidden(&form, &name))).collect()
}

async fn confirm(visitor: &Visitor, fields: &[(String, String)]) -> Page {
    let fields: Vec<(&str, &str)> =
        fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    visitor.submit(PATH, &fields).await
}

async fn register_flag(service: &Service) {
    let schema = json!({
        "type": "object", "required": ["flag", "on"], "additionalProperties": false,
        "properties": {
            "flag": {"type": "string", "description": "The name of the <flag>."},
            "on": {"type": "boolean"},
            "share": {"type": "integer", "maximum": 100},
            "factor": {"type": "number"},
            "stage": {"enum": ["canary", "all"]},
            "rules": {"type": "array"},
        },
    });
    let definition = json!({"description": "A feature flag was changed.", "schema": schema});
    service.api().put("/event-types/flag.changed", &definition).await.expect("registered");
}

async fn an_event_is_published_once_after_its_preview(backend: Backend) {
    let service = backend.start().await;
    register_flag(&service).await;
    let (berlin, _) = service.gateway("berlin: 1").await;
    service.gateway("tokyo").await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let chooser = visitor.get(PATH).await;
    assert!(chooser.status == 200 && chooser.says("value=\"flag.changed\""), "{chooser:?}");
    let page = visitor.get("/console/publish?type=flag.changed").await;
    for part in [
        "A feature flag was changed.",
        "The name of the &lt;flag&gt;.",
        "additionalProperties",
        "flag (required)",
        "on (required)",
        "name=\"member:share\"",
        "name=\"member:factor\"",
        "<option value=\"&quot;canary&quot;\">canary</option>",
        "name=\"payload\"",
    ] {
        assert!(page.says(part), "{part}: {page:?}");
    }
    assert!(!page.says("name=\"member:rules\""), "an array needs JSON");

    let typed = [
        ("type", "flag.changed"),
        ("step", "preview"),
        ("member:flag", "dark \"mode\""),
        ("member:on", "true"),
        ("member:share", "25"),
        ("member:stage", "\"canary\""),
        ("payload", "{\"rules\": [1.50]}"),
        ("to", "gateways"),
        ("gateways", "berlin: 1\r\n"),
        ("ttlSeconds", "3600"),
        ("collapseKey", "dark mode"),
        ("correlationId", "c-1"),
        ("userId", "ops"),
    ];
    let preview = visitor.submit(PATH, &typed).await;
    assert_eq!(preview.status, 200, "{preview:?}");
    assert!(preview.says("Publish for 1 gateway") && preview.says("berlin: 1"), "{preview:?}");
    assert!(!preview.says("tokyo") && preview.says("curl -X POST"), "{preview:?}");
    let payload =
        r#"{"flag":"dark \"mode\"","on":true,"share":25,"stage":"canary","rules":[1.50]}"#;
    assert!(preview.says(&payload.replace('"', "&quot;")), "{preview:?}");
    let events = service.api().get("/events").await.expect("an answer");
    assert_eq!(events["count"], 0, "a preview stores nothing");

    // A second submission of the form is the same event. That of another preview is another one.
    let fields = confirmation(&preview);
    let id = hidden(&preview, "id");
    for _ in 0..2 {
        let done = confirm(&visitor, &fields).await;
        let path = format!("/console/events/{id}");
        assert_eq!((done.status, done.header("location")), (303, path.as_str()), "{done:?}");
        assert_eq!(visitor.get(&path).await.status, 200);
    }
    let events = service.api().get("/events").await.expect("an answer");
    assert_eq!(events["count"], 1, "{events:#}");
    let event = service.api().get(&format!("/events/{id}")).await.expect("an answer");
    let expected: Value = serde_json::from_str(payload).expect("JSON");
    assert_eq!(event["payload"], expected);
    assert_eq!(event["target"], json!({"gatewayIds": [berlin]}));
    assert_eq!(
        (&event["collapseKey"], &event["correlationId"], &event["userId"]),
        (&json!("dark mode"), &json!("c-1"), &json!("ops"))
    );
    assert!(event["expiresAt"].is_string(), "{event:#}");
    let another = visitor.submit(PATH, &typed).await;
    assert_eq!(confirm(&visitor, &confirmation(&another)).await.status, 303);
    let events = service.api().get("/events").await.expect("an answer");
    assert_eq!(events["count"], 2, "{events:#}");

    // What was typed is in the form again.
    let typed = [&typed[..1], &[("step", "edit")], &typed[2..]].concat();
    let edited = visitor.submit(PATH, &typed).await;
    assert_eq!(edited.status, 200, "{edited:?}");
    assert!(edited.says("value=\"dark &quot;mode&quot;\"") && edited.says("[1.50]"), "{edited:?}");
}

#[tokio::test]
async fn a_refused_event_keeps_what_was_typed() {
    let service = Service::start_with(&[("LIMITS__EVENT_BYTES", "150KiB")]).await;
    register_flag(&service).await;
    service.gateway("berlin").await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let base = [("type", "flag.changed"), ("step", "preview"), ("to", "all")];
    let refused = async |fields: &[(&str, &str)], status: u16, says: &str| {
        let page = visitor.submit(PATH, &[&base[..], fields].concat()).await;
        assert_eq!(page.status, status, "{fields:?}: {page:?}");
        assert!(page.says(says) && page.says("class=\"sheet\""), "{says}: {page:?}");
        page
    };
    let wrong = [("member:flag", "<dark>"), ("member:share", "many"), ("userId", "ops")];
    let page = refused(&wrong, 422, "must be a whole number").await;
    assert!(page.says("value=\"&lt;dark&gt;\"") && page.says("value=\"many\""), "{page:?}");
    assert!(page.says("value=\"ops\"") && page.says("aria-invalid=\"true\""), "{page:?}");
    let page = refused(&[("member:flag", "dark"), ("member:share", "101")], 422, "100").await;
    assert!(page.says("is a required property"), "the schema's own errors: {page:?}");
    refused(&[("payload", "{\"flag\": ")], 422, "is not JSON").await;
    refused(&[("payload", "{\"flag\": 1}"), ("member:flag", "x")], 422, "give it once").await;
    let fits = [("member:flag", "dark"), ("member:on", "false")];
    refused(&[&fits[..], &[("ttlSeconds", "soon")]].concat(), 422, "whole number").await;
    refused(&[&fits[..], &[("ttlSeconds", "0")]].concat(), 422, "must be 1 to").await;
    refused(&[&fits[..], &[("correlationId", "a b")]].concat(), 422, "without blanks").await;

    // Targets.
    let to = async |fields: &[(&str, &str)], status: u16, says: &str| {
        let base = [("type", "flag.changed"), ("step", "preview")];
        let page = visitor.submit(PATH, &[&base[..], &fits, fields].concat()).await;
        assert_eq!(page.status, status, "{fields:?}: {page:?}");
        assert!(page.says(says), "{says}: {page:?}");
    };
    to(&[("to", "gateways")], 422, "must name at least one gateway").await;
    to(&[("to", "gateways"), ("gateways", "nowhere")], 422, "no gateway is named").await;
    to(&[("to", "labels"), ("labels", "eu")], 422, "must be name=value").await;
    to(&[("to", "labels"), ("labels", "region=mars")], 200, "No gateway matches").await;
    to(&[("to", "all")], 200, "Publish for 1 gateway").await;

    // A form may be as large as an event; a payload that is larger is refused by the API.
    let large = format!("{{\"flag\": \"{}\", \"on\": true}}", "<".repeat(140 * 1024));
    let page = visitor.submit(PATH, &[&base[..], &[("payload", &large)]].concat()).await;
    assert!(page.status == 200 && page.says("Publish for 1 gateway"), "{}", page.status);
    let large = format!("{{\"flag\": \"{}\", \"on\": true}}", "<".repeat(200 * 1024));
    let page = refused(&[("payload", &large)], 413, "limits.event_bytes").await;
    assert!(page.says(&"&lt;".repeat(200 * 1024)), "what was typed is kept");
    let unknown = [("type", "no.such"), ("step", "preview"), ("to", "all")];
    let page = visitor.submit(PATH, &unknown).await;
    assert!(page.status == 422 && page.says("not registered"), "{page:?}");
    let events = service.api().get("/events").await.expect("an answer");
    assert_eq!(events["count"], 0, "nothing was stored");
}

#[tokio::test]
async fn a_type_without_a_schema_takes_json_and_a_stale_confirmation_is_refused() {
    let service = Service::start().await;
    service.api().put("/event-types/plain.type", &json!({})).await.expect("registered");
    service.gateway("berlin").await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let page = visitor.get("/console/publish?type=plain.type").await;
    assert!(!page.says("member:") && page.says("JSON object"), "{page:?}");
    let typed = [
        ("type", "plain.type"),
        ("step", "preview"),
        ("to", "all"),
        ("payload", "{\"a\" : 1.0,\r\n\"b\":[]}"),
    ];
    let preview = visitor.submit(PATH, &typed).await;
    let fields = confirmation(&preview);
    // The type is deleted between the two steps.
    service.api().delete("/event-types/plain.type").await.expect("deleted");
    let refused = confirm(&visitor, &fields).await;
    assert!(refused.status == 422 && refused.says("not registered"), "{refused:?}");
    assert!(refused.says("{&quot;a&quot; : 1.0"), "what was typed is kept: {refused:?}");
    service.api().put("/event-types/plain.type", &json!({})).await.expect("registered");
    assert_eq!(confirm(&visitor, &fields).await.status, 303);
    let id = hidden(&preview, "id");
    let event = service.caller(Some(&service.token)).get(&format!("/events/{id}")).await;
    assert!(
        event.body.contains("{\"a\" : 1.0,\\n\"b\":[]}")
            || event.body.contains("{\"a\" : 1.0,\n\"b\":[]}"),
        "{}",
        event.body
    );
    // Other content under the same id is another event, which is refused.
    let changed: Vec<(String, String)> = fields
        .into_iter()
        .map(
            |(name, value)| if name == "payload" { (name, "{}".to_owned()) } else { (name, value) },
        )
        .collect();
    let refused = confirm(&visitor, &changed).await;
    assert!(refused.status == 409 && refused.says("different content"), "{refused:?}");
}

#[tokio::test]
async fn publishing_needs_its_scope() {
    let service = Service::start().await;
    let reader = Visitor::scoped(&service, &["read", "admin"]).await;
    assert!(!reader.get("/console").await.says("href=\"/console/publish\""));
    assert!(!reader.get("/console/event-types/api.deployed").await.says("/console/publish"));
    for page in [
        reader.get(PATH).await,
        reader.get("/console/publish?type=api.deployed").await,
        reader.submit(PATH, &[("type", "api.deployed"), ("step", "preview")]).await,
    ] {
        assert!(page.status == 403 && page.says("lacks the scope `publish`"), "{page:?}");
    }
    let publisher = Visitor::scoped(&service, &["read", "publish"]).await;
    assert!(publisher.get("/console").await.says("href=\"/console/publish\""));
    assert_eq!(publisher.get("/console/publish?type=api.deployed").await.status, 200);
}

#[tokio::test]
async fn a_confirmation_that_may_have_been_stored_keeps_its_id() {
    let backend = Backend::Postgres(Database::alone());
    let service = backend.start().await;
    service.gateway("berlin").await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let typed = [
        ("type", "gateway.config.updated"),
        ("step", "preview"),
        ("to", "all"),
        ("member:configType", "cache"),
        ("member:action", "update"),
    ];
    let preview = visitor.submit(PATH, &typed).await;
    let (fields, id) = (confirmation(&preview), hidden(&preview, "id"));
    let Backend::Postgres(database) = &backend else { unreachable!("it is Postgres") };
    database.control("stop -m immediate");
    let failed = confirm(&visitor, &fields).await;
    assert!(failed.status == 503 && failed.says("Submit again") && failed.says(&id), "{failed:?}");
    database.control("start");
    visitor.until("/console/events", |page| page.status == 200).await;
    let done = confirm(&visitor, &fields).await;
    assert_eq!(done.header("location"), format!("/console/events/{id}"), "{done:?}");
}
