//! Tokens for this API, with scopes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::auth::{Admin, Auth};
use super::extract::{self, Path};
use super::gateway_tokens::{issue, to_store, with_secret};
use super::openapi::{Bodiless, Body, Missing, Problems, Scoped, Write};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::Query;
use crate::api::{AccessToken, Code, NewAccessToken, Page, Scope, WithSecret};
use crate::names;
use crate::store::{self, Actor, Credentials, TokenInfo};
use crate::token::{self, Issued, Kind};

/// Create an access token.
///
/// The response contains the whole token, which is returned only once.
#[utoipa::path(
    post, path = "/access-tokens", tag = "access tokens", operation_id = "createAccessToken",
    request_body = NewAccessToken,
    responses(
        (status = 201, description = "The new token.", body = WithSecret<AccessToken>),
        Problems<(Scoped, Body, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn create(
    Part(credentials): Part<dyn Credentials>,
    Admin(actor): Admin,
    _: Query<()>,
    extract::Json(new): extract::Json<NewAccessToken>,
) -> HandlerResult<impl IntoResponse> {
    let issued = issue(Kind::Access)?;
    let info = store_issued(credentials.as_ref(), &actor, new, &issued).await?;
    Ok(with_secret(&issued, info))
}

/// Creates an access token for a request that may be sent twice. The seed identifies the request: the
/// second one is a conflict, on any node and after any time.
pub(super) async fn create_once(
    credentials: &dyn Credentials,
    actor: &Actor,
    new: NewAccessToken,
    seed: &[u8],
) -> HandlerResult<(Issued, AccessToken)> {
    let id = token::id_of(seed);
    let exists = async || {
        let tokens = credentials.access_tokens(actor.organisation).await?;
        HandlerResult::Ok(tokens.iter().any(|token| token.id == id))
    };
    let repeated = || {
        let why = format!(
            "The form was sent twice, and the token {id} was created the first time. It was shown then, and can't be shown again. If you don't have it, revoke it and create another one."
        );
        Problem::new(Code::Conflict, why)
    };
    if exists().await? {
        return Err(repeated());
    }
    let issued = token::issue_as(Kind::Access, id.clone()).map_err(|error| {
        tracing::error!(%error, "failed to generate an access token");
        Problem::internal()
    })?;
    match store_issued(credentials, actor, new, &issued).await {
        Ok(info) => Ok((issued, info)),
        // The other request may have been faster.
        Err(problem) if problem.status().is_server_error() && exists().await? => Err(repeated()),
        Err(problem) => Err(problem),
    }
}

async fn store_issued(
    credentials: &dyn Credentials,
    actor: &Actor,
    new: NewAccessToken,
    issued: &Issued,
) -> HandlerResult<AccessToken> {
    let name = new.name.trim();
    if !names::is_name(name, 128) {
        return Err(Problem::invalid(
            "name",
            "must be 1 to 128 characters, not only dots, none of them a control or format character or a filler",
        ));
    }
    let mut scopes: Vec<store::Scope> = new.scopes.into_iter().map(Into::into).collect();
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.is_empty() {
        return Err(Problem::invalid(
            "scopes",
            "must contain at least one of publish, read, admin",
        ));
    }
    let token = to_store(issued, new.expires_in_seconds)?;
    Ok(credentials.create_access_token(actor, name, &scopes, token).await?.into())
}

/// List access tokens.
#[utoipa::path(
    get, path = "/access-tokens", tag = "access tokens", operation_id = "listAccessTokens",
    responses(
        (status = 200, description = "All tokens, without their secrets.", body = Page<AccessToken>),
        Problems<(Scoped,)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn list(
    Part(credentials): Part<dyn Credentials>,
    Admin(actor): Admin,
    _: Query<()>,
) -> HandlerResult<Json<Page<AccessToken>>> {
    let tokens = credentials.access_tokens(actor.organisation).await?;
    Ok(Json(Page::whole(tokens.into_iter().map(Into::into).collect())))
}

/// Revoke an access token.
///
/// It is refused at once on this node, and within a second on other nodes.
#[utoipa::path(
    delete, path = "/access-tokens/{id}", tag = "access tokens",
    operation_id = "revokeAccessToken",
    params(("id" = String, Path, description = "The public part of the token.", example = "6kzj2v7qmw4t")),
    responses(
        (status = 204, description = "It is revoked."),
        Problems<(Scoped, Missing, Write, Bodiless)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn revoke(
    State(auth): State<Arc<Auth>>,
    Part(credentials): Part<dyn Credentials>,
    Admin(actor): Admin,
    Path(id): Path<String>,
    _: Query<()>,
) -> HandlerResult<StatusCode> {
    let revoked = credentials.revoke_access_token(&actor, &id).await;
    // Even if it is unknown whether that was stored.
    auth.forget(&id);
    revoked?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<TokenInfo> for AccessToken {
    fn from(token: TokenInfo) -> Self {
        let TokenInfo { id, name, scopes, created_at, expires_at, revoked_at, last_used_at } =
            token;
        let scopes = scopes.into_iter().map(Into::into).collect();
        Self { id, name, scopes, created_at, expires_at, revoked_at, last_used_at }
    }
}

impl From<Scope> for store::Scope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Publish => Self::Publish,
            Scope::Read => Self::Read,
            Scope::Admin => Self::Admin,
        }
    }
}

impl From<store::Scope> for Scope {
    fn from(scope: store::Scope) -> Self {
        match scope {
            store::Scope::Publish => Self::Publish,
            store::Scope::Read => Self::Read,
            store::Scope::Admin => Self::Admin,
        }
    }
}
