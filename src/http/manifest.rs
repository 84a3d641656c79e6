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

/// The largest manifest; the route reads no more of a body.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

/// `POST /gateways/{id}/manifest`, with the gateway's own key. The key comes
/// first: nothing of a stranger's body is read.
pub(super) async fn keep(
    State(app): State<Arc<App>>,
    auth::Gateway(credential): auth::Gateway,
    Path(id): Path<GatewayId>,
    body: Result<Bytes, Problem>,
) -> Answer<StatusCode> {
    // Gateways end on 401, and this key is a good one.
    if credential.gateway_id != id {
        return Err(Problem::not_found("gateway for this key"));
    }
    let Bytes(body) = body.map_err(|problem| match problem.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "manifest_too_large",
            "A manifest may have 1 MiB.",
        ),
        _ => problem,
    })?;
    // Gateways end on 422: anything that is no JSON object is a 400.
    let manifest: Box<RawValue> = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("The manifest is no JSON: {error}.")))?;
    if !manifest.get().starts_with('{') {
        return Err(Problem::bad_request("The manifest must be a JSON object."));
    }
    app.store.set_manifest(credential.gateway, manifest.get()).await?;
    Ok(StatusCode::NO_CONTENT)
}
