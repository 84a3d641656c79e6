//! What a gateway says about itself when it has connected. Only the newest
//! manifest is kept, for admins to look at.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::value::RawValue;

use super::App;
use super::auth;
use super::extract::Path;
use super::problem::{Answer, Problem};
use crate::event::GatewayId;

const MAX_BYTES: usize = 1024 * 1024;

/// `POST /gateways/{id}/manifest`, with the gateway's own key.
pub(super) async fn keep(
    State(app): State<Arc<App>>,
    Path(id): Path<GatewayId>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<StatusCode> {
    let presented = auth::gateway_key(&headers).ok_or_else(Problem::unauthorized)?;
    let credential = auth::gateway(app.store.as_ref(), &presented)
        .await?
        .filter(|credential| credential.gateway_id == id)
        .ok_or_else(Problem::unauthorized)?;
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
