//! The responses of the router where no handler gives one.

use axum::BoxError;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use super::problem::Problem;
use crate::api::Code;

/// 405 to `HEAD`, which axum passes to the handlers of `GET`: some of them have effects.
pub(super) fn get_only() -> Response {
    let problem = Problem::new(Code::MethodNotAllowed, "This path only accepts GET.");
    ([(header::ALLOW, "GET")], problem).into_response()
}

pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        "This path exists, but not for this method; the Allow header lists those that do.",
    )
}

pub(super) async fn timed_out(_: BoxError) -> Problem {
    Problem::unavailable(
        Code::Timeout,
        "The request took too long. If it was to store something, that may still happen; a retry with the same event id or Idempotency-Key is safe.",
    )
}
