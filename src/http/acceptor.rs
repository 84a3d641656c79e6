//! Accepts gateways over every transport: what the entry points share, and how refusals are
//! logged, counted, recorded and rendered.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::client_address::client_address;
use super::failures::{self, Failures};
use super::gateway_frames::Streams;
use super::listener::Peer;
use super::not_opened;
use super::problem::{Challenge, HandlerResult, Problem};
use crate::admission::{Admissions, Candidate, Cause, NotOpened, Refusal};
use crate::api::Code;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::ingest::Rules;
use crate::store::{GatewayCredential, Gateways, NotedRefusal};
use crate::token::Kind;
use crate::transport::reliable::{self, Closing};

/// What the entry points of all transports need.
pub(super) struct Acceptor {
    pub(super) admissions: Admissions,
    pub(super) config: Arc<Config>,
    pub(super) rules: Arc<Rules>,
    pub(super) failures: Arc<Failures>,
    pub(super) gateways: Arc<dyn Gateways>,
    pub(super) streams: Streams,
}

impl Acceptor {
    /// The client's address: the peer's, or the one that a trusted proxy reports.
    pub(super) fn address(&self, peer: &Peer, headers: &HeaderMap) -> IpAddr {
        client_address(peer.address.ip(), headers, &self.config.server.trusted_proxies)
    }

    /// The maximum size of a frame of reliable mode, in bytes.
    pub(super) fn frame_bytes(&self) -> u64 {
        reliable::frame_bytes(self.rules.event_bytes())
    }

    /// Browsers send an Origin header, gateways don't. A web page must not be able to use a key that it
    /// obtained. The status is 400, after which gateways retry, so that a proxy which adds the header
    /// does not stop a fleet.
    pub(super) fn check_origin(&self, headers: &HeaderMap) -> HandlerResult<()> {
        let allowed = &self.config.server.allowed_origins;
        let listed =
            |origin: &HeaderValue| allowed.iter().any(|one| one.as_bytes() == origin.as_bytes());
        if headers.get_all(header::ORIGIN).iter().all(listed) {
            return Ok(());
        }
        Err(Problem::new(
            Code::OriginRefused,
            "Web pages may not connect here, unless their origin is listed in server.allowed_origins.",
        ))
    }

    /// Refuses a request that can't become a connection. An invalid key is refused as such, whatever else is
    /// wrong.
    pub(super) async fn invalid_request(&self, candidate: Candidate, problem: Problem) -> Refused {
        match self.admissions.authenticate(candidate).await {
            Ok(authenticated) => {
                Refused::from(authenticated.refuse(Cause::InvalidRequest)).with_problem(problem)
            }
            Err(refusal) => refusal.into(),
        }
    }

    /// Logs and counts a refusal, records it for the gateway, and renders it.
    pub(super) fn refuse(
        &self,
        refused: Refused,
        address: IpAddr,
        transport: &'static str,
    ) -> Response {
        if refused.is_invalid_key {
            failures::count(Kind::Gateway);
        }
        let (token, gateway) = (refused.token.as_deref(), refused.gateway.as_ref());
        self.failures.connection(address, transport, &refused.problem, token, gateway);
        if let Some(gateway) = &refused.gateway
            && self.failures.may_note(gateway.gateway)
        {
            // An invalid key is the reason, even if the attempt also exceeded the limit.
            let code = if refused.is_invalid_key { "unauthorized" } else { refused.problem.code() };
            let cause = refused.is_invalid_key.then(|| gateway.fault(Timestamp::now()));
            let (code, address) = (code.to_owned(), address.to_string());
            self.gateways.note_refusal(gateway.gateway, NotedRefusal { code, cause, address });
        }
        let mut response = refused.problem.into_response();
        let is_upgrade_required = response.status() == StatusCode::UPGRADE_REQUIRED;
        let headers = response.headers_mut();
        // Also if an earlier request kept the connection: a peer that asked for another
        // protocol may already have sent bytes that are no request.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if is_upgrade_required {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}

/// A gateway that is refused, and what is known about it.
pub(super) struct Refused {
    pub(super) problem: Problem,
    /// The public part of the key.
    token: Option<String>,
    gateway: Option<GatewayCredential>,
    is_invalid_key: bool,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { problem, token: None, gateway: None, is_invalid_key: false }
    }
}

impl From<NotOpened> for Refused {
    fn from(cause: NotOpened) -> Self {
        not_opened::problem(cause).into()
    }
}

impl From<Closing> for Refused {
    fn from(closing: Closing) -> Self {
        not_opened::closed(closing).into()
    }
}

impl From<Box<Refusal>> for Refused {
    fn from(refusal: Box<Refusal>) -> Self {
        let Refusal { cause, token, gateway, is_invalid_key } = *refusal;
        Self { problem: problem(cause), token, gateway, is_invalid_key }
    }
}

impl Refused {
    /// Replaces the problem of the refusal.
    fn with_problem(self, problem: Problem) -> Self {
        Self { problem, ..self }
    }
}

/// The codes of refused connection attempts, as the metric of refusals names them. Errors of the database can
/// add others.
pub const REFUSAL_CODES: [Code; 12] = [
    Code::Unauthorized,
    Code::GatewayDisabled,
    Code::UpgradeRequired,
    Code::BadRequest,
    Code::OriginRefused,
    Code::Conflict,
    Code::Invalid,
    Code::TooManyAttempts,
    Code::ConnectionLimit,
    Code::GatewayConnectionLimit,
    Code::Draining,
    Code::Unavailable,
];

/// Renders a refusal as a problem document.
fn problem(cause: Cause) -> Problem {
    match cause {
        Cause::InvalidKey => Problem::unauthorized(Challenge::ApiKey),
        Cause::Disabled => Problem::new(Code::GatewayDisabled, "This gateway is disabled."),
        Cause::InvalidRequest => {
            Problem::bad_request("The request is not a valid WebSocket upgrade (RFC 6455).")
        }
        Cause::TooManyAttempts(wait) => too_many(wait),
        Cause::ConnectionLimit => Problem::unavailable(
            Code::ConnectionLimit,
            "Too many gateways are connected; try again later.",
        ),
        Cause::GatewayConnectionLimit(limit) => Problem::unavailable(
            Code::GatewayConnectionLimit,
            format!(
                "This gateway has {limit} connections to this node, as many as it may have: \
                 delivery.max_connections_per_gateway, or twice its declared replicas if that \
                 is more."
            ),
        )
        .retry_after(1),
        Cause::Draining => {
            Problem::unavailable(Code::Draining, "This node is shutting down; connect again.")
        }
        Cause::Interrupted => Problem::unavailable(
            Code::Unavailable,
            "This connection was closed while it was opened; connect again.",
        ),
        Cause::Store(error) => error.into(),
    }
}

fn too_many(wait: Duration) -> Problem {
    // Rounded up, so that an attempt after this time is allowed.
    let secs = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
    Problem::new(
        Code::TooManyAttempts,
        format!("Too many connection attempts; retry after {secs} s."),
    )
    .retry_after(secs)
}
