//! Forms that change something. A submission counts only if it comes from a page of this console: the
//! browser says so, and the form contains the session's token. What was typed is never lost: a
//! refusal shows it again, with a button to submit it once more.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use maud::{Markup, html};

use super::super::bodies::{Body, Memory, Share};
use super::super::extract::{self, BodyLimit, Bytes};
use super::super::problem::{HandlerResult, Problem};
use super::super::state::AppState;
use super::components::hidden;
use super::layout;
use super::pairs::Pairs;
use super::session::{Session, SessionId};
use super::text::lines;
use super::visit::{self, Visit};
use crate::api::Code;
use crate::config::Config;

/// The largest form, in bytes, unless the route is one of [`Large`] forms.
const MAX_FORM_BYTES: usize = 64 * 1024;
/// Fields whose values are not output, not even to the sender.
const SECRETS: [&str; 2] = ["secret", "url"];
/// The field of the token.
pub(super) const TOKEN: &str = "form_token";

/// An extension of the requests of a route whose forms contain an event. With a session, they may be
/// as large as requests that publish, and share the memory of those.
#[derive(Clone, Copy)]
pub(super) struct Large;

/// A form of someone who is signed in.
pub(super) struct Submission {
    pub(super) visit: Visit,
    pub(super) fields: Pairs,
    /// The share of the memory for large bodies, which is held until the response is complete.
    _share: Option<Share>,
}

impl FromRequest<AppState> for Submission {
    type Rejection = Response;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let config: Arc<Config> = state.get();
        let is_large = parts.extensions.get::<Large>().is_some() && is_from_here(&config, &parts);
        let (fields, share) = if is_large {
            read_large(state, &parts, body).await?
        } else {
            (read(&parts, body).await?, None)
        };
        if !is_from_here(&config, &parts) {
            return Err(foreign());
        }
        let again = Again { path: parts.uri.path().to_owned(), fields: &fields };
        let session = match Session::of(state, &parts.headers, &parts.extensions).await {
            Ok(Some(session)) => session,
            Ok(None) => return Err(again.signed_out()),
            Err(problem) => {
                return Err(again.after(&problem, SessionId::of(&parts.headers).as_ref()));
            }
        };
        if !session.id.has_form_token(fields.raw(TOKEN)) {
            return Err(again.unconfirmed(&session.id));
        }
        Ok(Self { visit: Visit::new(state, &parts, session), fields, _share: share })
    }
}

impl Submission {
    /// Whether the form asks for a preview. What is confirmed was shown in a preview before.
    pub(super) fn is_dry_run(&self) -> HandlerResult<bool> {
        match self.fields.get("step") {
            "dry-run" => Ok(true),
            "confirmed" => Ok(false),
            _ => Err(Problem::invalid("step", "must be dry-run or confirmed")),
        }
    }

    /// The page about a submission that was refused, with what was typed.
    pub(super) fn refused(&self, problem: &Problem) -> Response {
        let again = Again { path: self.visit.path.clone(), fields: &self.fields };
        again.after(problem, Some(&self.visit.session.id))
    }
}

/// Reads the fields of a form.
pub(super) async fn read(parts: &Parts, body: axum::body::Body) -> Result<Pairs, Response> {
    let mut request = Request::new(body);
    *request.headers_mut() = parts.headers.clone();
    request.extensions_mut().insert(BodyLimit(MAX_FORM_BYTES));
    let bytes = Bytes::from_request(request, &()).await.map_err(|problem| {
        unread(&too_large(problem, || format!("{} KiB", MAX_FORM_BYTES / 1024)))
    })?;
    Pairs::of_form(&String::from_utf8_lossy(&bytes.0)).map_err(|problem| unread(&problem))
}

/// The same of a [`Large`] form. Without a session, it is as small as others.
async fn read_large(
    state: &AppState,
    parts: &Parts,
    body: axum::body::Body,
) -> Result<(Pairs, Option<Share>), Response> {
    let session = Session::of(state, &parts.headers, &parts.extensions).await;
    let Ok(Some(session)) = session else { return Ok((read(parts, body).await?, None)) };
    let read = async {
        extract::refuse_encoded(&parts.headers)?;
        let memory: Arc<Memory> = state.get();
        memory.read(session.source(), Request::new(body)).await
    };
    let Body { bytes, share } = read.await.map_err(|problem| {
        let config: Arc<Config> = state.get();
        let limit = || format!("server.body_limit ({} bytes)", config.server.body_limit.as_u64());
        unread(&too_large(problem, limit))
    })?;
    let fields = Pairs::of_form(&String::from_utf8_lossy(&bytes));
    Ok((fields.map_err(|problem| unread(&problem))?, Some(share)))
}

/// The page about a form that was not read to its end, so that what was typed can't be shown again.
fn unread(problem: &Problem) -> Response {
    let body = html! {
        (layout::problem(problem))
        p { "Nothing was changed. Your browser's back button leads to the form, with what you typed." }
    };
    layout::alone(&layout::title_of(problem), &body, problem)
}

/// The problem of a form that is larger than its limit; others stay as they are.
fn too_large(problem: Problem, limit: impl Fn() -> String) -> Problem {
    if problem.code() != "body_too_large" {
        return problem;
    }
    let why = format!("The form is larger than {}, the maximum of this page.", limit());
    Problem::new(Code::BodyTooLarge, why)
}

/// Whether a page of this host sent the request. Browsers that know `Sec-Fetch-Site` always send it
/// over TLS and to this machine; `Origin` is `null` for pages that send no referrer.
pub(super) fn is_from_here(config: &Config, parts: &Parts) -> bool {
    let only = |name: &str| only(&parts.headers, name);
    let (site, origin) = (only("sec-fetch-site"), only(header::ORIGIN.as_str()));
    let is_own = |origin: &str| {
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        let authority = authority.parse::<Authority>().ok();
        let has_scheme = visit::scheme(config, parts).is_none_or(|own| own == scheme);
        has_scheme && authority.is_some() && authority == visit::host(parts)
    };
    match (site, origin) {
        (Some("same-origin"), None | Some("null")) => true,
        (Some("same-origin") | None, Some(origin)) => is_own(origin),
        _ => false,
    }
}

fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    // Of two values neither can be trusted.
    if values.next().is_some() { Some("repeated") } else { first.to_str().ok() }
}

/// 403 without what was typed: another site may have chosen it.
pub(super) fn foreign() -> Response {
    let problem = Problem::new(
        Code::InsufficientScope,
        "This form was not sent by a page of this console, so nothing was changed. Open the console and fill in the form there.",
    );
    let body = html! {
        h1 { "The form was sent by another site" }
        div.notice.bad role="alert" { p { (problem.clone().into_document().detail) } }
        p { a href=(layout::ROOT) { "Go to the overview" } }
    };
    layout::alone("The form was sent by another site", &body, &problem)
}

/// A form to be submitted again.
struct Again<'a> {
    path: String,
    fields: &'a Pairs,
}

impl Again<'_> {
    fn after(&self, problem: &Problem, session: Option<&SessionId>) -> Response {
        let body = html! { (layout::problem(problem)) (self.typed(session)) };
        layout::alone(&layout::title_of(problem), &body, problem)
    }

    fn unconfirmed(&self, session: &SessionId) -> Response {
        let body = html! {
            h1 { "Please submit the form again" }
            div.notice.bad role="alert" {
                p { "The form does not belong to your present session: you may have signed in again since you opened it. Nothing was changed." }
            }
            (self.typed(Some(session)))
        };
        layout::simple(StatusCode::FORBIDDEN, "Please submit the form again", &body)
    }

    fn signed_out(&self) -> Response {
        let body = html! {
            h1 { "Your session has ended" }
            div.notice.bad role="alert" {
                p { "Nothing was changed. Sign in in another tab, then submit this form again." }
                p { a href="/console/sign-in" target="_blank" rel="noopener" { "Sign in in another tab" } }
            }
            (self.typed(None))
        };
        layout::simple(StatusCode::UNAUTHORIZED, "Your session has ended", &body)
    }

    /// What was typed, and a button that submits it. The token is that of the session, if it is known.
    /// Secrets must be typed again.
    fn typed(&self, session: Option<&SessionId>) -> Markup {
        let token = session.map_or_else(String::new, SessionId::form_token);
        // Submitted again, it replaces what was changed since the form was opened.
        let left_out = [TOKEN, super::fields::SHOWN];
        let fields = self.fields.iter().filter(|(name, _)| !left_out.contains(name));
        html! {
            form.again method="post" action=(self.path) {
                (hidden(TOKEN, &token))
                @for (nth, (name, value)) in fields.enumerate() {
                    @let id = format!("typed-{nth}");
                    @if SECRETS.contains(&name) {
                        @if !value.is_empty() {
                            label for=(id) { (lines(name)) ", which must be typed again" }
                            input type="password" id=(id) name=(name) required autocomplete="new-password" spellcheck="false";
                        }
                    } @else {
                        label for=(id) { (lines(name)) }
                        textarea id=(id) name=(name) readonly rows="1" { "\n" (value) }
                    }
                }
                button type="submit" { "Submit again" }
            }
        }
    }
}
