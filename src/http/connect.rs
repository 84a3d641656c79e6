//! Upgrades to WebSocket. Every refusal comes before the upgrade.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, FromRequestParts as _, Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use tracing::{Instrument as _, Span};

use super::acceptor::{Acceptor, Refused};
use super::auth;
use super::listener::Peer;
use super::not_opened::closing;
use super::observability;
use super::openapi::{Connecting, Problems};
use super::problem::Problem;
use super::upgrade_headers;
use crate::admission::{Admitted, Greeted};
use crate::api::Code;
use crate::transport::frames::PROTOCOL;
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
    State(acceptor): State<Arc<Acceptor>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let (mut parts, _) = request.into_parts();
    upgrade_headers::normalise(&mut parts.headers);
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map(|upgrade| upgrade.protocols([PROTOCOL]));
    let is_reliable = upgrade.as_ref().is_ok_and(|it| it.selected_protocol().is_some());
    let address = acceptor.address(&peer, &parts.headers);
    match admit(&acceptor, &peer, address, &parts.headers, upgrade).await {
        Ok((upgrade, Gateway::Plain(admitted))) => {
            let (gateway, id) = (admitted.credential.gateway_id, admitted.session.id());
            let span = observability::connection_span(gateway, id, websocket::NAME, &parts.headers);
            start(&acceptor, upgrade, *admitted, span)
        }
        Ok((upgrade, Gateway::Reliable(greeted))) => {
            let (gateway, transport) = (greeted.credential().gateway_id, websocket::reliable::NAME);
            let id = greeted.greeting().greeting.connection_id;
            let span = observability::connection_span(gateway, id, transport, &parts.headers);
            start_reliable(&acceptor, upgrade, *greeted, span)
        }
        Err(refused) => {
            let transport = if is_reliable { websocket::reliable::NAME } else { websocket::NAME };
            acceptor.refuse(refused, address, transport)
        }
    }
}

/// An admitted gateway, by its mode.
enum Gateway {
    Plain(Box<Admitted>),
    Reliable(Box<Greeted>),
}

async fn admit(
    acceptor: &Acceptor,
    peer: &Peer,
    address: IpAddr,
    headers: &HeaderMap,
    upgrade: Upgrade,
) -> Result<(WebSocketUpgrade, Gateway), Refused> {
    acceptor.check_origin(headers)?;
    if peer.slot.is_reserve() {
        return Err(Problem::http_connection_limit().into());
    }
    let candidate = auth::candidate(headers, address);
    let upgrade = match (upgrade, upgrade_headers::check(headers)) {
        (Ok(upgrade), Ok(())) => upgrade,
        (_, checked) => {
            let problem = checked.err().map_or_else(upgrade_required, Problem::bad_request);
            return Err(acceptor.invalid_request(candidate, problem).await);
        }
    };
    let gateway = if upgrade.selected_protocol().is_some() {
        Gateway::Reliable(Box::new(
            acceptor.admissions.greet(candidate, websocket::reliable::NAME).await?,
        ))
    } else {
        Gateway::Plain(Box::new(acceptor.admissions.admit(candidate, websocket::NAME).await?))
    };
    peer.slot.authenticated();
    Ok((upgrade, gateway))
}

fn upgrade_required() -> Problem {
    Problem::new(
        Code::UpgradeRequired,
        "This path accepts only upgrades to WebSocket (version 13, over HTTP/1.1).",
    )
}

/// Answers 101 and runs the socket. If the upgrade fails, the session is dropped with the callback,
/// and recorded as lost.
fn start(
    acceptor: &Acceptor,
    upgrade: WebSocketUpgrade,
    admitted: Admitted,
    span: Span,
) -> Response {
    let Admitted { session, attempt, .. } = admitted;
    let failed = span.clone();
    let delivery = &acceptor.config.delivery;
    let settings = websocket::Settings {
        write_timeout: delivery.write_timeout,
        close_timeout: CLOSE_TIMEOUT,
        confirmation_timeout: delivery.confirmation_timeout,
    };
    limited(acceptor, upgrade)
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
fn limited(acceptor: &Acceptor, upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    let max_write = acceptor.rules.event_bytes().saturating_add(WRITE_MARGIN);
    upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(websocket::BURST_BYTES)
        .max_write_buffer_size(max_write)
        .max_message_size(MAX_INCOMING)
        .max_frame_size(MAX_INCOMING)
}

/// Answers 101, greets the gateway, and runs the socket as its hello asks.
fn start_reliable(
    acceptor: &Acceptor,
    upgrade: WebSocketUpgrade,
    greeted: Greeted,
    span: Span,
) -> Response {
    let failed = span.clone();
    let write_timeout = acceptor.config.delivery.write_timeout;
    let settings = websocket::reliable::Settings {
        write_timeout,
        close_timeout: CLOSE_TIMEOUT,
        frame_bytes: acceptor.frame_bytes(),
    };
    limited(acceptor, upgrade)
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
