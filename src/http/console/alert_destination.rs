//! A destination of alerts: the forms that create, change, test and delete it. Its URL and its secret
//! are accepted, and never output.

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};

use super::super::alert_destinations;
use super::super::extract::{Json, Path};
use super::super::problem::{HandlerResult, Problem};
use super::super::query::Query;
use super::components::{facts, hidden};
use super::fields::{Fields, Reader, SHOWN, digest, field, refuse_outdated};
use super::form::{Submission, TOKEN};
use super::layout::{self, Call, Section};
use super::pairs::{Pairs, encode};
use super::text::{none, number, said, sentences, short, when};
use super::visit::{Key, View, Visit};
use crate::api::{
    AlertDestination, AlertDestinationDefinition, AlertDestinationKind, AlertDestinationSettings,
    AlertTest, SmtpTls,
};

/// The kinds, with what each is called.
const KINDS: [(AlertDestinationKind, &str); 4] = [
    (AlertDestinationKind::Webhook, "Webhook, with a signed JSON message"),
    (AlertDestinationKind::Slack, "Slack, or a compatible service"),
    (AlertDestinationKind::Email, "E-mail by SMTP"),
    (AlertDestinationKind::Alertmanager, "Prometheus Alertmanager"),
];
/// The ways to encrypt connections to an SMTP server.
const TLS: [(SmtpTls, &str); 3] =
    [(SmtpTls::Starttls, "starttls"), (SmtpTls::Implicit, "implicit"), (SmtpTls::None, "none")];

/// The path of a destination's page.
pub(super) fn path(id: &str) -> String {
    format!("/console/alerts/destinations/{}", encode(id))
}

/// The form of a new destination.
pub(super) async fn new(visit: Visit) -> Response {
    let values = Pairs::default().and("kind", "webhook");
    let view = new_view(&visit, &values, None);
    visit.respond(Section::Alerts, view)
}

fn new_view(visit: &Visit, values: &Pairs, problem: Option<&Problem>) -> HandlerResult<View> {
    visit.session.admin()?;
    let body = html! {
        p.up { a href="/console/alerts" { "Alerts" } }
        h1 { "New alert destination" }
        @if let Some(problem) = problem { (layout::refusal(problem)) (typed_again()) }
        (definition_form(visit, values, problem, None))
    };
    let calls = vec![Call::get("/alerts/destinations", &Pairs::default())];
    Ok(View { title: "New alert destination".to_owned(), calls, body })
}

/// What a refused form says about the fields that are empty again.
fn typed_again() -> Markup {
    html! { p.hint { "The URL and the secret are not shown again. If you typed them, type them once more." } }
}

/// Creates a destination.
pub(super) async fn create(submission: Submission) -> Response {
    let (visit, fields) = (&submission.visit, &submission.fields);
    let created = async {
        let admin = visit.session.admin()?;
        let mut definition = definition(fields)?;
        definition.id = Some(fields.get("id").to_owned()).filter(|id| !id.is_empty());
        let json = Json(definition);
        alert_destinations::create(visit.state(), visit.part(), admin, Query(()), json).await
    };
    match created.await {
        Ok((_, destination)) => stored(visit, &destination.0),
        Err(problem) => match new_view(visit, fields, Some(&problem)) {
            Ok(view) => visit.again(Section::Alerts, &problem, &view),
            Err(_) => submission.refused(&problem),
        },
    }
}

/// Leads to the destination, or shows its generated key first.
fn stored(visit: &Visit, destination: &AlertDestination) -> Response {
    let Some(secret) = &destination.secret else {
        return Redirect::to(&path(&destination.id)).into_response();
    };
    let body = html! {
        h1 { "Signing key" }
        div.notice.good role="status" {
            p { "The destination " (said(&destination.id)) " is stored. A signing key was generated." }
            p { "This is the only time that the key is shown. Copy it now; it can't be retrieved again." }
        }
        div.command.once {
            pre tabindex="0" { code #key { (secret) } }
            button type="button" hidden data-copy="key" { "Copy" }
        }
        p { "The receiver verifies the header " code { "webhook-signature" } " with it, as Standard Webhooks specifies." }
        p { a href=(path(&destination.id)) { "Continue to the destination" } }
    };
    let calls = vec![call(&destination.id)];
    let view = View { title: "Signing key".to_owned(), calls, body };
    visit.page(Section::Alerts, StatusCode::OK, &view)
}

fn call(id: &str) -> Call {
    Call::get(format!("/alerts/destinations/{}", encode(id)), &Pairs::default())
}

/// A destination.
pub(super) async fn page(visit: Visit, Key(id): Key<String>) -> Response {
    let view = async {
        let destination = shown(&visit, &id).await?;
        Ok(view(&visit, &destination, &values(&destination.settings), None))
    };
    let view = view.await;
    visit.respond(Section::Alerts, view)
}

async fn shown(visit: &Visit, id: &str) -> HandlerResult<AlertDestination> {
    let reader = visit.session.reader()?;
    Ok(alert_destinations::show(visit.part(), reader, Path(id.to_owned()), Query(())).await?.0)
}

fn view(
    visit: &Visit,
    destination: &AlertDestination,
    values: &Pairs,
    problem: Option<&Problem>,
) -> View {
    let (id, token) = (&destination.id, visit.session.id.form_token());
    let body = html! {
        p.up { a href="/console/alerts" { "Alerts" } }
        h1 { "Destination " span.id { (short(id, 64)) } }
        @if let Some(problem) = problem { (layout::refusal(problem)) (typed_again()) }
        (destination_facts(visit, destination))
        @if visit.session.is_admin() {
            section.actions aria-labelledby="actions" {
                h2 #actions { "Actions" }
                form method="post" action=(format!("{}/test", path(id))) {
                    (hidden(TOKEN, &token))
                    p.hint { "Sends it a test message, and shows how it answers." }
                    button type="submit" { "Test it" }
                }
                details {
                    summary { "Delete it" }
                    form method="post" action=(format!("{}/delete", path(id))) {
                        (hidden(TOKEN, &token))
                        p.hint { "Pending notifications are discarded. Rules keep their other destinations; a rule that has no other one sends no notifications." }
                        button.danger type="submit" { "Delete the destination" }
                    }
                }
            }
            section aria-labelledby="edit" {
                h2 #edit { "Edit" }
                (definition_form(visit, values, problem, Some(destination)))
            }
        }
    };
    View { title: format!("Destination {}", short(id, 64)), calls: vec![call(id)], body }
}

fn destination_facts(visit: &Visit, destination: &AlertDestination) -> Markup {
    let settings = &destination.settings;
    let text = |text: Option<&str>| match text {
        None | Some("") => none(),
        Some(text) => sentences(text),
    };
    let mut all = vec![
        ("Kind", html! { (settings.kind.as_str()) }),
        ("Address", html! { code { (short(&settings.address, 200)) } }),
        ("Description", text(Some(settings.description.as_str()))),
        ("Created", when(destination.created_at, visit.now)),
        ("Changed", when(destination.updated_at, visit.now)),
    ];
    if settings.kind == AlertDestinationKind::Email {
        all.push(("User", text(settings.username.as_deref())));
        all.push(("Encryption", text(settings.tls.map(tls_name))));
        all.push(("Sender", text(settings.from.as_deref())));
        all.push(("Recipients", text(Some(&settings.to.join(", ")))));
    }
    facts(&all)
}

fn tls_name(tls: SmtpTls) -> &'static str {
    TLS.iter().find(|(one, _)| *one == tls).map_or("", |(_, name)| name)
}

/// Stores the definition that was typed.
pub(super) async fn save(Key(id): Key<String>, submission: Submission) -> Response {
    let (visit, fields) = (&submission.visit, &submission.fields);
    let saved = async {
        let admin = visit.session.admin()?;
        refuse_outdated(fields, &shown(visit, &id).await?.updated_at)?;
        let (path, json) = (Path(id.clone()), Json(definition(fields)?));
        alert_destinations::put(visit.state(), visit.part(), admin, path, Query(()), json).await
    };
    match saved.await {
        Ok((_, destination)) => stored(visit, &destination.0),
        Err(problem) => match shown(visit, &id).await {
            Ok(destination) if visit.session.is_admin() => {
                let view = view(visit, &destination, fields, Some(&problem));
                visit.again(Section::Alerts, &problem, &view)
            }
            _ => submission.refused(&problem),
        },
    }
}

/// Deletes the destination.
pub(super) async fn delete(Key(id): Key<String>, submission: Submission) -> Response {
    let visit = &submission.visit;
    let done = async {
        let admin = visit.session.admin()?;
        alert_destinations::remove(visit.part(), admin, Path(id), Query(())).await
    };
    match done.await {
        Ok(_) => Redirect::to("/console/alerts").into_response(),
        Err(problem) => submission.refused(&problem),
    }
}

/// Sends a destination a test message, and shows its answer.
pub(super) async fn test(Key(id): Key<String>, submission: Submission) -> Response {
    let visit = &submission.visit;
    let tested = async {
        let path = Path(id.clone());
        let admin = visit.session.admin()?;
        alert_destinations::test(visit.state(), visit.part(), admin, path, Query(())).await
    };
    match tested.await {
        Ok(test) => visit.page(Section::Alerts, StatusCode::OK, &answered(&id, &test.0)),
        Err(problem) => submission.refused(&problem),
    }
}

fn answered(id: &str, test: &AlertTest) -> View {
    let body = html! {
        p.up { a href=(path(id)) { "Back to the destination" } }
        h1 { "Test of a destination" }
        @if test.delivered {
            div.notice.good { p { "The destination " (said(id)) " accepted the message." } }
        } @else {
            div.notice.bad { p { "The destination " (said(id)) " did not accept the message." } }
        }
        (facts(&[
            ("Status", test.status.map_or_else(none, |status| html! { (status) })),
            ("Response", sentences(&test.detail)),
            ("Took", html! { (number(i64::try_from(test.duration_ms).unwrap_or(i64::MAX))) " ms" }),
        ]))
    };
    let calls = vec![Call::post_nothing(format!("/alerts/destinations/{}/test", encode(id)))];
    View { title: "Test of a destination".to_owned(), calls, body }
}

/// The form of a new destination, or of the one with this id.
fn definition_form(
    visit: &Visit,
    values: &Pairs,
    problem: Option<&Problem>,
    destination: Option<&AlertDestination>,
) -> Markup {
    let errors = problem.map(|it| it.clone().into_document().errors).unwrap_or_default();
    let fields = Fields::new(values, &errors);
    let id = destination.map(|destination| destination.id.as_str());
    let action = id.map_or_else(|| "/console/alerts/destinations".to_owned(), path);
    let kinds = KINDS.map(|(kind, text)| (kind.as_str(), text));
    let (url_hint, secret_hint) = if id.is_some() {
        (
            "If empty, it stays as it is. It is not shown, because it often contains a token.",
            "If empty, it stays as it is. Required if the scheme, host or port changes.",
        )
    } else {
        (
            "Such as https://hooks.example.com/alerts, or smtp://mail.example.com:587 for e-mail.",
            "The signing key of a webhook (generated if empty), the bearer token of an Alertmanager, or the password of an e-mail server. None for Slack.",
        )
    };
    html! {
        form.sheet method="post" action=(action) {
            (hidden(TOKEN, &visit.session.id.form_token()))
            @if let Some(destination) = destination { (hidden(SHOWN, &digest(&destination.updated_at))) }
            fieldset {
                legend { "Destination" }
                div.grid {
                    @if id.is_none() { (fields.text(&field("id", "Id").hint("Lower-case letters, digits and hyphens. Generated if empty."), 63)) }
                    (fields.choice(&field("kind", "Kind"), &kinds))
                    (fields.text(&field("description", "Description, for people"), 1000))
                }
                (fields.secret(&field("url", "URL").hint(url_hint), 2048))
                (fields.secret(&field("secret", "Secret").hint(secret_hint), 1024))
            }
            (email(&fields))
            div.buttons {
                button.primary type="submit" { @if id.is_none() { "Create the destination" } @else { "Save the destination" } }
            }
        }
    }
}

fn email(fields: &Fields<'_>) -> Markup {
    let tls = [
        ("", "default (STARTTLS)"),
        ("starttls", "STARTTLS"),
        ("implicit", "TLS from the beginning"),
        ("none", "none, for servers in the own network"),
    ];
    html! {
        fieldset {
            legend { "For e-mail only" }
            div.grid {
                (fields.text(&field("from", "Sender"), 256))
                (fields.area(&field("to", "Recipients, one to a line"), 3))
                (fields.text(&field("username", "User name").hint("No authentication if empty."), 256))
                (fields.choice(&field("tls", "Encryption"), &tls))
            }
        }
    }
}

/// The values of the form's fields.
fn values(of: &AlertDestinationSettings) -> Pairs {
    Pairs::default()
        .and("kind", of.kind.as_str())
        .and("description", of.description.as_str())
        .and("username", of.username.as_deref().unwrap_or_default())
        .and("tls", of.tls.map_or("", tls_name))
        .and("from", of.from.as_deref().unwrap_or_default())
        .and("to", of.to.join("\n"))
}

/// The definition that was typed.
fn definition(fields: &Pairs) -> HandlerResult<AlertDestinationDefinition> {
    let mut reader = Reader::new(fields);
    let kind = reader.one_of("kind", &KINDS.map(|(kind, _)| kind), AlertDestinationKind::as_str);
    let tls = match fields.get("tls") {
        "" => None,
        _ => reader.one_of("tls", &TLS.map(|(tls, _)| tls), tls_name),
    };
    let definition = AlertDestinationDefinition {
        id: None,
        kind: kind.unwrap_or(AlertDestinationKind::Webhook),
        description: fields.get("description").to_owned(),
        url: reader.text("url"),
        // A password may begin or end with a blank.
        secret: Some(fields.raw("secret").to_owned()).filter(|secret| !secret.is_empty()),
        username: reader.text("username"),
        tls,
        from: reader.text("from"),
        to: reader.lines("to"),
    };
    reader.finish(definition)
}
