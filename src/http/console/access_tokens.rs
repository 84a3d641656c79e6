//! Access tokens: the list, without their secrets, and the forms that create and revoke them.

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use secrecy::ExposeSecret as _;
use uuid::Uuid;

use super::super::access_tokens;
use super::super::extract::Path;
use super::super::problem::{HandlerResult, Problem};
use super::super::query::Query;
use super::components::{hidden, table, text};
use super::fields::{Fields, Reader, field};
use super::form::{Submission, TOKEN};
use super::layout::{self, Call, Section};
use super::pairs::Pairs;
use super::states::{Tone, state};
use super::text::{none, said, when, when_any};
use super::visit::{Key, View, Visit};
use crate::api::{AccessToken, NewAccessToken, Scope};
use crate::store::Credentials;

/// The page's path.
const PATH: &str = "/console/access-tokens";
/// The scopes, with what each allows.
const SCOPES: [(Scope, &str); 3] = [
    (Scope::Read, "read: everything except secrets, and this console"),
    (Scope::Publish, "publish: publish events"),
    (Scope::Admin, "admin: register, change, revoke and redrive"),
];
/// The choices of a token's lifetime, in days.
const LIFETIMES: [(&str, &str); 5] = [
    ("30", "in 30 days"),
    ("90", "in 90 days"),
    ("365", "in a year"),
    ("1", "in a day"),
    ("never", "never"),
];
/// The field that identifies a form, so that one that is sent twice creates one token.
const ONCE: &str = "once";

pub(super) async fn page(visit: Visit) -> Response {
    let values = Pairs::default().and("scopes", "read");
    let view = content(&visit, &values, None).await;
    visit.respond(Section::AccessTokens, view)
}

async fn content(visit: &Visit, values: &Pairs, problem: Option<&Problem>) -> HandlerResult<View> {
    let page = access_tokens::list(visit.part(), visit.session.admin()?, Query(())).await?.0;
    let body = html! {
        h1 { "Access tokens" }
        @if let Some(problem) = problem { (layout::refusal(problem)) }
        p.hint { "They authenticate publishers, operators and sessions of this console. Give each program and each operator one of its own." }
        (rows(visit, &page.list))
        section aria-labelledby="new" {
            h2 #new { "Create an access token" }
            (new_token(visit, values, problem))
        }
    };
    let calls = vec![Call::get("/access-tokens", &Pairs::default())];
    Ok(View { title: "Access tokens".to_owned(), calls, body })
}

fn rows(visit: &Visit, tokens: &[AccessToken]) -> Markup {
    let rows: Vec<Vec<Markup>> = tokens.iter().map(|token| row(visit, token)).collect();
    let columns = [
        text("Name"),
        text("State"),
        text("Scopes"),
        text("Id"),
        text("Created"),
        text("Last used"),
        text("Expires"),
        text("Revoked"),
        text("Action"),
    ];
    table("Access tokens, oldest first", &columns, &rows)
}

fn row(visit: &Visit, token: &AccessToken) -> Vec<Markup> {
    let has_expired = token.expires_at.is_some_and(|at| at <= visit.now);
    let (word, tone) = match (token.revoked_at, has_expired) {
        (Some(_), _) => ("revoked", Tone::Quiet),
        (None, true) => ("expired", Tone::Quiet),
        (None, false) => ("valid", Tone::Good),
    };
    let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
    let is_own = token.id == visit.session.token();
    vec![
        html! { (said(&token.name)) @if is_own { " " span.hint { "(this session)" } } },
        state(word, tone),
        html! { (scopes.join(", ")) },
        html! { code { (token.id) } },
        when(token.created_at, visit.now),
        when_any(token.last_used_at, visit.now),
        when_any(token.expires_at, visit.now),
        when_any(token.revoked_at, visit.now),
        html! { @if token.revoked_at.is_none() { (revocation(visit, token, is_own)) } @else { (none()) } },
    ]
}

fn revocation(visit: &Visit, token: &AccessToken, is_own: bool) -> Markup {
    html! {
        details {
            summary aria-label=(format!("Revoke the access token {}", token.id)) { "Revoke" }
            form method="post" action=(format!("{PATH}/{}/revoke", token.id)) {
                (hidden(TOKEN, &visit.session.id.form_token()))
                @if is_own { p.hint { "This ends your session." } }
                button.danger type="submit" { "Revoke permanently" }
            }
        }
    }
}

fn new_token(visit: &Visit, values: &Pairs, problem: Option<&Problem>) -> Markup {
    let errors = problem.map(|it| it.clone().into_document().errors).unwrap_or_default();
    let fields = Fields::new(values, &errors);
    // After a conflict, the form is for another token.
    let is_used = problem.is_some_and(|problem| problem.code() == "conflict");
    let once = match values.get(ONCE) {
        once if !once.is_empty() && !is_used => once.to_owned(),
        _ => Uuid::now_v7().to_string(),
    };
    let scopes = SCOPES.map(|(scope, text)| (scope.as_str(), text));
    html! {
        form.sheet method="post" action=(PATH) {
            (hidden(TOKEN, &visit.session.id.form_token()))
            (hidden(ONCE, &once))
            div.grid {
                (fields.text(&field("name", "Name").hint("The program or operator that uses it, as the audit log shows it."), 128))
                (fields.choice(&field("days", "Expires").of("expiresInSeconds".to_owned()), &LIFETIMES))
            }
            (fields.boxes(&field("scopes", "Scopes"), &scopes))
            div.buttons { button.primary type="submit" { "Create the token" } }
        }
    }
}

/// Creates a token, and shows it once.
pub(super) async fn create(submission: Submission) -> Response {
    let (visit, fields) = (&submission.visit, &submission.fields);
    let created = async {
        let admin = visit.session.admin()?;
        let new = requested(fields)?;
        let call = Call::post("/access-tokens", &new);
        let seed = seed(visit, fields.get(ONCE))?;
        let credentials = visit.state.part::<dyn Credentials>();
        let (issued, info) =
            access_tokens::create_once(credentials.as_ref(), &admin.0, new, &seed).await?;
        Ok((issued, info, call))
    };
    match created.await {
        Ok((issued, info, call)) => {
            let body = created_body(&info, issued.key.expose_secret());
            let view = View { title: "A new access token".to_owned(), calls: vec![call], body };
            visit.page(Section::AccessTokens, StatusCode::OK, &view)
        }
        Err(problem) => match content(visit, fields, Some(&problem)).await {
            Ok(view) => visit.again(Section::AccessTokens, &problem, &view),
            Err(_) => submission.refused(&problem),
        },
    }
}

fn requested(fields: &Pairs) -> HandlerResult<NewAccessToken> {
    let mut reader = Reader::new(fields);
    let days = match fields.get("days") {
        "never" => None,
        "" => {
            reader.wrong("expiresInSeconds", "is required");
            None
        }
        _ => reader.number("days"),
    };
    let mut scopes = Vec::new();
    for name in fields.all("scopes") {
        match SCOPES.iter().find(|(scope, _)| scope.as_str() == name) {
            Some((scope, _)) => scopes.push(*scope),
            None => reader.wrong("scopes", "must be read, publish or admin"),
        }
    }
    let expires_in_seconds = days.map(|days| days.saturating_mul(24 * 3600));
    let name = fields.get("name").to_owned();
    reader.finish(NewAccessToken { name, scopes, expires_in_seconds })
}

/// What the id of a form's token is derived from. The session's token is part of it, so that
/// forms of different tokens never have the same.
fn seed(visit: &Visit, once: &str) -> HandlerResult<Vec<u8>> {
    let once: Uuid = once
        .parse()
        .map_err(|_| Problem::invalid(ONCE, "must be the UUID that the form has; open it again"))?;
    Ok([b"console form", visit.session.token().as_bytes(), once.as_bytes()].concat())
}

fn created_body(info: &AccessToken, token: &str) -> Markup {
    html! {
        p.up { a href=(PATH) { "Access tokens" } }
        h1 { "A new access token" }
        div.notice.good role="status" {
            p { "The access token " (said(&info.name)) " is created. This is the only time that it is shown." }
            p { "Copy it now and store it where secrets are kept, such as a password manager or a file that only its user can read. It can't be retrieved again." }
        }
        div.command.once {
            pre tabindex="0" { code #secret { (token) } }
            button type="button" hidden data-copy="secret" { "Copy" }
        }
        p { "Programs send it in the header " code { "Authorization: Bearer …" } ". The command line reads it from a file, or from " code { "GATEWAY_EVENTS_TOKEN" } "." }
    }
}

/// Revokes a token.
pub(super) async fn revoke(Key(id): Key<String>, submission: Submission) -> Response {
    let done = async {
        let visit = &submission.visit;
        let admin = visit.session.admin()?;
        access_tokens::revoke(visit.state(), visit.part(), admin, Path(id), Query(())).await
    };
    match done.await {
        Ok(_) => Redirect::to(PATH).into_response(),
        Err(problem) => submission.refused(&problem),
    }
}
