//! Access tokens, without their secrets.

use axum::response::Response;
use maud::{Markup, html};

use super::super::access_tokens;
use super::super::problem::Answer;
use super::super::query::Query;
use super::components::{table, text};
use super::layout::{Call, Section};
use super::pairs::Pairs;
use super::states::{Tone, state};
use super::text::{said, when, when_any};
use super::visit::{View, Visit};
use crate::api::AccessToken;

pub(super) async fn page(visit: Visit) -> Response {
    let view = content(&visit).await;
    visit.respond(Section::AccessTokens, view)
}

async fn content(visit: &Visit) -> Answer<View> {
    let page = access_tokens::list(visit.state(), visit.session.admin()?, Query(())).await?.0;
    let body = html! {
        h1 { "Access tokens" }
        p.hint {
            "They authenticate publishers, operators and sessions of this console. Create one with "
            code { "gateway-events token create --access NAME --scope read" } ", and revoke one with "
            code { "gateway-events token revoke ID" } "."
        }
        (rows(visit, &page.list))
    };
    let calls = vec![Call::get("/access-tokens", &Pairs::default())];
    Ok(View { title: "Access tokens".to_owned(), calls, body })
}

fn rows(visit: &Visit, tokens: &[AccessToken]) -> Markup {
    let rows: Vec<Vec<Markup>> = tokens
        .iter()
        .map(|token| {
            let has_expired = token.expires_at.is_some_and(|at| at <= visit.now);
            let (word, tone) = match (token.revoked_at, has_expired) {
                (Some(_), _) => ("revoked", Tone::Quiet),
                (None, true) => ("expired", Tone::Quiet),
                (None, false) => ("valid", Tone::Good),
            };
            let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
            vec![
                said(&token.name),
                state(word, tone),
                html! { (scopes.join(", ")) },
                html! { code { (token.id) } },
                when(token.created_at, visit.now),
                when_any(token.last_used_at, visit.now),
                when_any(token.expires_at, visit.now),
                when_any(token.revoked_at, visit.now),
            ]
        })
        .collect();
    let columns = [
        text("Name"),
        text("State"),
        text("Scopes"),
        text("Id"),
        text("Created"),
        text("Last used"),
        text("Expires"),
        text("Revoked"),
    ];
    table("Access tokens, oldest first", &columns, &rows)
}
