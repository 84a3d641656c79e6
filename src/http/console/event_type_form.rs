//! Registering an event type, and changing one.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};
use serde_json::value::RawValue;

use super::super::event_types;
use super::super::extract::Path;
use super::super::problem::{Answer, Problem};
use super::super::query::Query;
use super::components::hidden;
use super::event_types::path;
use super::fields::{Fields, Reader, SHOWN, digest, field, refuse_outdated};
use super::form::{Submission, TOKEN};
use super::layout::{self, Section};
use super::pairs::Pairs;
use super::text::visible_json;
use super::visit::{Key, Visit};
use crate::api::{Code, EventTypeDefinition, EventTypeInfo};

/// The longest schema that is changed here, in bytes. A form has at most 64 KiB, and percent-encoding
/// can triple a text.
const LONGEST_SCHEMA: usize = 16 * 1024;

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
        @if let Some(problem) = problem { (layout::refusal(problem)) }
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
    (schema.len() <= LONGEST_SCHEMA).then(|| {
        Pairs::default()
            .and("description", of.description.as_str())
            .and("ttlSeconds", of.ttl_seconds.map(|secs| secs.to_string()).unwrap_or_default())
            .and("barrier", if of.barrier { "true" } else { "" })
            .and("schema", visible_json(schema))
    })
}

fn definition(fields: &Pairs) -> Answer<EventTypeDefinition> {
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

/// Registers a type. One that exists is not replaced.
pub(super) async fn register(submission: Submission) -> Response {
    let (visit, fields) = (&submission.visit, &submission.fields);
    let registered = async {
        visit.session.admin()?;
        let name = fields.get("name");
        if name.is_empty() {
            return Err(Problem::invalid("name", "is required"));
        }
        let (reader, key) = (visit.session.reader()?, Path(name.to_owned()));
        match event_types::show(visit.state(), reader, key, Query(())).await {
            Ok(_) => {
                let why = "An event type of this name is registered. Change it on its own page.";
                return Err(Problem::new(Code::Conflict, why));
            }
            Err(problem) if problem.code() == "not_found" => {}
            Err(problem) => return Err(problem),
        }
        put(visit, name, definition(fields)?).await
    };
    match registered.await {
        Ok(()) => to(fields.get("name")),
        Err(problem) => match super::event_types::list(visit, fields, Some(&problem)).await {
            Ok(view) if visit.session.is_admin() => {
                visit.again(Section::EventTypes, &problem, &view)
            }
            _ => submission.refused(&problem),
        },
    }
}

/// Stores the definition that was typed.
pub(super) async fn save(Key(name): Key<String>, submission: Submission) -> Response {
    let (visit, fields) = (&submission.visit, &submission.fields);
    let saved = async {
        visit.session.admin()?;
        let (reader, key) = (visit.session.reader()?, Path(name.clone()));
        let shown = event_types::show(visit.state(), reader, key, Query(())).await?.0;
        refuse_outdated(fields, &shown)?;
        put(visit, &name, definition(fields)?).await
    };
    match saved.await {
        Ok(()) => to(&name),
        Err(problem) => submission.refused(&problem),
    }
}

async fn put(visit: &Visit, name: &str, definition: EventTypeDefinition) -> Answer<()> {
    let (actor, source) = (visit.session.admin()?.0, visit.session.source());
    event_types::define(&visit.app, &actor, &source, name, definition).await.map(|_| ())
}

fn to(name: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, path(name))]).into_response()
}
