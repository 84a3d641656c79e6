//! Upgrades to WebSocket. Every refusal comes before the upgrade.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, FromRequestParts as _, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tracing::{Instrument as _, Span};

use super::App;
use super::auth;
use super::client_address::client_address;
use super::failures;
use super::listener::Peer;
use super::not_opened::{self, closing};
use super::observability;
use super::openapi::{Connecting, Problems};
use super::problem::{Challenge, HandlerResult, Problem};
use super::upgrade_headers;
use crate::admission::{Admitted, Candidate, Cause, Greeted, NotOpened, Refusal};
use crate::api::Code;
use crate::clock::Timestamp;
use crate::store::{GatewayCredential, Gateways, NotedRefusal};
use crate::token::Kind;
use crate::transport::frames::PROTOCOL;
use crate::transport::reliable::{self, Closing};
use crate::transport::{self, websocket};

/// tungstenite's default of 128 KiB per connection is far more than pongs need, and each idle
/// connection keeps it. The buffer grows for larger messages.
const READ_BUFFER: usize = 1024;
/// The largest message that a gateway may send, in bytes.
const MAX_INCOMING: usize = 16 * 1024;
/// The size of a frame in excess of its event, and room for control frames, in bytes.
const WRITE_MARGIN: usize = 64 * 1024;
/// Timeout of the peer's part of the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// Connect as a gateway.
///
/// A WebSocket upgrade (version 13, HTTP/1.1). Events follow as text frames; the
/// first frame is `connection.ack`. The subprotocol `gateway-events.v1` selects reliable mode, in
/// which the gateway acknowledges events; other subprotocols are ignored. After any refusal the
/// connection is closed.
#[utoipa::path(
    get, path = "/ws/gateways/connect", tag = "for gateways", operation_id = "connect",
    responses(
        (status = 101, description = "The connection is a WebSocket."),
        Problems<(Connecting,)>,
    ),
    security(("gateway_key" = [])),
)]
pub(super) async fn connect(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let (mut parts, _) = request.into_parts();
    upgrade_headers::normalise(&mut parts.headers);
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map(|upgrade| upgrade.protocols([PROTOCOL]));
    let is_reliable = upgrade.as_ref().is_ok_and(|it| it.selected_protocol().is_some());
    let trusted = &app.config.server.trusted_proxies;
    let address = client_address(peer.address.ip(), &parts.headers, trusted);
    match admit(&app, &peer, address, &parts.headers, upgrade).await {
        Ok((upgrade, Gateway::Plain(admitted))) => {
            let (gateway, id) = (admitted.credential.gateway_id, admitted.session.id());
            let span = observability::connection_span(gateway, id, websocket::NAME, &parts.headers);
            start(&app, upgrade, *admitted, span)
        }
        Ok((upgrade, Gateway::Reliable(greeted))) => {
            let (gateway, transport) = (greeted.credential().gateway_id, websocket::reliable::NAME);
            let id = greeted.greeting().greeting.connection_id;
            let span = observability::connection_span(gateway, id, transport, &parts.headers);
            start_reliable(&app, upgrade, *greeted, span)
        }
        Err(refused) => {
            let transport = if is_reliable { websocket::reliable::NAME } else { websocket::NAME };
            refused.into_response(&app, address, transport)
        }
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

    /// Logs and counts it, records it for the gateway, and renders it.
    pub(super) fn into_response(
        self,
        app: &App,
        address: IpAddr,
        transport: &'static str,
    ) -> Response {
        if self.is_invalid_key {
            failures::count(Kind::Gateway);
        }
        let (token, gateway) = (self.token.as_deref(), self.gateway.as_ref());
        app.failures.connection(address, transport, &self.problem, token, gateway);
        if let Some(gateway) = &self.gateway
            && app.failures.may_note(gateway.gateway)
        {
            // An invalid key is the reason, even if the attempt also exceeded the limit.
            let code = if self.is_invalid_key { "unauthorized" } else { self.problem.code() };
            let cause = self.is_invalid_key.then(|| gateway.fault(Timestamp::now()));
            let (code, address) = (code.to_owned(), address.to_string());
            app.part::<dyn Gateways>()
                .note_refusal(gateway.gateway, NotedRefusal { code, cause, address });
        }
        let mut response = self.problem.into_response();
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

/// Refuses a request that can't become a connection. An invalid key is refused as such, whatever else is
/// wrong.
pub(super) async fn invalid_request(app: &App, candidate: Candidate, problem: Problem) -> Refused {
    match app.admissions.authenticate(candidate).await {
        Ok(authenticated) => {
            Refused::from(authenticated.refuse(Cause::InvalidRequest)).with_problem(problem)
        }
        Err(refusal) => refusal.into(),
    }
}

/// An admitted gateway, by its mode.
enum Gateway {
    Plain(Box<Admitted>),
    Reliable(Box<Greeted>),
}

async fn admit(
    app: &App,
    peer: &Peer,
    address: IpAddr,
    headers: &HeaderMap,
    upgrade: Upgrade,
) -> Result<(WebSocketUpgrade, Gateway), Refused> {
    check_origin(app, headers)?;
    if peer.slot.is_reserve() {
        return Err(Problem::http_connection_limit().into());
    }
    let candidate = auth::candidate(headers, address);
    let upgrade = match (upgrade, upgrade_headers::check(headers)) {
        (Ok(upgrade), Ok(())) => upgrade,
        (_, checked) => {
            let problem = checked.err().map_or_else(upgrade_required, Problem::bad_request);
            return Err(invalid_request(app, candidate, problem).await);
        }
    };
    let gateway = if upgrade.selected_protocol().is_some() {
        Gateway::Reliable(Box::new(
            app.admissions.greet(candidate, websocket::reliable::NAME).await?,
        ))
    } else {
        Gateway::Plain(Box::new(app.admissions.admit(candidate, websocket::NAME).await?))
    };
    peer.slot.authenticated();
    Ok((upgrade, gateway))
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
        Cause::AccessToken => Problem::other_kind(Challenge::ApiKey),
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

fn upgrade_required() -> Problem {
    Problem::new(
        Code::UpgradeRequired,
        "This path accepts only upgrades to WebSocket (version 13, over HTTP/1.1).",
    )
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

/// Browsers send an Origin header, gateways don't. A web page must not be able to use a key that it
/// obtained. The status is 400, after which gateways retry, so that a proxy which adds the header
/// does not stop a fleet.
pub(super) fn check_origin(app: &App, headers: &HeaderMap) -> HandlerResult<()> {
    let allowed = &app.config.server.allowed_origins;
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

/// Answers 101 and runs the socket. If the upgrade fails, the session is dropped with the callback,
/// and recorded as lost.
fn start(app: &App, upgrade: WebSocketUpgrade, admitted: Admitted, span: Span) -> Response {
    let Admitted { session, attempt, .. } = admitted;
    let failed = span.clone();
    let delivery = &app.config.delivery;
    let settings = websocket::Settings {
        write_timeout: delivery.write_timeout,
        close_timeout: CLOSE_TIMEOUT,
        confirmation_timeout: delivery.confirmation_timeout,
    };
    limited(app, upgrade)
        .on_failed_upgrade(move |error| {
            failed.in_scope(|| tracing::info!(%error, "an upgrade failed"));
        })
        .on_upgrade(move |socket| async move {
            let greeting = session.greeting();
            let (lane_end, transport_end) = transport::link();
            span.in_scope(|| session.start(lane_end));
            // In a separate task, so that the memory of the upgrade is freed now.
            let run = async move {
                websocket::run(socket, greeting, transport_end, settings).await;
                drop(attempt);
            };
            tokio::spawn(run.instrument(span));
        })
}

/// The upgrade with the limits of its socket.
fn limited(app: &App, upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    let max_write = app.rules.event_bytes().saturating_add(WRITE_MARGIN);
    upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(websocket::BURST_BYTES)
        .max_write_buffer_size(max_write)
        .max_message_size(MAX_INCOMING)
        .max_frame_size(MAX_INCOMING)
}

/// Answers 101, greets the gateway, and runs the socket as its hello asks.
fn start_reliable(app: &App, upgrade: WebSocketUpgrade, greeted: Greeted, span: Span) -> Response {
    let failed = span.clone();
    let write_timeout = app.config.delivery.write_timeout;
    let settings = websocket::reliable::Settings {
        write_timeout,
        close_timeout: CLOSE_TIMEOUT,
        frame_bytes: reliable::frame_bytes(app.rules.event_bytes()),
    };
    limited(app, upgrade)
        .on_failed_upgrade(move |error| {
            failed.in_scope(|| tracing::info!(%error, "an upgrade failed"));
        })
        .on_upgrade(move |socket| async move {
            // In a separate task, so that the memory of the upgrade is freed now.
            tokio::spawn(run_reliable(socket, greeted, settings).instrument(span));
        })
}

async fn run_reliable(
    socket: WebSocket,
    mut greeted: Greeted,
    settings: websocket::reliable::Settings,
) {
    let greeting = greeted.greeting();
    let greet = websocket::reliable::greet(socket, &greeting, settings, greeted.stopped());
    let Some((socket, request)) = greet.await else { return };
    match greeted.open(request).await {
        Ok((session, attempt)) => {
            let (lane_end, transport_end) = transport::link();
            session.start(lane_end);
            socket.run(transport_end).await;
            drop(attempt);
        }
        Err(cause) => socket.close(closing(cause)).await,
    }
}
