//! The form that registers an event type or changes one, and what was typed in it.

use maud::{Markup, html};
use serde_json::value::RawValue;

use super::super::problem::{HandlerResult, Problem};
use super::components::hidden;
use super::fields::{Fields, Reader, SHOWN, digest, field};
use super::form::TOKEN;
use super::pairs::{Pairs, encode};
use super::text::visible_json;
use super::visit::Visit;
use crate::api::{EventTypeDefinition, EventTypeInfo};

/// The longest schema that is changed here, in bytes. A form has at most 64 KiB, and percent-encoding
/// can triple a text.
const MAX_SCHEMA_BYTES: usize = 16 * 1024;

/// The path of a type's page.
pub(super) fn path(name: &str) -> String {
    format!("/console/event-types/{}", encode(name))
}

/// The form of a new type, or of the one that is shown.
pub(super) fn form(
    visit: &Visit,
    values: &Pairs,
    problem: Option<&Problem>,
    shown: Option<&EventTypeInfo>,
) -> Markup {
    let errors = problem.map(|it| it.clone().into_document().errors).unwrap_or_default();
    let fields = Fields::new(values, &errors);
    let action = shown.map_or_else(|| "/console/event-types".to_owned(), |of| path(&of.name));
    html! {
        form.sheet method="post" action=(action) {
            (hidden(TOKEN, &visit.session.id.form_token()))
            @if let Some(of) = shown { (hidden(SHOWN, &digest(of))) }
            div.grid {
                @if shown.is_none() {
                    (fields.text(&field("name", "Name").hint("Such as plan.changed. Publishers and gateways use it."), 128))
                }
                (fields.text(&field("description", "What it means to a gateway"), 1000))
                (fields.number(&field("ttlSeconds", "Expires after, in seconds").hint("Of events without a time to live of their own. If empty, they don't expire.")))
                (fields.choice(&field("barrier", "Barrier").hint("Events before and after one of this type never supersede one another."), &[("", "no"), ("true", "yes")]))
            }
            (fields.area(&field("schema", "JSON Schema of its payloads").hint("If empty, any JSON object is a valid payload."), 6))
            div.buttons {
                button.primary type="submit" { @if shown.is_none() { "Register the type" } @else { "Save the type" } }
            }
        }
    }
}

/// The values of a type's form; `None` if its schema is too large for one.
pub(super) fn values(of: &EventTypeInfo) -> Option<Pairs> {
    let schema = of.schema.as_deref().map_or("", RawValue::get);
    (schema.len() <= MAX_SCHEMA_BYTES).then(|| {
        Pairs::default()
            .and("description", of.description.as_str())
            .and("ttlSeconds", of.ttl_seconds.map(|secs| secs.to_string()).unwrap_or_default())
            .and("barrier", if of.barrier { "true" } else { "" })
            .and("schema", visible_json(schema))
    })
}

/// The definition that was typed.
pub(super) fn definition(fields: &Pairs) -> HandlerResult<EventTypeDefinition> {
    let mut reader = Reader::new(fields);
    let schema = match reader.text("schema") {
        None => None,
        Some(text) => match RawValue::from_string(text) {
            Ok(schema) => Some(schema),
            Err(error) => {
                reader.wrong("schema", format!("is not JSON: {error}"));
                None
            }
        },
    };
    let definition = EventTypeDefinition {
        description: reader.text("description").unwrap_or_default(),
        schema,
        ttl_seconds: reader.number("ttlSeconds"),
        barrier: fields.get("barrier") == "true",
    };
    reader.finish(definition)
}
