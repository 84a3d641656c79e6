//! `Idempotency-Key`: a client that does not know whether its request succeeded repeats it with the
//! same key, and gets the first response.

use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::extract::{self, Body};
use super::problem::{HandlerResult, Problem};
use crate::api::{BASE_PATH, Code};
use crate::event::quoted;
use crate::store::RequestKey;

/// A JSON body, and the request's `Idempotency-Key`, if it has one.
pub(super) struct Keyed<T>(pub(super) Option<RequestKey>, pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Keyed<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> HandlerResult<Self> {
        let key = key(request.headers())?;
        let path = request.uri().path();
        let path = path.strip_prefix(BASE_PATH).unwrap_or(path).to_owned();
        let Body(bytes) = Body::from_request(request, state).await?;
        let value = extract::parse_object(&bytes)?;
        let request_key = key.map(|key| request_key(key, &path, &bytes));
        Ok(Self(request_key, value))
    }
}

impl<T: Serialize> Keyed<T> {
    /// A request of the console with a key.
    pub(super) fn new(key: String, path: &str, value: T) -> HandlerResult<Self> {
        let bytes = serde_json::to_vec(&value).map_err(|_| Problem::internal())?;
        Ok(Self(Some(request_key(key, path, &bytes)), value))
    }
}

fn request_key(key: String, path: &str, body: &[u8]) -> RequestKey {
    let digest = Sha256::new().chain_update(path).chain_update([0_u8]).chain_update(body);
    RequestKey { key, digest: digest.finalize().into() }
}

/// The key of a request.
pub(super) fn key(headers: &HeaderMap) -> HandlerResult<Option<String>> {
    let mut keys = headers.get_all("idempotency-key").iter();
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    if keys.next().is_some() {
        return Err(Problem::bad_request("There is more than one Idempotency-Key; send only one."));
    }
    let key = key.to_str().ok().filter(|key| (1..=255).contains(&key.len())).ok_or_else(|| {
        Problem::invalid("Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    })?;
    Ok(Some(key.to_owned()))
}

/// The refusal of a key that was used for another request.
pub(super) fn key_reused(key: &str) -> Problem {
    Problem::new(
        Code::IdempotencyKeyReused,
        format!(
            "The Idempotency-Key {} belongs to an earlier request with a different body. Repeat that request unchanged, or use a new key.",
            quoted(key)
        ),
    )
}
