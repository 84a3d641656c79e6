//! Extractors that refuse with a [`Problem`] instead of axum's plain text.

use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::de::DeserializeOwned;

use super::problem::{Answer, Problem};
use crate::api::{Code, Object};
use crate::ingest::body::unreadable;

/// A JSON body, which is an object.
pub(super) struct Json<T>(pub(super) T);

/// A JSON body, which is an object; the default if there is no body.
pub(super) struct OptionalJson<T>(pub(super) T);

/// The body's bytes, within the limit.
pub(super) struct Bytes(pub(super) axum::body::Bytes);

/// The same of a body whose `Content-Type` is JSON or missing.
struct Body(axum::body::Bytes);

/// A JSON merge patch (RFC 7396), which is an object.
pub(super) struct MergePatch<T>(pub(super) T);

/// The path's parameters.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync> FromRequest<S> for Bytes {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Answer<Self> {
        refuse_encoded(request.headers())?;
        match axum::body::Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(BytesRejection::FailedToBufferBody(error))
                if error.status() == StatusCode::PAYLOAD_TOO_LARGE =>
            {
                Err(too_large())
            }
            Err(_) => Err(Problem::bad_request("The body broke off.")),
        }
    }
}

/// Refuses compressed bodies: one could be far larger than its limit.
pub(super) fn refuse_encoded(headers: &HeaderMap) -> Answer<()> {
    let is_identity = |value: &HeaderValue| {
        let codings = value.to_str().unwrap_or("unreadable").split(',').map(str::trim);
        codings.filter(|coding| !coding.is_empty()).all(|it| it.eq_ignore_ascii_case("identity"))
    };
    if headers.get_all(header::CONTENT_ENCODING).iter().all(is_identity) {
        return Ok(());
    }
    Err(Problem::new(
        Code::UnsupportedContentEncoding,
        "The body must not be compressed: send it without Content-Encoding.",
    ))
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Answer<Self> {
        require_json(request.headers())?;
        Bytes::from_request(request, state).await.map(|Bytes(bytes)| Self(bytes))
    }
}

/// Refuses a body whose `Content-Type` is not JSON.
pub(super) fn require_json(headers: &HeaderMap) -> Answer<()> {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    if is_media(content_type, "application/json") {
        return Ok(());
    }
    Err(Problem::new(Code::UnsupportedMediaType, "The body must be application/json."))
}

pub(super) fn too_large() -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        "The body is larger than this request may have: server.body_limit for events, 256 KiB otherwise.",
    )
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Answer<Self> {
        let Body(bytes) = Body::from_request(request, state).await?;
        parse(&bytes).map(|Object(value)| Self(value))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Answer<Self> {
        let Body(bytes) = Body::from_request(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        parse(&bytes).map(|Object(value)| Self(value))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for MergePatch<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Answer<Self> {
        if let Some(content_type) = request.headers().get(header::CONTENT_TYPE)
            && !["application/merge-patch+json", "application/json"]
                .iter()
                .any(|media| is_media(content_type, media))
        {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "The body must be application/merge-patch+json or application/json.",
            ));
        }
        let Bytes(bytes) = Bytes::from_request(request, state).await?;
        parse(&bytes).map(|Object(value)| Self(value))
    }
}

/// Whether a `Content-Type` is this one, whatever its parameters.
fn is_media(content_type: &HeaderValue, media: &str) -> bool {
    let text = content_type.to_str().unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media)
}

/// Reads JSON. A text that is not JSON is refused with 400, JSON of another shape with
/// 422.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Answer<T> {
    serde_json::from_slice(bytes).map_err(|error| unreadable::<T>(bytes, &error).into())
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|_: PathRejection| {
                Problem::new(Code::NotFound, "No resource has such an identifier.")
            })
    }
}
