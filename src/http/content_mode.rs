//! What the body of `POST /events` is: the service's own JSON, or CloudEvents 1.0 in one of the
//! content modes of their HTTP binding.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use sha2::{Digest as _, Sha256};

use super::extract::require_json;
use super::problem::{HandlerResult, Problem};
use crate::api::Code;
use crate::clock::Timestamp;
use crate::cloud_event::{
    BATCH_MEDIA_TYPE, HEADER_PREFIX, MAX_VALUE_BYTES, MEDIA_TYPE, MEDIA_TYPES, is_json,
};
use crate::ingest::body::{self, Items};
use crate::ingest::{ValidationError, cloud_events};
use crate::trace_context::TraceParent;

/// How a request carries events.
pub(super) enum ContentMode {
    /// The service's own JSON.
    Own,
    /// A CloudEvent in headers, with its data as the body.
    Binary(Binary),
    /// A CloudEvent in JSON.
    Structured,
    /// A list of CloudEvents in JSON.
    Batched,
}

/// The headers of a CloudEvent in binary mode.
pub(super) struct Binary {
    attributes: Vec<(HeaderName, HeaderValue)>,
    content_type: Option<String>,
}

impl ContentMode {
    /// The mode of a request. `Content-Type` decides, and then whether there are headers of attributes.
    pub(super) fn of(headers: &HeaderMap) -> HandlerResult<Self> {
        let content_type = content_type(headers)?;
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let is = |media_type: &str| essence.eq_ignore_ascii_case(media_type);
        if is(MEDIA_TYPE) || is(BATCH_MEDIA_TYPE) {
            // Both end with `+json`.
            if !is_json(content_type) {
                return Err(unsupported("CloudEvents in JSON are UTF-8; omit the charset."));
            }
            return Ok(if is(MEDIA_TYPE) { Self::Structured } else { Self::Batched });
        }
        let beginning = essence.get(..MEDIA_TYPES.len()).unwrap_or_default();
        if beginning.eq_ignore_ascii_case(MEDIA_TYPES) {
            return Err(unsupported(&format!(
                "CloudEvents must be in the JSON format, {MEDIA_TYPE} or {BATCH_MEDIA_TYPE}, or in binary mode."
            )));
        }
        let attributes: Vec<_> = headers
            .iter()
            .filter(|(name, _)| name.as_str().starts_with(HEADER_PREFIX))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if attributes.is_empty() {
            require_json(headers)?;
            return Ok(Self::Own);
        }
        let content_type = Some(content_type).filter(|it| !it.is_empty()).map(str::to_owned);
        Ok(Self::Binary(Binary { attributes, content_type }))
    }

    /// Reads a body.
    pub(super) fn read(
        &self,
        body: &[u8],
        now: Timestamp,
        traceparent: Option<TraceParent>,
    ) -> Result<Items, ValidationError> {
        match self {
            Self::Own => body::read(body, now, traceparent),
            Self::Structured => cloud_events::read_structured(body, now, traceparent),
            Self::Batched => cloud_events::read_batch(body, now, traceparent),
            Self::Binary(Binary { attributes, content_type }) => {
                let headers =
                    attributes.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
                let content_type = content_type.as_deref();
                cloud_events::read_binary(headers, content_type, body, now, traceparent)
            }
        }
    }

    /// The digest of a request with an `Idempotency-Key`: of its body, and in binary mode of the
    /// headers that belong to the event.
    pub(super) fn digest(&self, body: &[u8]) -> [u8; 32] {
        let mut digest = Sha256::new();
        if let Self::Binary(Binary { attributes, content_type }) = self {
            let mut lines: Vec<(&[u8], &[u8])> = attributes
                .iter()
                .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
                .collect();
            lines.sort_unstable();
            let content_type = content_type.as_deref().unwrap_or_default();
            lines.push((header::CONTENT_TYPE.as_str().as_bytes(), content_type.as_bytes()));
            for (name, value) in lines {
                // Neither has line breaks.
                for part in [name, b":", value, b"\n"] {
                    digest.update(part);
                }
            }
        }
        digest.update(body);
        digest.finalize().into()
    }
}

/// The value of `Content-Type`; empty if there is none.
fn content_type(headers: &HeaderMap) -> HandlerResult<&str> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let Some(value) = values.next() else { return Ok("") };
    let text = value.to_str().ok().filter(|text| text.len() <= MAX_VALUE_BYTES);
    match (text, values.next()) {
        (Some(text), None) => Ok(text),
        _ => Err(Problem::invalid(
            "Content-Type",
            format!("must be given once, in at most {MAX_VALUE_BYTES} ASCII characters"),
        )),
    }
}

fn unsupported(why: &str) -> Problem {
    Problem::new(Code::UnsupportedMediaType, why)
}
