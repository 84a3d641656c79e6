//! Signing in with an access token, and signing out.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use maud::{Markup, html};

use super::super::auth::Auth;
use super::super::problem::{Challenge, HandlerResult, Problem};
use super::super::state::AppState;
use super::components::hidden;
use super::form::{self, Submission};
use super::layout::{self, ROOT};
use super::pairs::Pairs;
use super::session::{self, Session, SessionId};
use super::sign_ins::SignIns;
use super::visit::{self, Visit};
use crate::config::Config;
use crate::store::ConsoleSessions;
use crate::token::Kind;

/// The sign-in form. Redirects requests that have a session already.
pub(super) async fn page(State(state): State<AppState>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let next = next(&Pairs::parse(parts.uri.query().unwrap_or_default()));
    match Session::of(&state, &parts.headers, &parts.extensions).await {
        Ok(Some(_)) => lead_to(&next),
        Ok(None) => show(&state, &parts, &next, None),
        Err(problem) => show(&state, &parts, &next, Some(&problem)),
    }
}

/// Checks the token and begins a session.
pub(super) async fn submit(State(state): State<AppState>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let fields = match form::read(&parts, body).await {
        Ok(fields) => fields,
        Err(refused) => return refused,
    };
    if !form::is_from_here(&state.get::<Arc<Config>>(), &parts) {
        return form::foreign();
    }
    let next = next(&fields);
    match begin(&state, &parts, &fields).await {
        Ok(cookie) => {
            let mut response = lead_to(&next);
            response.headers_mut().insert(header::SET_COOKIE, cookie);
            response
        }
        Err(problem) => show(&state, &parts, &next, Some(&problem)),
    }
}

async fn begin(state: &AppState, parts: &Parts, fields: &Pairs) -> HandlerResult<HeaderValue> {
    let address = state.get::<Arc<Auth>>().address(&parts.extensions, &parts.headers);
    state.get::<Arc<SignIns>>().charge(address)?;
    let token = fields.get("token");
    let begun = session::begin(state, token, address, &parts.extensions).await?;
    let id = begun.ok_or_else(|| {
        let why = if Kind::Access.is_other(token) {
            "This is a gateway's key (gwk_…), which is not valid here: an access token (gwa_…) is required."
        } else {
            "This access token is not valid: it is mistyped, unknown, expired or revoked."
        };
        Problem::unauthorized(Challenge::Bearer).with_detail(why)
    })?;
    // A browser has one session.
    if let Some(earlier) = SessionId::of(&parts.headers) {
        state.part::<dyn ConsoleSessions>().end_console_session(&earlier.digest()).await?;
    }
    id.cookie()
}

/// Ends the session.
pub(super) async fn end(submission: Submission) -> Response {
    let Visit { state, session, .. } = &submission.visit;
    let sessions = state.part::<dyn ConsoleSessions>();
    if let Err(error) = sessions.end_console_session(&session.id.digest()).await {
        return submission.refused(&error.into());
    }
    let mut response = lead_to("/console/sign-in");
    if let Ok(cookie) = session::no_cookie() {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

fn lead_to(path: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, path), (header::CACHE_CONTROL, "no-store")])
        .into_response()
}

/// The page to open after signing in: one of the console.
fn next(pairs: &Pairs) -> String {
    let next = pairs.get("next");
    let is_own = next == ROOT || next.starts_with("/console/") || next.starts_with("/console?");
    let is_plain = next.bytes().all(|byte| byte.is_ascii_graphic())
        && !next.contains('\\')
        && !next.contains("/..");
    if is_own && is_plain { next.to_owned() } else { ROOT.to_owned() }
}

fn show(state: &AppState, parts: &Parts, next: &str, problem: Option<&Problem>) -> Response {
    let host = visit::host(parts);
    let is_local =
        host.is_some_and(|host| matches!(host.host(), "localhost" | "127.0.0.1" | "[::1]"));
    let is_unsafe = !visit::is_tls(&state.get::<Arc<Config>>(), parts) && !is_local;
    let body = content(next, problem, is_unsafe);
    match problem {
        None => layout::simple(StatusCode::OK, "Sign in", &body),
        Some(problem) => {
            let mut response = layout::alone("Sign in", &body, problem);
            if problem.status() == StatusCode::UNAUTHORIZED {
                let challenge = HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            }
            response
        }
    }
}

fn content(next: &str, problem: Option<&Problem>, is_unsafe: bool) -> Markup {
    let wrong = problem.map(|problem| problem.clone().into_document().detail);
    html! {
        h1 { "Sign in" }
        @if is_unsafe {
            div.notice.bad role="alert" {
                p { "Your browser opened this page without TLS, so it will not keep the session. Open it with https." }
            }
        }
        @if let Some(wrong) = &wrong {
            div.notice.bad role="alert" { p #wrong { (wrong) } }
        }
        form.card method="post" action="/console/sign-in" {
            (hidden("next", next))
            label for="token" { "Access token" }
            input #token type="password" name="token" required autocomplete="current-password"
                spellcheck="false" maxlength="200" aria-describedby=(if wrong.is_some() { "wrong hint" } else { "hint" })
                aria-invalid=[wrong.as_ref().map(|_| "true")];
            p #hint.hint {
                "It needs the scope " code { "read" } "; what you can change depends on its other scopes. "
                code { "gateway-events token create --access NAME --scope read" } " creates one. The session ends after twelve hours, or when the token is revoked."
            }
            button.primary type="submit" { "Sign in" }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_the_console_come_next() {
        let next = |text: &str| next(&Pairs::default().with("next", text));
        for own in ["/console", "/console/events?type=a.b", "/console/gateways/x"] {
            assert_eq!(next(own), own);
        }
        for other in ["", "//evil.example", "https://evil.example", "/consoles", "/console/\\x\n"] {
            assert_eq!(next(other), ROOT, "{other}");
        }
    }
}
