//! Refusals: `application/problem+json` (RFC 9457) with a stable `code` for programs
//! and a text for people that says what to do. Internal details go to the log only.

use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::api::{self, Code, FieldError};
use crate::clock::EmptyWindow;
use crate::event::GatewayId;
use crate::store::{Conflict, Refusal, StoreError, ValidationError};

/// An error response: a problem document (RFC 9457), with the cause for the log.
#[derive(Clone, Debug)]
pub struct Problem {
    document: Box<api::Problem>,
    challenge: Option<Challenge>,
    cause: Option<Arc<StoreError>>,
}

/// The error behind a failed request, for the log. It travels with the response to
/// the layer that knows the peer.
#[derive(Clone, Debug)]
pub(super) struct Cause(pub(super) Arc<StoreError>);

/// How to authenticate, for the header `WWW-Authenticate` of a 401 (RFC 9110, section
/// 15.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// With an access token (RFC 6750).
    Bearer,
    /// With a gateway's key in the header `api-key`, for which no scheme is registered.
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

/// The result of a handler.
pub type HandlerResult<T> = Result<T, Problem>;

impl Problem {
    /// A refusal with a text for people.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(code.status()).unwrap_or_default();
        Self {
            document: Box::new(api::Problem {
                kind: "about:blank".into(),
                status: code.status(),
                code: code.as_str().into(),
                title: status.canonical_reason().unwrap_or("Error").into(),
                detail: detail.into(),
                ..api::Problem::default()
            }),
            challenge: None,
            cause: None,
        }
    }

    /// 400: the request can't be read.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, detail)
    }

    /// 401, the same for every reason; the challenge says how to authenticate.
    pub fn unauthorized(challenge: Challenge) -> Self {
        let detail = "The credentials are missing or not valid.";
        Self { challenge: Some(challenge), ..Self::new(Code::Unauthorized, detail) }
    }

    /// 404. `what` names the kind of resource, such as `gateway`.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("There is no such {what}."))
    }

    /// 422: one field is invalid.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid_fields(vec![FieldError { field: field.into(), message: message.into() }])
    }

    /// 422: several fields are invalid.
    pub fn invalid_fields(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("{}: {}", one.field, one.message),
            many => format!("{} fields are not valid.", many.len()),
        };
        let mut problem = Self::new(Code::Invalid, detail);
        problem.document.errors = errors;
        problem
    }

    /// 503 with a random `Retry-After`, so that clients do not all retry in the same
    /// second.
    pub fn unavailable(code: Code, detail: impl Into<String>) -> Self {
        Self::new(code, detail).retry_after(fastrand::u32(1..=5))
    }

    /// 503: all ordinary connections are in use; the reserve is for probes and admins.
    pub fn http_connection_limit() -> Self {
        Self::unavailable(
            Code::HttpConnectionLimit,
            "Too many requests are under way; try again later.",
        )
    }

    /// 500; the reason is in the log.
    pub fn internal() -> Self {
        Self::new(Code::Internal, "The service failed; its log has the reason.")
    }

    /// With a `Retry-After`, in seconds.
    #[must_use]
    pub fn retry_after(mut self, secs: u32) -> Self {
        self.document.retry_after_secs = Some(secs);
        self
    }

    /// With another text for people.
    #[must_use]
    pub(super) fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.document.detail = detail.into();
        self
    }

    /// With the id of the request.
    #[must_use]
    pub(super) fn with_request_id(mut self, id: &str) -> Self {
        self.document.request_id = Some(id.to_owned());
        self
    }

    /// With the ids that are not registered.
    #[must_use]
    fn of_gateways(mut self, ids: Vec<GatewayId>) -> Self {
        self.document.gateway_ids = ids;
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.document.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Its stable code.
    pub fn code(&self) -> &str {
        &self.document.code
    }

    /// The error behind it, for the log.
    pub(super) fn cause(&self) -> Option<Cause> {
        self.cause.clone().map(Cause)
    }

    /// The document, as a part of a larger answer.
    pub fn into_document(self) -> api::Problem {
        *self.document
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownGateways(ids) => Self::new(
                Code::UnknownGateways,
                "Some of the gateways are not registered; nothing of this event was stored.",
            )
            .of_gateways(ids),
            Refusal::IdTaken(id) => Self::new(
                Code::EventIdTaken,
                format!(
                    "The id {id} belongs to an event with different content. Repeat that event unchanged, or use a new id. Ids are unique in the organisation, whatever the source of a CloudEvent."
                ),
            ),
            Refusal::Invalid(error) => error.into(),
        }
    }
}

impl From<ValidationError> for Problem {
    fn from(error: ValidationError) -> Self {
        let detail = error.to_string();
        match error {
            ValidationError::Malformed(_) => Self::new(Code::MalformedJson, detail),
            ValidationError::Invalid(errors) => Self::invalid_fields(
                errors
                    .into_iter()
                    .map(|error| FieldError { field: error.field, message: error.message })
                    .collect(),
            ),
            ValidationError::Expired => Self::invalid("expiresAt", "is in the past"),
            ValidationError::UnknownType(_) | ValidationError::MisspeltType { .. } => {
                Self::new(Code::UnknownEventType, detail)
            }
            ValidationError::TooLarge { .. } => Self::new(Code::EventTooLarge, detail),
        }
    }
}

impl From<EmptyWindow> for Problem {
    fn from(EmptyWindow { from, to }: EmptyWindow) -> Self {
        Self::invalid("from", format!("{from} must be before `to`, which is {to}"))
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let problem = match &error {
            StoreError::Unavailable(_)
            | StoreError::ConnectionLost(_)
            | StoreError::StatementFailed(_)
            | StoreError::Disk(_)
            | StoreError::SchemaChanged(_) => Self::unavailable(
                Code::Unavailable,
                "The service can't take this now; try again later.",
            ),
            StoreError::Unknown(_) => Self::unavailable(
                Code::CommitOutcomeUnknown,
                "It is not known whether this was stored. A retry with the same event id or Idempotency-Key is safe.",
            ),
            StoreError::StorageFull => Self::new(
                Code::StorageFull,
                "The disk is nearly full; nothing is published until space is freed.",
            ),
            StoreError::TooLong(_) => Self::unavailable(
                Code::QueryTimeout,
                format!(
                    "The query was cancelled: {error}. Request a shorter time window, or a smaller page."
                ),
            ),
            StoreError::Conflict(why @ Conflict::Purged(_)) => {
                Self::new(Code::EventPurged, why.to_string())
            }
            StoreError::Conflict(why @ Conflict::PlainMode) => {
                Self::new(Code::ResyncUnsupported, why.to_string())
            }
            StoreError::Conflict(why @ Conflict::KeyReused { .. }) => {
                Self::new(Code::IdempotencyKeyReused, why.to_string())
            }
            StoreError::Conflict(why) => Self::new(Code::Conflict, why.to_string()),
            StoreError::NotFound(what) => Self::not_found(what),
            StoreError::Corrupt(_) => Self::internal(),
        };
        Self { cause: Some(Arc::new(error)), ..problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let retry_after = self.document.retry_after_secs;
        let (challenge, cause) = (self.challenge, self.cause.clone());
        let problem = Arc::new(self);
        let mut response = (status, Json(&problem.document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(challenge) = challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge.as_str()));
        }
        if let Some(secs) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
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
    fn store_errors_become_what_clients_can_act_on() {
        for (error, status, code) in [
            (StoreError::Unavailable("locked".into()), 503, "unavailable"),
            (StoreError::ConnectionLost("locked".into()), 503, "unavailable"),
            (StoreError::StatementFailed("locked".into()), 503, "unavailable"),
            (StoreError::Disk("page 3".into()), 503, "unavailable"),
            (StoreError::Unknown("io".into()), 503, "commit_outcome_unknown"),
            (StoreError::StorageFull, 507, "storage_full"),
            (StoreError::TooLong(std::time::Duration::from_secs(1)), 503, "query_timeout"),
            (StoreError::Conflict(Conflict::Concurrent), 409, "conflict"),
            (StoreError::NotFound("gateway"), 404, "not_found"),
            (StoreError::Corrupt("page 3".into()), 500, "internal"),
        ] {
            let problem = Problem::from(error);
            assert_eq!((problem.document.status, problem.code()), (status, code));
            assert!(
                !problem.document.detail.contains("page 3")
                    && !problem.document.detail.contains("locked")
            );
            let response = problem.into_response();
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), status == 503);
        }
    }
}
