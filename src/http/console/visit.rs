//! What each page needs to know of its request: who is signed in, the query, and the service's
//! address. A request without a session leads to the sign-in page.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde::de::DeserializeOwned;

use super::super::client_address;
use super::super::extract::Path;
use super::super::listener::Peer;
use super::super::part::{OfStore, Part};
use super::super::problem::{HandlerResult, Problem};
use super::super::state::AppState;
use super::layout::{self, Call, ROOT, Section};
use super::pairs::Pairs;
use super::session::Session;
use crate::api::Code;
use crate::clock::Timestamp;
use crate::config::Config;

/// A request of someone who is signed in.
pub(super) struct Visit {
    pub(super) state: AppState,
    pub(super) session: Session,
    /// The path, without the query.
    pub(super) path: String,
    pub(super) query: Pairs,
    /// The address of the service as the browser knows it, such as `https://localhost:8443`.
    pub(super) origin: String,
    pub(super) now: Timestamp,
}

/// The content of a page.
pub(super) struct View {
    pub(super) title: String,
    /// The requests of the API that return the same.
    pub(super) calls: Vec<Call>,
    pub(super) body: Markup,
}

impl Visit {
    pub(super) fn new(state: &AppState, parts: &Parts, session: Session) -> Self {
        Self {
            state: state.clone(),
            session,
            path: parts.uri.path().to_owned(),
            query: Pairs::parse(parts.uri.query().unwrap_or_default()),
            origin: origin(&state.get::<Arc<Config>>(), parts),
            now: Timestamp::now(),
        }
    }

    /// A part of the state, which handlers of the API take.
    pub(super) fn state<T: FromRef<AppState>>(&self) -> State<T> {
        State(self.state.get())
    }

    /// A part of the store, which handlers of the API take.
    pub(super) fn part<T: OfStore + ?Sized>(&self) -> Part<T> {
        Part(self.state.part())
    }

    /// The page with this content, or with the reason why there is none.
    pub(super) fn respond(&self, section: Section, view: HandlerResult<View>) -> Response {
        match view {
            Ok(view) => self.page(section, StatusCode::OK, &view),
            Err(problem) => {
                let is_filtered = problem.code() == "invalid" && !self.query.is_empty();
                let body = html! {
                    (layout::problem(&problem))
                    @if is_filtered { p { a href=(self.path) { "Show the page without filters" } } }
                };
                let title = layout::title_of(&problem);
                let view = View { title, calls: Vec::new(), body };
                layout::refused(self.page(section, problem.status(), &view), &problem)
            }
        }
    }

    pub(super) fn page(&self, section: Section, status: StatusCode, view: &View) -> Response {
        let View { title, calls, body } = view;
        let (session, origin, now) = (&self.session, self.origin.as_str(), self.now);
        layout::page(status, &layout::Page { session, section, origin, now, title, calls, body })
    }

    /// A page with a form that was refused.
    pub(super) fn again(&self, section: Section, problem: &Problem, view: &View) -> Response {
        layout::refused(self.page(section, problem.status(), view), problem)
    }

    /// A list whose filters were refused, with the filters to be corrected.
    pub(super) fn refiltered(
        &self,
        section: Section,
        title: &str,
        filters: &Markup,
        problem: &Problem,
    ) -> Response {
        let body = html! { h1 { (title) } (layout::refusal(problem)) (filters) };
        self.again(section, problem, &View { title: title.to_owned(), calls: Vec::new(), body })
    }

    /// The address of this page.
    pub(super) fn address(&self) -> String {
        self.query.after(&self.path)
    }

    /// A link to this page with another value in its query, from the first row on.
    pub(super) fn link_with(&self, name: &str, value: impl Into<String>) -> String {
        self.query.with("cursor", "").with(name, value).after(&self.path)
    }
}

impl FromRequestParts<AppState> for Visit {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Response> {
        let found = Session::of(state, &parts.headers, &parts.extensions).await;
        let session = found.map_err(|problem| {
            layout::alone(&layout::title_of(&problem), &layout::problem(&problem), &problem)
        })?;
        let session = session.ok_or_else(|| no_session(parts))?;
        Ok(Self::new(state, parts, session))
    }
}

/// The parameters of a page's path. Without such a page, the answer is one for people.
pub(super) struct Key<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<AppState> for Key<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Response> {
        let Ok(Path(key)) = Path::from_request_parts(parts, state).await else {
            let problem = Problem::not_found("page");
            return Err(layout::alone("Not found", &layout::problem(&problem), &problem));
        };
        Ok(Self(key))
    }
}

/// Leads to the sign-in page, and back to this one. A browser that follows a link from another site
/// sends no cookie with it, because the cookie is `SameSite=Strict`; the page that it gets leads to
/// the same address, now from this site.
fn no_session(parts: &Parts) -> Response {
    let here = parts.uri.path_and_query().map_or(ROOT, |it| it.as_str());
    let next = Pairs::default().with("next", here).after("/console/sign-in");
    if parts.headers.contains_key("hx-request") {
        return (StatusCode::UNAUTHORIZED, [("hx-redirect", next)]).into_response();
    }
    let site = parts.headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
    if site == Some("cross-site") {
        let body = html! {
            h1 { "Redirecting" }
            p { "You came from another site. " a href=(here) { "Continue to the console" } "." }
        };
        return layout::passing("Redirecting", here, &body);
    }
    Redirect::to(&next).into_response()
}

/// The scheme, host and port by which the browser knows the service.
pub(super) fn origin(config: &Config, parts: &Parts) -> String {
    let scheme = if is_tls(config, parts) { "https" } else { "http" };
    let host = host(parts).map_or_else(|| "localhost".to_owned(), |host| host.to_string());
    format!("{scheme}://{host}")
}

/// The host and port that the request is for.
pub(super) fn host(parts: &Parts) -> Option<Authority> {
    let header = || parts.headers.get(header::HOST)?.to_str().ok()?.parse().ok();
    parts.uri.authority().cloned().or_else(header)
}

/// Whether the browser's connection is encrypted: a trusted proxy says so, or else the listener's
/// is.
pub(super) fn is_tls(config: &Config, parts: &Parts) -> bool {
    scheme(config, parts) == Some("https")
}

/// The scheme by which the browser knows the service, if it is certain: behind a proxy that does not
/// name it, a plain connection may be part of an encrypted one.
pub(super) fn scheme(config: &Config, parts: &Parts) -> Option<&'static str> {
    let server = &config.server;
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.address.ip().to_canonical());
    let is_trusted =
        peer.is_some_and(|peer| client_address::is_trusted(peer, &server.trusted_proxies));
    match forwarded_proto(&parts.headers).filter(|_| is_trusted) {
        Some(named) => ["https", "http"].into_iter().find(|it| named.eq_ignore_ascii_case(it)),
        None => (!server.plaintext).then_some("https"),
    }
}

fn forwarded_proto(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-forwarded-proto")?.to_str().ok()?.split(',').next_back().map(str::trim)
}

/// Leads to the console from its address with a slash at the end.
pub(super) async fn to_root() -> Response {
    Redirect::to(ROOT).into_response()
}

/// Answers a method that a path does not have. A browser that opens the address of a form is led to
/// the page that has the form.
pub(super) async fn wrong_method(method: Method, uri: Uri) -> Response {
    if matches!(method, Method::GET | Method::HEAD) {
        let page = page_of(uri.path());
        return Redirect::to(&page).into_response();
    }
    let why = "This address of the console does not accept this kind of request.";
    let problem = Problem::new(Code::MethodNotAllowed, why);
    let body = html! {
        (layout::problem(&problem))
        p { a href=(ROOT) { "Go to the overview" } }
    };
    layout::alone("Method not allowed", &body, &problem)
}

/// The page that has the form whose address this is.
fn page_of(path: &str) -> String {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let kept = match parts.as_slice() {
        [_, "gateways", "selected"] | [_, "jobs" | "access-tokens" | "failures", ..] => 2,
        [_, "gateways" | "events" | "inbox" | "event-types", ..] => 3,
        [_, "alerts", "rules" | "destinations", ..] => 4,
        _ => 1,
    };
    format!("/{}", parts[..kept.min(parts.len())].join("/"))
}

/// The page for a path that does not exist.
pub(super) async fn not_found(visit: Visit) -> Response {
    visit.respond(Section::None, Err(Problem::not_found("page")))
}
