//! Extractors that refuse with a [`Problem`] instead of axum's plain text.

use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::clock::{Timestamp, TimestampError};
use crate::intake::object::Object;

/// A JSON body, which is an object.
pub(super) struct Json<T>(pub(super) T);

/// The body's bytes, within the limit.
pub(super) struct Bytes(pub(super) axum::body::Bytes);

/// The same, if they say of themselves that they are JSON or say nothing.
struct Body(axum::body::Bytes);

/// A JSON merge patch (RFC 7396), which is an object.
pub(super) struct MergePatch<T>(pub(super) T);

/// The query's parameters.
pub(super) struct Query<T>(pub(super) T);

/// The path's parameters.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync> FromRequest<S> for Bytes {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
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

/// Bodies are read as they are: a compressed one could be far larger than its limit.
pub(super) fn refuse_encoded(headers: &HeaderMap) -> Result<(), Problem> {
    let is_identity = |value: &HeaderValue| {
        let codings = value.to_str().unwrap_or("unreadable").split(',').map(str::trim);
        codings.filter(|coding| !coding.is_empty()).all(|it| it.eq_ignore_ascii_case("identity"))
    };
    if headers.get_all(header::CONTENT_ENCODING).iter().all(is_identity) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_content_encoding",
        "The body must not be compressed: send it without Content-Encoding.",
    ))
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        require_json(request.headers())?;
        Bytes::from_request(request, state).await.map(|Bytes(bytes)| Self(bytes))
    }
}

/// A body that says what it is must say that it is JSON.
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    if is_media(content_type, "application/json") {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "The body must be application/json.",
    ))
}

pub(super) fn too_large() -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        "The body is larger than this request may have: server.body_limit for events, 256 KiB otherwise.",
    )
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Body(bytes) = Body::from_request(request, state).await?;
        parse(&bytes).map(|Object(value)| Self(value))
    }
}

/// Reads a time that stands in a query. A `+` in a query means a blank, so that
/// an offset whose `+` was not written as `%2B` arrives with one.
pub(super) fn instant(text: &str) -> Result<Timestamp, TimestampError> {
    const OFFSET: usize = " 01:00".len();
    let offset = text.len().checked_sub(OFFSET).and_then(|at| text.split_at_checked(at));
    match offset {
        Some((time, offset)) if offset.starts_with(' ') && time.contains(['T', 't']) => {
            Timestamp::parse(&format!("{time}+{}", offset.trim_start()))
        }
        _ => Timestamp::parse(text),
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for MergePatch<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if let Some(content_type) = request.headers().get(header::CONTENT_TYPE)
            && !["application/merge-patch+json", "application/json"]
                .iter()
                .any(|media| is_media(content_type, media))
        {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
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

/// Reads JSON: what is no JSON at all is 400, JSON of another shape 422.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| json_problem(&error))
}

/// The same of a text, from which the value may borrow.
pub(super) fn parse_text<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| json_problem(&error))
}

/// Says what is wrong with a JSON text, and with which field if it is known.
pub(super) fn json_problem(error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    if error.classify() == serde_json::error::Category::Data {
        let (field, why) = misplaced(&text).unwrap_or(("body", &text));
        return Problem::invalid(field, why);
    }
    Problem::new(StatusCode::BAD_REQUEST, "malformed_json", format!("The body is no JSON: {text}."))
}

/// The field that is missing, unknown or there twice, and what serde says of
/// it; some who pass its words on put their own before them.
fn misplaced(text: &str) -> Option<(&str, &str)> {
    let complaints = ["missing field `", "unknown field `", "duplicate field `"];
    let at = complaints.iter().find_map(|complaint| text.find(complaint))?;
    let why = &text[at..];
    Some((why.split('`').nth(1)?, why))
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Query::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|error: QueryRejection| {
                let text = error.body_text();
                let (parameter, why) = misplaced(&text).unwrap_or(("query", &text));
                Problem::invalid(parameter, why)
            })
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|_: PathRejection| {
                Problem::new(
                    StatusCode::NOT_FOUND,
                    "not_found",
                    "No resource has such an identifier.",
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_in_a_query_may_have_lost_its_plus() {
        let utc = Timestamp::parse("2025-12-31T23:00:00Z").unwrap();
        for text in
            ["2026-01-01T00:00:00 01:00", "2026-01-01T00:00:00+01:00", "2025-12-31T23:00:00Z"]
        {
            assert_eq!(instant(text).unwrap(), utc, "{text}");
        }
        for bad in ["2026-01-01 00:00", "2026-01-01T00:00:00", "T 01:00", " 01:00", "é 01:00", ""]
        {
            assert!(instant(bad).is_err(), "{bad:?}");
        }
    }
}
