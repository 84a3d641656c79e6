//! Extractors that refuse with a [`Problem`] instead of axum's plain text.

use axum::body::BodyDataStream;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use super::problem::{HandlerResult, Problem};
use crate::api::{Code, Object};
use crate::ingest::body::unreadable;

/// A JSON body, which is an object.
pub(super) struct Json<T>(pub(super) T);

/// A JSON body, which is an object; the default if there is no body.
pub(super) struct OptionalJson<T>(pub(super) T);

/// The body's bytes, within the route's [`BodyLimit`].
pub(super) struct Bytes(pub(super) axum::body::Bytes);

/// The size in bytes that the bodies of a route may have: an extension of its requests.
#[derive(Clone, Copy)]
pub(super) struct BodyLimit(pub(super) usize);

impl Default for BodyLimit {
    /// The limit of routes that set none.
    fn default() -> Self {
        Self(256 * 1024)
    }
}

/// How many bytes beyond its limit of a refused body are read, without being kept. Without that,
/// the sender of a body that is not much too large would see a broken connection instead of the
/// response.
const DISCARDED_BYTES: usize = 4 * 1024 * 1024;

/// The same of a body whose `Content-Type` is JSON or missing.
pub(super) struct Body(pub(super) axum::body::Bytes);

/// A JSON merge patch (RFC 7396), which is an object.
pub(super) struct MergePatch<T>(pub(super) T);

/// The path's parameters.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync> FromRequest<S> for Bytes {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> HandlerResult<Self> {
        refuse_encoded(request.headers())?;
        let BodyLimit(limit) = request.extensions().get().copied().unwrap_or_default();
        let mut parts = BodyParts::new(request, limit);
        let mut kept = Vec::new();
        while let Some(part) = parts.next().await {
            match part {
                Ok(part) => kept.extend_from_slice(&part),
                Err(problem) => {
                    drop(kept);
                    parts.discard().await;
                    return Err(problem);
                }
            }
        }
        Ok(Self(kept.into()))
    }
}

/// The parts of a request's body, as they arrive.
pub(super) struct BodyParts {
    stream: BodyDataStream,
    limit: usize,
    length: usize,
    is_declared_too_large: bool,
}

impl BodyParts {
    /// A body that may have `limit` bytes.
    pub(super) fn new(request: Request, limit: usize) -> Self {
        let declared = request.headers().get(header::CONTENT_LENGTH);
        let declared = declared.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        Self {
            stream: request.into_body().into_data_stream(),
            limit,
            length: 0,
            is_declared_too_large: declared.is_some_and(|length| length > limit),
        }
    }

    /// The next part; none at the body's end. A body that is too large, or that breaks off, is
    /// an error.
    pub(super) async fn next(&mut self) -> Option<HandlerResult<axum::body::Bytes>> {
        if self.is_declared_too_large {
            return Some(Err(too_large()));
        }
        let Ok(part) = self.stream.next().await? else {
            return Some(Err(Problem::bad_request(
                "The connection was closed before the whole body was received.",
            )));
        };
        self.length += part.len();
        Some(if self.length > self.limit { Err(too_large()) } else { Ok(part) })
    }

    /// Reads the rest of a refused body, up to [`DISCARDED_BYTES`] beyond its limit.
    pub(super) async fn discard(mut self) {
        while self.length <= self.limit + DISCARDED_BYTES
            && let Some(Ok(part)) = self.stream.next().await
        {
            self.length += part.len();
        }
    }
}

/// Refuses compressed bodies: one could be far larger than its limit.
pub(super) fn refuse_encoded(headers: &HeaderMap) -> HandlerResult<()> {
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

    async fn from_request(request: Request, state: &S) -> HandlerResult<Self> {
        require_json(request.headers())?;
        Bytes::from_request(request, state).await.map(|Bytes(bytes)| Self(bytes))
    }
}

/// Refuses a body whose `Content-Type` is not JSON.
pub(super) fn require_json(headers: &HeaderMap) -> HandlerResult<()> {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    if is_media(content_type, "application/json") {
        return Ok(());
    }
    Err(Problem::new(Code::UnsupportedMediaType, "The body must be application/json."))
}

fn too_large() -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        "The body is larger than this request may have: server.body_limit for events, 256 KiB otherwise.",
    )
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> HandlerResult<Self> {
        let Body(bytes) = Body::from_request(request, state).await?;
        parse_object(&bytes).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> HandlerResult<Self> {
        let Body(bytes) = Body::from_request(request, state).await?;
        // Some clients send `null` where they mean that there is none.
        if bytes.is_empty() || bytes.trim_ascii() == b"null" {
            return Ok(Self(T::default()));
        }
        parse_object(&bytes).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for MergePatch<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> HandlerResult<Self> {
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

/// Reads a JSON object.
pub(super) fn parse_object<T: DeserializeOwned>(bytes: &[u8]) -> HandlerResult<T> {
    parse(bytes).map(|Object(value)| value)
}

/// Reads JSON. A text that is not JSON is refused with 400, JSON of another shape with
/// 422.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> HandlerResult<T> {
    serde_json::from_slice(bytes).map_err(|error| unreadable::<T>(bytes, &error).into())
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> HandlerResult<Self> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|_: PathRejection| {
                Problem::new(Code::NotFound, "There is no resource with this identifier.")
            })
    }
}
