//! What gRPC requires of each request besides its service: `POST`, a content type of gRPC, and a
//! deadline, if the client states one in `grpc-timeout`.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::Status;

use super::super::problem::Problem;
use crate::api::Code;

/// The media types of messages that the services can read.
const MEDIA_TYPES: [&str; 2] = ["application/grpc", "application/grpc+proto"];
const TIMEOUT: &str = "grpc-timeout";
/// Longer deadlines are none: no connection lasts that long.
const MAX_TIMEOUT: Duration = Duration::from_hours(24 * 365);

/// Until when the client waits for the end of its call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(pub(super) Instant);

/// Refuses what is no request of gRPC, and a call whose deadline has passed. What serves the request
/// finds its [`Deadline`] among the extensions.
pub(super) async fn checked(mut request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        let refused = Problem::new(Code::MethodNotAllowed, "Calls of gRPC use POST.");
        return ([(header::ALLOW, HeaderValue::from_static("POST"))], refused).into_response();
    }
    if !is_grpc(request.headers()) {
        let what = "The body must be application/grpc or application/grpc+proto.";
        return Problem::new(Code::UnsupportedMediaType, what).into_response();
    }
    let after = match timeout(request.headers()) {
        Ok(after) => after.filter(|after| *after <= MAX_TIMEOUT),
        Err(status) => return status.into_http(),
    };
    if let Some(after) = after {
        if after.is_zero() {
            return exceeded().into_http();
        }
        request.extensions_mut().insert(Deadline(Instant::now() + after));
    }
    next.run(request.map(|body| Body::new(Complete(body)))).await
}

/// The body of a request, whose end is an error unless the client has sent it: hyper ends a body in the
/// same way when the connection is lost.
struct Complete(Body);

impl HttpBody for Complete {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let next = ready!(Pin::new(&mut self.0).poll_frame(context));
        if next.is_none() && !self.0.is_end_stream() {
            let lost = io::Error::new(io::ErrorKind::UnexpectedEof, "the call was cut off");
            return Poll::Ready(Some(Err(axum::Error::new(lost))));
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// Ends a call at its deadline, whatever its service does.
pub(super) async fn ended_at_deadline(request: Request, next: Next) -> Response {
    let Some(Deadline(deadline)) = request.extensions().get().copied() else {
        return next.run(request).await;
    };
    match timeout_at(deadline, next.run(request)).await {
        Ok(response) => ended_at(response, deadline, Some(exceeded())),
        Err(_) => exceeded().into_http(),
    }
}

/// The status of a call that has reached its deadline.
pub(super) fn exceeded() -> Status {
    Status::deadline_exceeded("the deadline of the call, grpc-timeout, has passed")
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let stated = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let stated = stated.and_then(|stated| stated.split(';').next()).unwrap_or_default().trim();
    MEDIA_TYPES.iter().any(|known| known.eq_ignore_ascii_case(stated))
}

/// The time that a client states: at most eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    value.to_str().ok().and_then(parsed).map(Some).ok_or_else(|| {
        Status::invalid_argument(
            "grpc-timeout: must be at most eight digits and one of the units H, M, S, m, u and n",
        )
    })
}

fn parsed(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = text.strip_suffix(unit)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_hours(number),
        'M' => Duration::from_mins(number),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Ends a response at a time, with a status if there is one.
pub(super) fn ended_at(response: Response, deadline: Instant, status: Option<Status>) -> Response {
    let ended = Box::pin(sleep_until(deadline));
    response.map(|body| Body::new(Limited { body, ended, status, is_over: false }))
}

/// A body that ends at a time.
struct Limited {
    body: Body,
    ended: Pin<Box<Sleep>>,
    status: Option<Status>,
    is_over: bool,
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        // First, so that what ends at the same time ends for this reason.
        if self.ended.as_mut().poll(context).is_ready() {
            self.is_over = true;
            let trailers = self.status.take().and_then(|status| {
                let mut trailers = HeaderMap::new();
                status.add_header(&mut trailers).ok().map(|()| trailers)
            });
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_at_most_eight_digits_and_a_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_hours(1))),
            ("2M", Some(Duration::from_mins(2))),
            ("10S", Some(Duration::from_secs(10))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("", None),
            ("S", None),
            ("10", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            ("1s", None),
            ("999999999S", None),
            ("1\u{b5}", None),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }
}
