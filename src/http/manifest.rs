//! What a gateway says about itself when it has connected. Only the newest
//! manifest is kept, for admins to look at.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::value::RawValue;

use super::App;
use super::auth;
use super::extract::{Bytes, Path};
use super::problem::{Answer, Problem};
use crate::event::GatewayId;

const MAX_BYTES: usize = 1024 * 1024;

/// `POST /gateways/{id}/manifest`, with the gateway's own key.
pub(super) async fn keep(
    State(app): State<Arc<App>>,
    auth::Gateway(credential): auth::Gateway,
    Path(id): Path<GatewayId>,
    Bytes(body): Bytes,
) -> Answer<StatusCode> {
    if credential.gateway_id != id {
        return Err(auth::wrong_key());
    }
    if body.len() > MAX_BYTES {
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "manifest_too_large",
            "A manifest may have 1 MiB.",
        ));
    }
    // Gateways end on 422: anything that is no JSON object is a 400.
    let manifest: Box<RawValue> = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("The manifest is no JSON: {error}.")))?;
    if !manifest.get().starts_with('{') {
        return Err(Problem::bad_request("The manifest must be a JSON object."));
    }
    app.store.set_manifest(credential.gateway, manifest.get()).await?;
    Ok(StatusCode::NO_CONTENT)
}
