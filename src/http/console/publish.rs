//! Publishing an event: choose its type, fill in the form, look at the preview, confirm. The preview
//! chooses the event's id, so a confirmation that is sent twice publishes once.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde_json::value::RawValue;

use super::super::events::{self, PublishResponse};
use super::super::extract::Path;
use super::super::problem::{HandlerResult, Problem};
use super::super::publish::Publishing;
use super::super::query::Query;
use super::super::{auth, event_types};
use super::components::{event_path, facts, hidden};
use super::event_types::schema;
use super::fields::{Fields, Reader, field};
use super::form::{Submission, TOKEN};
use super::layout::{self, Call, Section};
use super::pairs::{Pairs, encode};
use super::republish;
use super::text::{escapes, none, number, pretty, said, span, visible_json};
use super::visit::{View, Visit};
use crate::api::{EventTypeInfo, NewEvent};
use crate::event::{CollapseKey, CorrelationId, EventId, EventType};

mod payload;
mod target;

use payload::Member;
use target::Aim;

/// The page's path.
const PATH: &str = "/console/publish";
/// Fields of the form that a confirmation repeats, besides the payload and the target.
const OPTIONS: [&str; 5] = ["type", "ttlSeconds", "collapseKey", "correlationId", "userId"];

/// The form, once a type is chosen.
pub(super) async fn page(visit: Visit) -> Response {
    let view = chosen(&visit).await;
    visit.respond(Section::Publish, view)
}

async fn chosen(visit: &Visit) -> HandlerResult<View> {
    visit.session.publisher()?;
    let name = visit.query.get("type");
    if !visit.query.get(republish::AGAIN).is_empty() {
        return again_of(visit).await;
    }
    if name.is_empty() {
        let body = html! {
            h1 { "Publish an event" }
            (chooser(visit, "").await?)
        };
        let calls = vec![Call::get("/event-types", &Pairs::default())];
        return Ok(View { title: "Publish an event".to_owned(), calls, body });
    }
    let info = show_type(visit, name).await?;
    let values = Pairs::default().with("type", name).with("to", "gateways");
    Ok(View {
        title: title(name),
        calls: type_call(name),
        body: form(visit, &values, info.as_ref(), None).await?,
    })
}

/// The form with the content of an event that was published before.
async fn again_of(visit: &Visit) -> HandlerResult<View> {
    let old = republish::old(visit).await?;
    let name = old.event_type.as_str();
    let info = show_type(visit, name).await?;
    let values = republish::values(&old, visit.query.get("gateway"));
    let mut calls = type_call(name);
    calls.push(Call::get(format!("/events/{}", encode(old.id.as_str())), &Pairs::default()));
    let body = html! {
        (republish::notice(&old))
        (form(visit, &values, info.as_ref(), None).await?)
    };
    Ok(View { title: title(name), calls, body })
}

fn title(name: &str) -> String {
    format!("Publish {}", super::text::short(name, 80))
}

fn type_call(name: &str) -> Vec<Call> {
    vec![Call::get(format!("/event-types/{}", encode(name)), &Pairs::default())]
}

/// The type of this name, if it is registered.
async fn show_type(visit: &Visit, name: &str) -> HandlerResult<Option<EventTypeInfo>> {
    let reader = visit.session.reader()?;
    match event_types::show(visit.part(), reader, Path(name.to_owned()), Query(())).await {
        Ok(info) => Ok(Some(info.0)),
        Err(problem) if matches!(problem.code(), "not_found" | "invalid") => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// The choice of a type.
async fn chooser(visit: &Visit, chosen: &str) -> HandlerResult<Markup> {
    let page = event_types::list(visit.part(), visit.session.reader()?, Query(())).await?.0;
    Ok(html! {
        form.inline method="get" action=(PATH) aria-label="Event type" {
            div.field.wide {
                label for="type" { "Event type" }
                select #type name="type" required {
                    @for of in &page.list {
                        option value=(of.name) selected[of.name == chosen] { (super::text::short(&of.name, 80)) }
                    }
                }
            }
            button type="submit" { @if chosen.is_empty() { "Continue" } @else { "Change the type" } }
        }
        @if chosen.is_empty() {
            p.hint {
                "The next page has a form for the members of its payload. To publish events of a new type, "
                a href="/console/event-types" { "register it" } " first."
            }
        }
    })
}

/// The form with what was typed, and what is wrong with it.
async fn form(
    visit: &Visit,
    values: &Pairs,
    info: Option<&EventTypeInfo>,
    problem: Option<&Problem>,
) -> HandlerResult<Markup> {
    let name = values.get("type");
    let is_whole = !values.get(republish::WHOLE).is_empty();
    let members = info.filter(|_| !is_whole).map(payload::members).unwrap_or_default();
    let errors = problem.map(|problem| problem.clone().into_document().errors).unwrap_or_default();
    let fields = Fields::new(values, &errors);
    Ok(html! {
        h1 { "Publish " code { (super::text::short(name, 80)) } }
        @if let Some(problem) = problem { (layout::refusal(problem)) }
        (chooser(visit, name).await?)
        @match info {
            Some(info) => (about(info)),
            None => div.notice.bad { p { "This event type is not registered. Choose another one, or " a href=(super::event_types::registration(name)) { "register it" } "." } },
        }
        (inputs(visit, &fields, name, &members))
    })
}

/// What the type means, and its schemas.
fn about(info: &EventTypeInfo) -> Markup {
    html! {
        @if !info.description.is_empty() { p { (said(&info.description)) } }
        details.about {
            summary { "Schema of its payloads" }
            (schema("schema", "Schema", info.schema.as_deref()))
            @if info.built_in_schema.is_some() {
                (schema("built-in", "Schema of the built-in type, which payloads must also satisfy", info.built_in_schema.as_deref()))
            }
        }
    }
}

fn inputs(visit: &Visit, fields: &Fields<'_>, name: &str, members: &[Member]) -> Markup {
    html! {
        form.sheet method="post" action=(PATH) {
            (hidden(TOKEN, &visit.session.id.form_token()))
            (hidden("type", name))
            (hidden("step", "preview"))
            @if members.is_empty() { (hidden(republish::WHOLE, "yes")) }
            fieldset {
                legend { "Payload" }
                (payload::controls(fields, members))
            }
            fieldset {
                legend { "Target" }
                (target::controls(fields))
            }
            fieldset {
                legend { "Options" }
                div.grid {
                    (fields.number(&field("ttlSeconds", "Expires after, in seconds").hint("Not delivered afterwards. If empty, the type decides.")))
                    (fields.text(&field("collapseKey", "Collapse key").hint("A gateway that was away receives only the newest unsent event of this type and key."), 256))
                    (fields.text(&field("correlationId", "Correlation id").hint("Gateways recognise repeats by it. If empty, it is the event's id."), 64))
                    (fields.text(&field("userId", "User id").hint("The user on whose behalf it is published."), 256))
                }
            }
            div.buttons {
                button.primary type="submit" { "Preview" }
                span.hint { "Shows the matching gateways and the exact payload first." }
            }
        }
    }
}

/// The preview, or the confirmed event.
pub(super) async fn submit(submission: Submission) -> Response {
    let (visit, fields) = (&submission.visit, &submission.fields);
    let publisher = match visit.session.publisher() {
        Ok(publisher) => publisher,
        Err(problem) => return submission.refused(&problem),
    };
    let info = match show_type(visit, fields.get("type")).await {
        Ok(info) => info,
        Err(problem) => return submission.refused(&problem),
    };
    let done = match fields.get("step") {
        "preview" => preview(visit, fields, info.as_ref(), publisher).await,
        "confirmed" => publish(visit, fields, publisher).await,
        "edit" => again(visit, fields, info.as_ref(), None).await,
        _ => Err(Problem::invalid("step", "must be preview, edit or confirmed")),
    };
    match done {
        Ok(response) => response,
        // It may have been stored. The same confirmation is safe; a new preview has another id.
        Err(problem) if fields.get("step") == "confirmed" && problem.status().is_server_error() => {
            submission.refused(&problem)
        }
        Err(problem) => match again(visit, fields, info.as_ref(), Some(&problem)).await {
            Ok(response) => response,
            Err(_) => submission.refused(&problem),
        },
    }
}

/// The form with what was typed.
async fn again(
    visit: &Visit,
    fields: &Pairs,
    info: Option<&EventTypeInfo>,
    problem: Option<&Problem>,
) -> HandlerResult<Response> {
    let name = fields.get("type");
    let body = form(visit, fields, info, problem).await?;
    let view = View { title: title(name), calls: type_call(name), body };
    Ok(match problem {
        Some(problem) => visit.again(Section::Publish, problem, &view),
        None => visit.page(Section::Publish, StatusCode::OK, &view),
    })
}

/// The event that was typed.
fn event(
    fields: &Pairs,
    payload: Box<RawValue>,
    aim: &Aim,
    id: EventId,
) -> HandlerResult<NewEvent> {
    let mut reader = Reader::new(fields);
    let event_type: Option<EventType> = reader.parsed("type");
    let Some(event_type) = event_type else {
        reader.wrong("type", "is required");
        return reader.finish(()).and_then(|()| Err(Problem::internal()));
    };
    let event = NewEvent {
        target: Some(aim.target()),
        id: Some(id),
        ttl_seconds: reader.number("ttlSeconds"),
        collapse_key: reader.parsed::<CollapseKey>("collapseKey"),
        correlation_id: reader.parsed::<CorrelationId>("correlationId"),
        user_id: reader.text("userId"),
        ..NewEvent::new(event_type, payload)
    };
    reader.finish(event)
}

/// Shows the matching gateways and the exact event. Nothing is stored.
async fn preview(
    visit: &Visit,
    fields: &Pairs,
    info: Option<&EventTypeInfo>,
    publisher: auth::Publisher,
) -> HandlerResult<Response> {
    let members = info.map(payload::members).unwrap_or_default();
    let payload = payload::compose(fields, &members).map_err(Problem::invalid_fields)?;
    let aim = Aim::read(visit, fields).await?;
    let id = EventId::new(uuid::Uuid::now_v7().to_string()).map_err(|_| Problem::internal())?;
    let event = event(fields, payload, &aim, id)?;
    let publishing: Arc<Publishing> = visit.state.get();
    events::check(&publishing, publisher, &event).await?;
    let confirmed = confirmation(&aim.fixed(fields), &event);
    let matched = aim.matched(visit).await?;
    let call = Call::post("/events", &event);
    let name = event.event_type.as_str();
    let body = html! {
        h1 { "Publish " code { (super::text::short(name, 80)) } ": preview" }
        p { "Nothing is published yet." }
        h2 { "Target" }
        (matched.part())
        (content(&event, info))
        div.inline {
            form method="post" action=(PATH) {
                (hidden(TOKEN, &visit.session.id.form_token()))
                @for (name, value) in confirmed.iter() { (hidden(name, value)) }
                button.primary type="submit" { "Publish for " (matched.words()) }
            }
            form method="post" action=(PATH) {
                (hidden(TOKEN, &visit.session.id.form_token()))
                @for (name, value) in fields.with("step", "edit").with(TOKEN, "").iter() { (hidden(name, value)) }
                button type="submit" { "Change it" }
            }
        }
    };
    let view = View { title: format!("{}: preview", title(name)), calls: vec![call], body };
    Ok(visit.page(Section::Publish, StatusCode::OK, &view))
}

/// The fields of the confirmation: the event as the preview shows it.
fn confirmation(fixed: &Pairs, event: &NewEvent) -> Pairs {
    let kept = OPTIONS.iter().chain(&["to", "gateways", "labels"]);
    let kept = kept.fold(Pairs::default(), |pairs, name| pairs.and(name, fixed.get(name)));
    let id = event.id.as_ref().map_or("", EventId::as_str);
    kept.and("step", "confirmed").and("id", id).and("payload", event.payload.get())
}

/// What is sent.
fn content(event: &NewEvent, info: Option<&EventTypeInfo>) -> Markup {
    let raw = event.payload.get();
    let text = |text: Option<&str>| text.map_or_else(none, said);
    let expiry = match (event.ttl_seconds, info.and_then(|info| info.ttl_seconds)) {
        (Some(secs), _) => html! { "after " (span(secs)) },
        (None, Some(secs)) => html! { "after " (span(secs)) ", as all events of the type" },
        (None, None) => html! { "never" },
    };
    html! {
        h2 { "Event" }
        (facts(&[
            ("Event id", html! { code.id { (event.id.as_ref().map_or("", EventId::as_str)) } }),
            ("Expires", expiry),
            ("Collapse key", text(event.collapse_key.as_ref().map(CollapseKey::as_str))),
            ("Correlation id", text(event.correlation_id.as_ref().map(CorrelationId::as_str))),
            ("User", text(event.user_id.as_deref())),
        ]))
        div.command {
            pre tabindex="0" { code #payload-pretty { (pretty(&event.payload)) } }
            button type="button" hidden data-copy="payload-raw" { "Copy" }
        }
        details {
            summary { "Raw payload, " (number(raw.len())) " bytes" (escapes(raw)) }
            pre.raw tabindex="0" { code #payload-raw { (visible_json(raw)) } }
        }
    }
}

/// Publishes the event of a preview, and leads to its page.
async fn publish(
    visit: &Visit,
    fields: &Pairs,
    publisher: auth::Publisher,
) -> HandlerResult<Response> {
    let payload = payload::compose(fields, &[]).map_err(Problem::invalid_fields)?;
    let aim = Aim::read(visit, fields).await?;
    let id = EventId::new(fields.get("id"));
    let id = id.map_err(|error| Problem::invalid("id", error.to_string()))?;
    let event = event(fields, payload, &aim, id)?;
    let body = serde_json::to_vec(&event).map_err(|_| Problem::internal())?;
    let mut request = Request::new(Body::from(body));
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(header::CONTENT_TYPE, json);
    let (_, answer) =
        events::publish(visit.state(), visit.state(), visit.part(), publisher, Query(()), request)
            .await?;
    let PublishResponse::One(accepted) = answer.0 else { return Err(Problem::internal()) };
    let path = event_path(accepted.id.as_str());
    Ok(Redirect::to(&path).into_response())
}
