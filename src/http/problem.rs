//! Every refusal has this form: `application/problem+json` (RFC 9457) with a
//! `code` that programs may rely on and a text that tells people what to do.
//! What is inside the service stays inside; it goes to the log.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::store::StoreError;

/// A refusal. One that was kept as JSON can be read again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: Kind,
    status: u16,
    code: Cow<'static, str>,
    title: Cow<'static, str>,
    detail: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    #[serde(flatten)]
    members: Option<Box<Map<String, Value>>>,
    #[serde(skip)]
    retry_after_secs: Option<NonZeroU32>,
    #[serde(skip)]
    challenge: Option<Challenge>,
    #[serde(skip)]
    cause: Option<Arc<StoreError>>,
}

/// What made a request fail, for the log; it goes with the response to where
/// the peer is known.
#[derive(Clone, Debug)]
pub(super) struct Cause(pub(super) Arc<StoreError>);

/// How to authenticate, as a 401 has to say (RFC 9110, section 15.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// With an access token (RFC 6750).
    Bearer,
    /// With a gateway's key in a header of its own, for which no scheme is registered.
    ApiKey,
}

impl Challenge {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "Bearer",
            Self::ApiKey => "ApiKey",
        }
    }
}

/// The only kind: what it means is said by its status and code.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Kind {
    #[serde(rename = "about:blank")]
    OfItsStatus,
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// Its path, such as `payload/apiId`.
    pub field: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// How a handler answers.
pub type Answer<T> = Result<T, Problem>;

impl Problem {
    /// A refusal with a status, a stable code and a text for people.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: Kind::OfItsStatus,
            status: status.as_u16(),
            code: Cow::Borrowed(code),
            title: Cow::Borrowed(status.canonical_reason().unwrap_or("Error")),
            detail: detail.into(),
            errors: Vec::new(),
            members: None,
            retry_after_secs: None,
            challenge: None,
            cause: None,
        }
    }

    /// 400: the request can't be read.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// 401, the same for every reason; the challenge says how to authenticate.
    pub fn unauthorized(challenge: Challenge) -> Self {
        Self {
            challenge: Some(challenge),
            ..Self::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "The credentials are missing or not valid.",
            )
        }
    }

    /// 404.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("There is no such {what}."))
    }

    /// 422: one field is wrong.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid_fields(vec![FieldError { field: field.into(), message: message.into() }])
    }

    /// 422: several fields are wrong.
    pub fn invalid_fields(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("{}: {}", one.field, one.message),
            many => format!("{} fields are not valid.", many.len()),
        };
        Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail) }
    }

    /// 503 with a `Retry-After` that differs from caller to caller, so that
    /// they do not all come back in the same second.
    pub fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(fastrand::u32(1..=5))
    }

    /// 503: all ordinary connections are in use, and the reserve is for probes and admins.
    pub fn http_connection_limit() -> Self {
        Self::unavailable(
            "http_connection_limit",
            "Too many requests are under way; try again later.",
        )
    }

    /// With a `Retry-After`.
    #[must_use]
    pub const fn retry_after(mut self, secs: u32) -> Self {
        self.retry_after_secs = NonZeroU32::new(secs);
        self
    }

    /// With another member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.get_or_insert_default().insert(name.to_owned(), value.into());
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Its stable code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// As a part of a larger answer.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let problem = match &error {
            StoreError::Unavailable(_)
            | StoreError::ConnectionLost(_)
            | StoreError::Disk(_)
            | StoreError::SchemaChanged(_) => Self::unavailable(
                "unavailable",
                "The service can't take this now; try again later.",
            ),
            StoreError::Unknown(_) => Self::unavailable(
                "commit_outcome_unknown",
                "It is not known whether this was stored. A retry with the same event id or Idempotency-Key is safe.",
            ),
            StoreError::StorageFull => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "storage_full",
                "The disk is nearly full; nothing is published until space is freed.",
            ),
            StoreError::TooLong(_) => Self::unavailable(
                "answer_too_long",
                format!("This was ended: {error}. Ask for a shorter window, or for less."),
            ),
            StoreError::Conflict(why) => Self::new(StatusCode::CONFLICT, "conflict", why.clone()),
            StoreError::NotFound(what) => Self::not_found(what),
            StoreError::Corrupt(_) => Self::internal(),
        };
        Self { cause: Some(Arc::new(error)), ..problem }
    }
}

impl Problem {
    /// 500; the reason is in the log.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong inside the service; its log says more.",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let (retry_after, challenge) = (self.retry_after_secs, self.challenge);
        let cause = self.cause.clone();
        let problem = Arc::new(self);
        let mut response = (status, Json(&problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge.as_str()));
        }
        if let Some(secs) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs.get()));
        }
        if let Some(cause) = cause {
            response.extensions_mut().insert(Cause(cause));
        }
        // For the layers around the handlers, which know the request.
        response.extensions_mut().insert(problem);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_refusal_reads_as_it_was_given() {
        let ids = serde_json::json!(["one"]);
        for problem in [
            Problem::invalid("type", "is required"),
            Problem::new(StatusCode::NOT_FOUND, "unknown_gateways", "Some.").with("ids", ids),
        ] {
            let kept = problem.to_value();
            let read: Problem = serde_json::from_value(kept.clone()).unwrap();
            assert_eq!(read.to_value(), kept);
        }
    }

    #[test]
    fn store_errors_become_what_clients_can_act_on() {
        for (error, status, code) in [
            (StoreError::Unavailable("locked".into()), 503, "unavailable"),
            (StoreError::ConnectionLost("locked".into()), 503, "unavailable"),
            (StoreError::Disk("page 3".into()), 503, "unavailable"),
            (StoreError::Unknown("io".into()), 503, "commit_outcome_unknown"),
            (StoreError::StorageFull, 507, "storage_full"),
            (StoreError::TooLong(std::time::Duration::from_secs(1)), 503, "answer_too_long"),
            (StoreError::Conflict("taken".into()), 409, "conflict"),
            (StoreError::NotFound("gateway"), 404, "not_found"),
            (StoreError::Corrupt("page 3".into()), 500, "internal"),
        ] {
            let problem = Problem::from(error);
            assert_eq!((problem.status, problem.code()), (status, code));
            assert!(!problem.detail.contains("page 3") && !problem.detail.contains("locked"));
            let response = problem.into_response();
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), status == 503);
        }
    }
}
