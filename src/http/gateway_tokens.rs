//! A gateway's keys: made and shown once, listed without the secret, revoked.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;
use super::auth::{Admin, Reader};
use super::cursor;
use super::extract::{self, Path};
use super::problem::{Answer, Problem};
use crate::clock::Timestamp;
use crate::event::{GatewayId, Reason};
use crate::store::{NewToken, TokenInfo};
use crate::token::{self, Issued, Kind};

/// Ten years: an expiry farther off is a slip of the pen.
const LONGEST_SECS: u64 = 10 * 366 * 24 * 3600;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct New {
    expires_in_seconds: Option<u64>,
}

/// `POST /gateways/{id}/tokens`.
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Admin(organisation): Admin,
    Path(id): Path<GatewayId>,
    extract::Json(new): extract::Json<New>,
) -> Answer<impl IntoResponse> {
    let issued = issue(Kind::Gateway)?;
    let token = to_store(&issued, new.expires_in_seconds)?;
    let info = app.store.create_gateway_token(organisation, id, token).await?;
    Ok(shown_once(&issued, &info))
}

/// `GET /gateways/{id}/tokens`.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    Path(id): Path<GatewayId>,
) -> Answer<Json<Value>> {
    let tokens = app.store.gateway_tokens(organisation, id).await?;
    Ok(Json(shown_list(&tokens)))
}

/// `DELETE /gateways/{id}/tokens/{token}`. Closes the sockets that use it.
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Admin(organisation): Admin,
    Path((id, token)): Path<(GatewayId, String)>,
) -> Answer<StatusCode> {
    app.store.revoke_gateway_token(organisation, id, &token).await?;
    app.dispatcher.close_token(&token, Reason::TokenRevoked);
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn issue(kind: Kind) -> Answer<Issued> {
    token::issue(kind).map_err(|error| {
        tracing::error!(%error, "no key could be made");
        Problem::internal()
    })
}

pub(super) fn to_store(issued: &Issued, expires_in_secs: Option<u64>) -> Answer<NewToken> {
    if expires_in_secs.is_some_and(|secs| !(1..=LONGEST_SECS).contains(&secs)) {
        return Err(Problem::invalid(
            "expiresInSeconds",
            format!("must be 1 to {LONGEST_SECS}; leave it out for a key that does not expire"),
        ));
    }
    Ok(NewToken {
        id: issued.id.clone(),
        digest: issued.digest,
        expires_at: expires_in_secs.map(|secs| Timestamp::now().plus(Duration::from_secs(secs))),
    })
}

/// The one answer that holds the key; no cache may keep it.
pub(super) fn shown_once(issued: &Issued, info: &TokenInfo) -> impl IntoResponse + use<> {
    let mut shown = json!(info);
    shown["token"] = json!(issued.key.expose_secret());
    (StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(shown))
}

pub(super) fn shown_list(tokens: &[TokenInfo]) -> Value {
    let list: Vec<Value> = tokens.iter().map(|token| json!(token)).collect();
    cursor::page(&list, tokens.len(), None)
}
