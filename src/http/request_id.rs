//! The ids of requests: those that clients send in `X-Request-Id`, or new ones.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use tower_http::request_id::{MakeRequestId, RequestId};

use crate::clock::Timestamp;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The maximum length of a client's request id, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// The id of a request, which the layers have checked or generated.
pub(super) fn of(headers: &HeaderMap) -> Option<&str> {
    headers.get(REQUEST_ID)?.to_str().ok()
}

/// Generates ids for requests without one.
#[derive(Clone, Copy)]
pub(super) struct NewRequestId;

impl MakeRequestId for NewRequestId {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        // Not `Uuid::now_v7`, which makes a system call for its random part. An id only has to tell
        // requests apart.
        let millis = u64::try_from(Timestamp::now().micros() / 1000).unwrap_or(0);
        let random = std::array::from_fn(|_| fastrand::u8(..));
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
        let mut text = uuid::Uuid::encode_buffer();
        HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)).ok().map(RequestId::new)
    }
}

/// Removes an invalid request id, so that a new one is generated.
pub(super) fn without_bad_request_id(mut request: Request) -> Request {
    let mut ids = request.headers().get_all(REQUEST_ID).iter();
    let is_good = ids.next().is_none_or(is_request_id) && ids.next().is_none();
    if !is_good {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

/// Whether it consists of 1 to 128 letters, digits and `-_.:/+=@`, as UUIDs, ULIDs, hexadecimal and
/// base64 ids do.
fn is_request_id(id: &HeaderValue) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(allowed)
}
