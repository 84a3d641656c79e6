//! Manifests: what gateways report about themselves when they connect. The newest one is stored,
//! for admins.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::value::RawValue;

use super::App;
use super::auth;
use super::extract::{Bytes, Path};
use super::openapi::{Keyed, Manifest, Problems};
use super::problem::{Answer, Problem};
use crate::api::Code;
use crate::event::GatewayId;

/// The maximum size of a manifest. No more of a body is read.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

/// Store a gateway's manifest.
///
/// Unmodified gateways send it on each connect. The newest one is kept and shown with the
/// gateway.
#[utoipa::path(
    post, path = "/gateways/{id}/manifest", tag = "for gateways", operation_id = "storeManifest",
    params(("id" = GatewayId, Path, description = "The gateway that the key belongs to.")),
    request_body(content = Object, description = "A JSON object, at most 1 MiB.",
        example = json!({"version": "1.2.0", "functionalityType": "regular", "policies": []})),
    responses(
        (status = 204, description = "It is stored."),
        Problems<(Keyed, Manifest)>,
    ),
    security(("gateway_key" = [])),
)]
pub(super) async fn keep(
    State(app): State<Arc<App>>,
    // First, so that the body of an unauthenticated request is not read.
    auth::Gateway(credential): auth::Gateway,
    Path(id): Path<GatewayId>,
    body: Result<Bytes, Problem>,
) -> Answer<StatusCode> {
    // Gateways exit on 401, and this key is valid.
    if credential.gateway_id != id {
        return Err(Problem::not_found("gateway for this key"));
    }
    let Bytes(body) = body.map_err(|problem| match problem.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(Code::ManifestTooLarge, "A manifest may have at most 1 MiB.")
        }
        _ => problem,
    })?;
    // Gateways exit on 422, so a body that is not a JSON object is refused with 400.
    let manifest: Box<RawValue> = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("The manifest is not JSON: {error}.")))?;
    if !manifest.get().starts_with('{') {
        return Err(Problem::bad_request("The manifest must be a JSON object."));
    }
    app.store.set_manifest(credential.gateway, manifest.get()).await?;
    Ok(StatusCode::NO_CONTENT)
}
