//! Manifests: what gateways report about themselves when they connect. The newest one is stored,
//! for admins.
//!
//! Deployed gateways exit on 401, 403, 404, 409 and 422, and retry after other statuses. So a
//! request is refused with 401 if its key is not valid, and otherwise with a status after which
//! gateways retry. The `Content-Type` is not checked.

use axum::http::StatusCode;
use serde_json::value::RawValue;

use super::auth;
use super::extract::{Bytes, Path};
use super::openapi::{Keyed, Manifest, Problems};
use super::part::Part;
use super::problem::{Challenge, HandlerResult, Problem};
use crate::api::Code;
use crate::event::GatewayId;
use crate::ingest::body::malformed;
use crate::store::{Gateways, StoreError, ValidationError};

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
    Part(gateways): Part<dyn Gateways>,
    // First, so that the body of an unauthenticated request is not read.
    auth::Gateway(credential): auth::Gateway,
    Path(id): Path<String>,
    body: Result<Bytes, Problem>,
) -> HandlerResult<StatusCode> {
    if id.parse() != Ok(credential.gateway_id) {
        return Err(Problem::bad_request(format!(
            "The path must contain the id of the gateway that the key belongs to, {}.",
            credential.gateway_id
        )));
    }
    let Bytes(body) = body.map_err(|problem| match problem.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(Code::ManifestTooLarge, "A manifest may have at most 1 MiB.")
        }
        _ => problem,
    })?;
    let manifest: Box<RawValue> = serde_json::from_slice(&body).map_err(|error| {
        Problem::bad_request(match malformed(&error) {
            ValidationError::Malformed(why) => format!("The manifest is not JSON: {why}."),
            _ => format!("The manifest is not JSON: {error}."),
        })
    })?;
    if !manifest.get().starts_with('{') {
        return Err(Problem::bad_request("The manifest must be a JSON object."));
    }
    match gateways.set_manifest(credential.gateway, manifest.get()).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        // The gateway was deleted after its key was read, so the key is no longer valid.
        Err(StoreError::NotFound(_)) => Err(Problem::unauthorized(Challenge::ApiKey)),
        Err(error) => Err(error.into()),
    }
}
