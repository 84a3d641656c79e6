//! What happens after each request.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use super::auth::Auth;
use super::failures::Failures;
use super::listener::Peer;
use super::problem;

/// The end of each request: the error behind a failed one is logged, and the connection is
/// closed, except after a probe or a request with a valid access token. A gateway sends about ten
/// other requests after each connect, most of which are answered with 404; their connections would
/// stay open for a minute each, as would those of refused upgrades.
pub(super) struct Conclusion {
    peer: Option<Peer>,
    /// The client's address.
    address: Option<IpAddr>,
}

impl Conclusion {
    pub(super) fn of(auth: &Auth, request: &Request) -> Self {
        let peer = request.extensions().get::<Peer>().cloned();
        Self { address: auth.address(request.extensions(), request.headers()), peer }
    }

    pub(super) fn apply(self, failures: &Failures, mut response: Response) -> Response {
        if let Some(problem::Cause(error)) = response.extensions().get() {
            failures.store(self.address, error);
        }
        let is_kept = self.peer.is_none_or(|peer| peer.is_kept());
        if !is_kept && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
