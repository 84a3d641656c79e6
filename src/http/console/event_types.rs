//! Event types and their schemas.

use std::sync::Arc;

use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde_json::value::RawValue;

use super::super::event_types;
use super::super::extract::Path;
use super::super::problem::{HandlerResult, Problem};
use super::super::publish::Publishing;
use super::super::query::Query;
use super::components::{facts, table, text};
use super::event_type_form;
use super::fields::refuse_outdated;
use super::form::Submission;
use super::layout::{self, Call, Section, refusal};
use super::pairs::{Pairs, encode};
use super::text::{none, pretty, said, span};
use super::visit::{Key, View, Visit};
use crate::api::{Code, EventTypeDefinition, EventTypeInfo};
use crate::store::Scope;

/// The parameter of the list with the name that the form is filled with.
const REGISTER: &str = "register";

pub(super) async fn page(visit: Visit) -> Response {
    let values = Pairs::default().and("name", visit.query.get(REGISTER));
    let view = list(&visit, &values, None).await;
    visit.respond(Section::EventTypes, view)
}

/// Where the form is filled with a name.
pub(super) fn registration(name: &str) -> String {
    let page = Pairs::default().with(REGISTER, name).after("/console/event-types");
    format!("{page}#register")
}

/// The list, with the form that registers a type.
pub(super) async fn list(
    visit: &Visit,
    values: &Pairs,
    problem: Option<&Problem>,
) -> HandlerResult<View> {
    let page = event_types::list(visit.part(), visit.session.reader()?, Query(())).await?.0;
    let rows: Vec<Vec<Markup>> = page
        .list
        .iter()
        .map(|of| {
            vec![
                html! { a href=(event_type_form::path(&of.name)) { code { (super::text::short(&of.name, 80)) } } },
                said(&of.description),
                lifetime(of),
                html! { @if of.barrier { "yes" } @else { (none()) } },
            ]
        })
        .collect();
    let columns = [text("Type"), text("Meaning"), text("Expires after"), text("Barrier")];
    let body = html! {
        h1 { "Event types" }
        @if let Some(problem) = problem { (layout::refusal(problem)) }
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

fn lifetime(of: &EventTypeInfo) -> Markup {
    of.ttl_seconds.map_or_else(none, |secs| html! { (span(secs)) })
}

pub(super) async fn one(visit: Visit, Key(name): Key<String>) -> Response {
    let view = shown(&visit, name, None).await;
    visit.respond(Section::EventTypes, view)
}

/// A type, and what was typed into its form if that was refused.
async fn shown(
    visit: &Visit,
    name: String,
    typed: Option<(&Pairs, &Problem)>,
) -> HandlerResult<View> {
    let call = Call::get(format!("/event-types/{}", encode(&name)), &Pairs::default());
    let reader = visit.session.reader()?;
    let of = event_types::show(visit.part(), reader, Path(name), Query(())).await?.0;
    let published = Pairs::default().with("type", of.name.as_str());
    let body = html! {
        p.up { a href="/console/event-types" { "Event types" } }
        h1 { code { (of.name) } }
        @if let Some((_, problem)) = typed { (refusal(problem)) }
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
        @if visit.session.is_admin() { (change(visit, &of, typed)) }
    };
    Ok(View { title: of.name.clone(), calls: vec![call], body })
}

/// The form that changes it.
fn change(visit: &Visit, of: &EventTypeInfo, typed: Option<(&Pairs, &Problem)>) -> Markup {
    let values = typed.map(|(values, _)| values.clone()).or_else(|| event_type_form::values(of));
    let problem = typed.map(|(_, problem)| problem);
    html! {
        section.actions aria-labelledby="actions" {
            h2 #actions { "Actions" }
            @match values {
                Some(values) => details open[problem.is_some()] {
                    summary { "Change the type" }
                    (event_type_form::form(visit, &values, problem, Some(of)))
                },
                None => p.hint { "Its schema is too long for a form. Change it with " code { "gateway-events event-type put" } "." },
            }
        }
    }
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
        match event_types::show(visit.part(), reader, key, Query(())).await {
            Ok(_) => {
                let why = "An event type of this name is registered. Change it on its own page.";
                return Err(Problem::new(Code::Conflict, why));
            }
            Err(problem) if problem.code() == "not_found" => {}
            Err(problem) => return Err(problem),
        }
        put(visit, name, event_type_form::definition(fields)?).await
    };
    match registered.await {
        Ok(()) => to(fields.get("name")),
        Err(problem) => match list(visit, fields, Some(&problem)).await {
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
        let shown = event_types::show(visit.part(), reader, key, Query(())).await?.0;
        refuse_outdated(fields, &shown)?;
        put(visit, &name, event_type_form::definition(fields)?).await
    };
    match saved.await {
        Ok(()) => to(&name),
        Err(problem) if ["invalid", "conflict"].contains(&problem.code()) => {
            match shown(visit, name, Some((fields, &problem))).await {
                Ok(view) => visit.again(Section::EventTypes, &problem, &view),
                Err(_) => submission.refused(&problem),
            }
        }
        Err(problem) => submission.refused(&problem),
    }
}

async fn put(visit: &Visit, name: &str, definition: EventTypeDefinition) -> HandlerResult<()> {
    let (actor, source) = (visit.session.admin()?.0, visit.session.source());
    let publishing: Arc<Publishing> = visit.state.get();
    event_types::define(&publishing, &actor, &source, name, definition).await.map(|_| ())
}

fn to(name: &str) -> Response {
    Redirect::to(&event_type_form::path(name)).into_response()
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
