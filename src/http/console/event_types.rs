//! Event types and their schemas.

use axum::response::Response;
use maud::{Markup, html};
use serde_json::value::RawValue;

use super::super::event_types;
use super::super::extract::Path;
use super::super::problem::{Answer, Problem};
use super::super::query::Query;
use super::components::{facts, table, text};
use super::event_type_form;
use super::layout::{Call, Section};
use super::pairs::{Pairs, encode};
use super::text::{none, pretty, said, span};
use super::visit::{Key, View, Visit};
use crate::api::EventTypeInfo;
use crate::store::Scope;

/// The parameter of the list with the name that the form is filled with.
pub(super) const REGISTER: &str = "register";

pub(super) async fn page(visit: Visit) -> Response {
    let values = Pairs::default().and("name", visit.query.get(REGISTER));
    let view = list(&visit, &values, None).await;
    visit.respond(Section::EventTypes, view)
}

/// The list, with the form that registers a type.
pub(super) async fn list(visit: &Visit, values: &Pairs, problem: Option<&Problem>) -> Answer<View> {
    let page = event_types::list(visit.state(), visit.session.reader()?, Query(())).await?.0;
    let rows: Vec<Vec<Markup>> = page
        .list
        .iter()
        .map(|of| {
            vec![
                html! { a href=(path(&of.name)) { code { (super::text::short(&of.name, 80)) } } },
                said(&of.description),
                lifetime(of),
                html! { @if of.barrier { "yes" } @else { (none()) } },
            ]
        })
        .collect();
    let columns = [text("Type"), text("Meaning"), text("Expires after"), text("Barrier")];
    let body = html! {
        h1 { "Event types" }
        p.hint { "A published event must have a type of this list, and a payload that its schema accepts." }
        (table("Event types by name", &columns, &rows))
        @if visit.session.is_admin() {
            section aria-labelledby="register" {
                h2 #register { "Register an event type" }
                (event_type_form::form(visit, values, problem, None))
            }
        }
    };
    let calls = vec![Call::get("/event-types", &Pairs::default())];
    Ok(View { title: "Event types".to_owned(), calls, body })
}

/// The path of a type's page.
pub(super) fn path(name: &str) -> String {
    format!("/console/event-types/{}", encode(name))
}

fn lifetime(of: &EventTypeInfo) -> Markup {
    of.ttl_seconds.map_or_else(none, |secs| html! { (span(secs)) })
}

pub(super) async fn one(visit: Visit, Key(name): Key<String>) -> Response {
    let view = shown(&visit, name).await;
    visit.respond(Section::EventTypes, view)
}

async fn shown(visit: &Visit, name: String) -> Answer<View> {
    let call = Call::get(format!("/event-types/{}", encode(&name)), &Pairs::default());
    let reader = visit.session.reader()?;
    let of = event_types::show(visit.state(), reader, Path(name), Query(())).await?.0;
    let published = Pairs::default().with("type", of.name.as_str());
    let body = html! {
        p.up { a href="/console/event-types" { "Event types" } }
        h1 { code { (of.name) } }
        p { (said(&of.description)) }
        @if visit.session.can(Scope::Publish) {
            p { a href=(Pairs::default().with("type", of.name.as_str()).after("/console/publish")) { "Publish an event of this type" } }
        }
        (facts(&[
            ("Expires after", lifetime(&of)),
            ("Barrier", html! { @if of.barrier { "Events before and after one of this type never supersede one another." } @else { (none()) } }),
            ("Events", html! { a href=(published.after("/console/events")) { "of the last 24 hours" } }),
            ("Failures", html! { a href=(published.after("/console/failures")) { "of the last 24 hours" } }),
        ]))
        (schema("schema", "Schema", of.schema.as_deref()))
        @if of.built_in_schema.is_some() {
            (schema("built-in", "Schema of the built-in type, which payloads must also satisfy", of.built_in_schema.as_deref()))
        }
        @if visit.session.is_admin() { (change(visit, &of)) }
    };
    Ok(View { title: of.name.clone(), calls: vec![call], body })
}

/// The form that changes it.
fn change(visit: &Visit, of: &EventTypeInfo) -> Markup {
    html! {
        section.actions aria-labelledby="actions" {
            h2 #actions { "Actions" }
            @match event_type_form::values(of) {
                Some(values) => details {
                    summary { "Change the type" }
                    (event_type_form::form(visit, &values, None, Some(of)))
                },
                None => p.hint { "Its schema is too long for a form. Change it with " code { "gateway-events event-type put" } "." },
            }
        }
    }
}

/// A schema, or that there is none.
pub(super) fn schema(id: &str, title: &str, schema: Option<&RawValue>) -> Markup {
    let code = format!("{id}-text");
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (title) }
            @match schema {
                Some(schema) => div.command {
                    pre tabindex="0" { code id=(code) { (pretty(schema)) } }
                    button type="button" hidden data-copy=(code) { "Copy" }
                },
                None => p.hint { "It has none: any JSON object is a valid payload." },
            }
        }
    }
}
