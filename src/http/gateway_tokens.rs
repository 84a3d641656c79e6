//! A gateway's keys: created, listed without secrets, and revoked.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::auth::{Admin, Reader};
use super::extract::{self, Path};
use super::openapi::{Bodiless, Body, Missing, Problems, Scoped, Taken, Write};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::Query;
use crate::api::{GatewayToken, NewGatewayToken, Page, WithSecret};
use crate::clock::Timestamp;
use crate::dispatch::Dispatcher;
use crate::event::{GatewayId, Reason};
use crate::store::{Actor, Credentials, NewToken, TokenInfo};
use crate::token::{self, Issued, Kind};

/// Ten years.
const MAX_LIFETIME_SECS: u64 = 10 * 366 * 24 * 3600;

/// Create a key for a gateway.
///
/// The response contains the whole key, which is returned only once. A gateway has at most two live
/// keys, so that one can replace the other.
#[utoipa::path(
    post, path = "/gateways/{id}/tokens", tag = "gateway tokens",
    operation_id = "createGatewayToken",
    params(("id" = GatewayId, Path, description = "The gateway.")),
    request_body = NewGatewayToken,
    responses(
        (status = 201, description = "The new key.", body = WithSecret<GatewayToken>),
        Problems<(Scoped, Missing, Body, Taken, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn create(
    Part(credentials): Part<dyn Credentials>,
    Admin(actor): Admin,
    Path(id): Path<GatewayId>,
    _: Query<()>,
    extract::Json(new): extract::Json<NewGatewayToken>,
) -> HandlerResult<impl IntoResponse> {
    let (issued, info) = new_key(credentials.as_ref(), &actor, id, new).await?;
    Ok(with_secret(&issued, info))
}

/// Creates a key, whose text is in the first part of the result only.
pub(super) async fn new_key(
    credentials: &dyn Credentials,
    actor: &Actor,
    id: GatewayId,
    new: NewGatewayToken,
) -> HandlerResult<(Issued, GatewayToken)> {
    let issued = issue(Kind::Gateway)?;
    let token = to_store(&issued, new.expires_in_seconds)?;
    let info = credentials.create_gateway_token(actor, id, token).await?;
    Ok((issued, info.into()))
}

/// List a gateway's keys.
#[utoipa::path(
    get, path = "/gateways/{id}/tokens", tag = "gateway tokens",
    operation_id = "listGatewayTokens",
    params(("id" = GatewayId, Path, description = "The gateway.")),
    responses(
        (status = 200, description = "All keys, without their secrets.", body = Page<GatewayToken>),
        Problems<(Scoped, Missing)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn list(
    Part(credentials): Part<dyn Credentials>,
    Reader(organisation): Reader,
    Path(id): Path<GatewayId>,
    _: Query<()>,
) -> HandlerResult<Json<Page<GatewayToken>>> {
    let tokens = credentials.gateway_tokens(organisation, id).await?;
    Ok(Json(Page::whole(tokens.into_iter().map(Into::into).collect())))
}

/// Revoke a gateway's key.
///
/// Closes the connections that use it: on this node at once, on other nodes within a
/// second.
#[utoipa::path(
    delete, path = "/gateways/{id}/tokens/{token}", tag = "gateway tokens",
    operation_id = "revokeGatewayToken",
    params(
        ("id" = GatewayId, Path, description = "The gateway."),
        ("token" = String, Path, description = "The public part of the key.", example = "6kzj2v7qmw4t"),
    ),
    responses(
        (status = 204, description = "It is revoked."),
        Problems<(Scoped, Missing, Write, Bodiless)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn revoke(
    State(dispatcher): State<Arc<Dispatcher>>,
    Part(credentials): Part<dyn Credentials>,
    Admin(actor): Admin,
    Path((id, token)): Path<(GatewayId, String)>,
    _: Query<()>,
) -> HandlerResult<StatusCode> {
    credentials.revoke_gateway_token(&actor, id, &token).await?;
    dispatcher.close_token(&token, Reason::TokenRevoked);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn issue(kind: Kind) -> HandlerResult<Issued> {
    token::issue(kind).map_err(|error| {
        tracing::error!(%error, "failed to generate a key");
        Problem::internal()
    })
}

pub(super) fn to_store(issued: &Issued, expires_in_secs: Option<u64>) -> HandlerResult<NewToken> {
    if expires_in_secs.is_some_and(|secs| !(1..=MAX_LIFETIME_SECS).contains(&secs)) {
        return Err(Problem::invalid(
            "expiresInSeconds",
            format!("must be 1 to {MAX_LIFETIME_SECS}; omit it for a key that does not expire"),
        ));
    }
    Ok(NewToken {
        id: issued.id.clone(),
        digest: issued.digest,
        expires_at: expires_in_secs.map(|secs| Timestamp::now().plus(Duration::from_secs(secs))),
    })
}

/// The only response that contains a secret. It must not be cached.
pub(super) fn with_secret<T: Serialize>(issued: &Issued, info: T) -> impl IntoResponse + use<T> {
    let token = issued.key.expose_secret().to_owned();
    let shown = WithSecret { info, token };
    (StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(shown))
}

impl From<TokenInfo> for GatewayToken {
    fn from(token: TokenInfo) -> Self {
        let TokenInfo { id, created_at, expires_at, revoked_at, last_used_at, .. } = token;
        Self { id, created_at, expires_at, revoked_at, last_used_at }
    }
}
