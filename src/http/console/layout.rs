//! The frame of every page: head, navigation, content, the equivalent API calls; and the headers of
//! every response.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use maud::{DOCTYPE, Markup, html};
use serde::Serialize;

use super::super::problem::Problem;
use super::assets::ASSETS;
use super::components::hidden;
use super::pairs::Pairs;
use super::session::Session;
use super::text::{said, sentences};
use crate::api::BASE_PATH;
use crate::clock::Timestamp;
use crate::store::Scope;

/// The path of the console, and the prefix of all its paths.
pub(in crate::http) const ROOT: &str = "/console";

/// Allows what this host serves, and nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; \
    base-uri 'none'";
/// What htmx would need more rights for is off.
const HTMX: &str = r#"{"allowEval":false,"includeIndicatorStyles":false,"selfRequestsOnly":true,"historyCacheSize":0,"allowScriptTags":false,"timeout":15000}"#;

/// The parts of the console, as the navigation lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Gateways,
    Events,
    Publish,
    Failures,
    DeadLetters,
    Inbox,
    EventTypes,
    Nodes,
    Alerts,
    Jobs,
    Audit,
    AccessTokens,
    Organisation,
    /// A page that is in none of them.
    None,
}

/// Name and path of each part, and the scope that it needs.
const SECTIONS: [(Section, &str, &str, Scope); 14] = [
    (Section::Overview, "Overview", ROOT, Scope::Read),
    (Section::Gateways, "Gateways", "/console/gateways", Scope::Read),
    (Section::Events, "Events", "/console/events", Scope::Read),
    (Section::Publish, "Publish", "/console/publish", Scope::Publish),
    (Section::Failures, "Failures", "/console/failures", Scope::Read),
    (Section::DeadLetters, "Dead letters", "/console/dead-letters", Scope::Read),
    (Section::Inbox, "Rejected rows", "/console/inbox", Scope::Read),
    (Section::Alerts, "Alerts", "/console/alerts", Scope::Read),
    (Section::EventTypes, "Event types", "/console/event-types", Scope::Read),
    (Section::Nodes, "Nodes", "/console/nodes", Scope::Read),
    (Section::Jobs, "Jobs", "/console/jobs", Scope::Admin),
    (Section::Audit, "Audit", "/console/audit", Scope::Admin),
    (Section::AccessTokens, "Access tokens", "/console/access-tokens", Scope::Admin),
    (Section::Organisation, "Organisation", "/console/organisation", Scope::Read),
];

/// A request of the API.
pub(super) struct Call {
    method: &'static str,
    /// Below the API's base path.
    path: String,
    body: Option<String>,
    /// The `Idempotency-Key`.
    key: Option<String>,
}

impl Call {
    /// A request that reads.
    pub(super) fn get(path: impl Into<String>, query: &Pairs) -> Self {
        Self { method: "GET", path: query.after(&path.into()), body: None, key: None }
    }

    /// A request that changes something.
    pub(super) fn post(path: impl Into<String>, body: &impl Serialize) -> Self {
        let body = serde_json::to_string(body).ok();
        Self { method: "POST", path: path.into(), body, key: None }
    }

    /// A request that replaces something.
    pub(super) fn put(path: impl Into<String>, body: &impl Serialize) -> Self {
        Self { method: "PUT", ..Self::post(path, body) }
    }

    /// A request that changes some members of something.
    pub(super) fn patch(path: impl Into<String>, body: &impl Serialize) -> Self {
        Self { method: "PATCH", ..Self::post(path, body) }
    }

    /// A request without a body that changes something.
    pub(super) fn post_nothing(path: impl Into<String>) -> Self {
        Self { method: "POST", path: path.into(), body: None, key: None }
    }

    /// With an `Idempotency-Key`.
    pub(super) fn with_key(self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self }
    }

    /// The command that sends it.
    fn command(&self, origin: &str) -> String {
        let url = quoted(&format!("{origin}{BASE_PATH}{}", self.path));
        let token = r#"-H "Authorization: Bearer $GATEWAY_EVENTS_TOKEN""#;
        let key = self
            .key
            .as_deref()
            .map(|key| format!("-H {} ", quoted(&format!("Idempotency-Key: {key}"))));
        let key = key.unwrap_or_default();
        match &self.body {
            None if self.method == "GET" => format!("curl {token} {url}"),
            None => format!("curl -X {} {token} {url}", self.method),
            Some(body) => {
                let body = quoted(&super::text::visible_json(body));
                format!(
                    "curl -X {} {token} {key}-H 'Content-Type: application/json' -d {body} {url}",
                    self.method
                )
            }
        }
    }
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", super::text::lines(text).replace('\'', r"'\''"))
}

/// A page of someone who is signed in.
pub(super) struct Page<'a> {
    pub(super) session: &'a Session,
    pub(super) section: Section,
    /// The service's address, for the equivalent API calls.
    pub(super) origin: &'a str,
    pub(super) now: Timestamp,
    pub(super) title: &'a str,
    pub(super) calls: &'a [Call],
    pub(super) body: &'a Markup,
}

/// Renders a page.
pub(super) fn page(status: StatusCode, page: &Page<'_>) -> Response {
    let Page { session, section, origin, now, title, calls: made, body: content } = page;
    let token = session.id.form_token();
    let body = html! {
        body {
            a.skip href="#main" { "Skip to content" }
            (banner(session, &token))
            div.frame {
                (navigation(session, *section))
                main #main tabindex="-1" data-now=(now) {
                    (content)
                    (calls(made, origin))
                }
            }
        }
    };
    respond(status, &document(title, None, &body))
}

fn banner(session: &Session, token: &str) -> Markup {
    html! {
        header.banner {
            (brand())
            form.who method="post" action="/console/sign-out" {
                (hidden("form_token", token))
                span.token title=(format!("Scopes: {}", session.scopes())) { (said(&session.name)) }
                button type="submit" { "Sign out" }
            }
        }
    }
}

fn brand() -> Markup {
    html! {
        a.brand href=(ROOT) {
            img src=(ASSETS.icon.path) alt="" width="24" height="24";
            "gateway-events"
        }
    }
}

fn navigation(session: &Session, current: Section) -> Markup {
    let shown = SECTIONS.iter().filter(|(_, _, _, needed)| session.can(*needed));
    html! {
        nav aria-label="Console" {
            ul {
                @for (section, name, path, _) in shown {
                    li {
                        a href=(path) aria-current=[(*section == current).then_some("page")] { (name) }
                    }
                }
            }
        }
    }
}

fn calls(calls: &[Call], origin: &str) -> Markup {
    html! {
        @if !calls.is_empty() {
            details.calls {
                summary { "Equivalent API requests" }
                @for (nth, call) in calls.iter().enumerate() {
                    @let id = format!("call-{nth}");
                    div.command {
                        pre tabindex="0" { code id=(id) { (call.command(origin)) } }
                        button type="button" hidden data-copy=(id) { "Copy" }
                    }
                }
            }
        }
    }
}

/// A page without navigation, about a problem.
pub(super) fn alone(title: &str, content: &Markup, problem: &Problem) -> Response {
    refused(respond(problem.status(), &bare(title, None, content)), problem)
}

/// A page without navigation.
pub(super) fn simple(status: StatusCode, title: &str, content: &Markup) -> Response {
    respond(status, &bare(title, None, content))
}

/// A page without navigation that leads to another one by itself.
pub(super) fn passing(title: &str, next: &str, content: &Markup) -> Response {
    respond(StatusCode::OK, &bare(title, Some(next), content))
}

fn bare(title: &str, next: Option<&str>, content: &Markup) -> Markup {
    let body = html! {
        body.bare {
            header.banner { (brand()) }
            main #main { (content) }
        }
    };
    document(title, next, &body)
}

fn document(title: &str, next: Option<&str>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="htmx-config" content=(HTMX);
                @if let Some(next) = next {
                    meta http-equiv="refresh" content=(format!("0; url={next}"));
                }
                title { (super::text::short(title, 80)) " · gateway-events" }
                link rel="icon" href=(ASSETS.icon.path) type="image/svg+xml";
                link rel="stylesheet" href=(ASSETS.style.path);
                script src=(ASSETS.htmx.path) defer {}
                script src=(ASSETS.script.path) defer {}
            }
            (body)
        }
    }
}

/// What is wrong, above a form that is shown again.
pub(super) fn refusal(problem: &Problem) -> Markup {
    let document = problem.clone().into_document();
    html! {
        div.notice.bad role="alert" {
            p { (sentences(&document.detail)) }
            @if document.errors.len() > 1 {
                ul { @for error in &document.errors { li { code { (said(&error.field)) } " " (sentences(&error.message)) } } }
            }
            @if !document.gateway_ids.is_empty() {
                ul { @for id in document.gateway_ids.iter().take(20) { li { code { (id) } } } }
            }
        }
    }
}

/// What a problem is, and what to do.
pub(super) fn problem(problem: &Problem) -> Markup {
    let document = problem.clone().into_document();
    html! {
        h1 { (title_of(problem)) }
        (refusal(problem))
        @if problem.code() == "unavailable" {
            p {
                "Events that were accepted are safe, and delivery continues when the database is available again. "
                "Reload the page to try again."
            }
        } @else if problem.code() == "commit_outcome_unknown" {
            p { "Check whether it took effect before you submit it again." }
        } @else if document.status == 503 {
            p { "Reload the page to try again." }
        } @else if document.status == 404 {
            p { "It may have been deleted, or retention has removed it. " a href=(ROOT) { "Go to the overview" } "." }
        }
    }
}

/// The title of a page about a problem.
pub(super) fn title_of(problem: &Problem) -> String {
    match problem.code() {
        "unavailable" => "The database is not available".to_owned(),
        "query_timeout" => "The query took too long".to_owned(),
        "insufficient_scope" => "Your access token does not allow this".to_owned(),
        "commit_outcome_unknown" => "It is not known whether this was done".to_owned(),
        "not_found" => "Not found".to_owned(),
        "invalid" => "Invalid input".to_owned(),
        "conflict" => "This is not possible now".to_owned(),
        _ => problem.clone().into_document().title.into_owned(),
    }
}

/// Adds to a response what the layers around the handlers and the browser need to know of a problem.
pub(super) fn refused(mut response: Response, problem: &Problem) -> Response {
    if let Some(cause) = problem.cause() {
        response.extensions_mut().insert(cause);
    }
    if let Some(secs) = problem.clone().into_document().retry_after_secs {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(secs));
    }
    response
}

fn respond(status: StatusCode, document: &Markup) -> Response {
    (status, Html(document.0.clone())).into_response()
}

/// Adds the headers that every response of the console has, except files.
pub(super) async fn secured(mut response: Response) -> Response {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
