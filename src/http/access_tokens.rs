//! Tokens for this API, with scopes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::Value;

use super::App;
use super::auth::Admin;
use super::extract::{self, Path};
use super::gateway_tokens::{issue, shown_list, shown_once, to_store};
use super::problem::{Answer, Problem};
use crate::store::Scope;
use crate::token::Kind;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct New {
    name: String,
    scopes: Vec<Scope>,
    expires_in_seconds: Option<u64>,
}

/// `POST /access-tokens`.
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Admin(organisation): Admin,
    extract::Json(mut new): extract::Json<New>,
) -> Answer<impl IntoResponse> {
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > 128 || name.chars().any(char::is_control) {
        return Err(Problem::invalid("name", "must be 1 to 128 characters"));
    }
    new.scopes.sort_unstable();
    new.scopes.dedup();
    if new.scopes.is_empty() {
        return Err(Problem::invalid("scopes", "name at least one of publish, read, admin"));
    }
    let issued = issue(Kind::Access)?;
    let token = to_store(&issued, new.expires_in_seconds)?;
    let info = app.store.create_access_token(organisation, name, &new.scopes, token).await?;
    Ok(shown_once(&issued, &info))
}

/// `GET /access-tokens`.
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Admin(organisation): Admin,
) -> Answer<Json<Value>> {
    let tokens = app.store.access_tokens(organisation).await?;
    Ok(Json(shown_list(&tokens)))
}

/// `DELETE /access-tokens/{id}`.
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Admin(organisation): Admin,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    let revoked = app.store.revoke_access_token(organisation, &id).await;
    // Also if nobody knows whether it was done.
    app.access.forget(&id);
    revoked?;
    Ok(StatusCode::NO_CONTENT)
}
