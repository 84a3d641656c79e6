//! Admits gateways. Every refusal comes before the upgrade, and its status is
//! chosen with care: unmodified gateways end their process on 401 and 403 and
//! try again on 400, 426, 429 and 503. So 401 is only for a key that is certainly
//! wrong, 403 only for a gateway that is certainly disabled.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::App;
use super::auth;
use super::listener::Peer;
use super::problem::{Answer, Problem};
use super::rates;
use crate::dispatch::{Admission, Session};
use crate::event::Reason;
use crate::socket::{self, websocket};
use crate::store::{GatewayCredential, Store, StoreError};
use crate::token::{Kind, Presented};

/// tungstenite's default of 128 KiB a connection is far more than pongs need, and
/// each idle connection keeps it. A larger message makes it grow.
const READ_BUFFER: usize = 1024;
/// The largest message a gateway may send.
const MAX_INCOMING: usize = 16 * 1024;
/// What a frame needs besides the event, and room for control frames.
const WRITE_MARGIN: usize = 64 * 1024;

/// `GET /ws/gateways/connect`.
pub(super) async fn connect(
    State(app): State<Arc<App>>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let address = rates::client_address(peer.ip(), &headers, &app.config.server.trusted_proxies);
    match admit(&app, address, &headers, upgrade).await {
        Ok(response) => response,
        Err(problem) => {
            let mut response = problem.into_response();
            if response.status() == StatusCode::UPGRADE_REQUIRED {
                response
                    .headers_mut()
                    .insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            }
            response
        }
    }
}

async fn admit(
    app: &Arc<App>,
    address: IpAddr,
    headers: &HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer<Response> {
    check_origin(app, headers)?;
    if app.dispatcher.is_draining() {
        return Err(draining());
    }
    let (presented, credential) = authenticate(app, address, headers).await?;
    if let Err(wait) = app.attempts.gateways.charge(&credential.gateway) {
        return Err(too_many(wait));
    }
    if credential.disabled {
        return Err(disabled(address, &credential));
    }
    let upgrade = upgrade.map_err(|_| {
        Problem::new(
            StatusCode::UPGRADE_REQUIRED,
            "upgrade_required",
            "This path speaks WebSocket (version 13, over HTTP/1.1) only.",
        )
    })?;
    let permit = app.dispatcher.try_admit().ok_or_else(|| {
        if app.dispatcher.is_draining() {
            return draining();
        }
        Problem::unavailable(
            "connection_limit",
            "Too many gateways are connected; try again later.",
        )
    })?;
    let admission = Admission {
        gateway: credential.gateway,
        gateway_id: credential.gateway_id,
        organisation: credential.organisation,
        token: presented.id().to_owned(),
        token_expires_at: credential.expires_at,
        transport: "websocket",
        remote_address: address.to_string(),
    };
    let session = match app.dispatcher.open(permit, admission).await {
        Err(StoreError::NotFound(_)) => {
            return Err(shut_out(app.store.as_ref(), address, &presented).await);
        }
        // A drain has begun since the first look.
        Err(_) if app.dispatcher.is_draining() => return Err(draining()),
        opened => opened?,
    };
    if session.is_stopped() {
        // The gateway would be closed as soon as it was connected. Told before
        // the upgrade, it waits a moment before it connects again.
        return Err(if app.dispatcher.is_draining() {
            draining()
        } else {
            Problem::unavailable("unavailable", "This connection was ended; connect again.")
        });
    }
    Ok(start(app, upgrade, session, presented, &credential))
}

fn draining() -> Problem {
    Problem::unavailable("draining", "This node is shutting down; connect again.")
}

fn disabled(address: IpAddr, credential: &GatewayCredential) -> Problem {
    tracing::info!(gateway = %credential.gateway_id, %address, "a disabled gateway was refused");
    Problem::new(StatusCode::FORBIDDEN, "gateway_disabled", "This gateway is disabled.")
}

/// A gateway that was there at the look-up and is not at the opening: disabled
/// or deleted in between, and told so as if it had come a moment later.
async fn shut_out(store: &dyn Store, address: IpAddr, presented: &Presented) -> Problem {
    match auth::gateway(store, presented).await {
        Ok(Some(credential)) if credential.disabled => disabled(address, &credential),
        Ok(None) => auth::refused(Some(address), Kind::Gateway, Some(presented.id())),
        Ok(Some(_)) => Problem::unavailable(
            "unavailable",
            "This gateway was disabled for a moment; connect again.",
        ),
        Err(problem) => problem,
    }
}

/// Browsers send an Origin and gateways don't; a page must not be able to use
/// a key that it got hold of. Nor must a proxy that adds one end a fleet: hence
/// 400, after which gateways try again.
fn check_origin(app: &App, headers: &HeaderMap) -> Answer<()> {
    let allowed = &app.config.server.allowed_origins;
    let listed =
        |origin: &HeaderValue| allowed.iter().any(|one| one.as_bytes() == origin.as_bytes());
    if headers.get_all(header::ORIGIN).iter().all(listed) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::BAD_REQUEST,
        "origin_refused",
        "Web pages may not connect here, unless their origin stands in server.allowed_origins.",
    ))
}

async fn authenticate(
    app: &App,
    address: IpAddr,
    headers: &HeaderMap,
) -> Answer<(Presented, GatewayCredential)> {
    let Some(presented) = auth::gateway_key(headers) else {
        return Err(refused(app, address, None));
    };
    match auth::gateway(app.store.as_ref(), &presented).await? {
        Some(credential) => Ok((presented, credential)),
        None => Err(refused(app, address, Some(presented.id()))),
    }
}

/// A wrong key: charged to its address.
fn refused(app: &App, address: IpAddr, token: Option<&str>) -> Problem {
    let problem = auth::refused(Some(address), Kind::Gateway, token);
    match app.attempts.addresses.charge(&address.into()) {
        Ok(()) => problem,
        Err(wait) => too_many(wait),
    }
}

fn too_many(wait: Duration) -> Problem {
    // Rounded up: whoever comes back then is let through.
    let secs = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too_many_attempts",
        "Too many connection attempts; wait before the next.",
    )
    .retry_after(secs)
}

/// Answers 101 and runs the socket. If the upgrade fails, the session is
/// dropped with the callback, and records by itself that it has ended.
fn start(
    app: &Arc<App>,
    upgrade: WebSocketUpgrade,
    session: Session,
    presented: Presented,
    credential: &GatewayCredential,
) -> Response {
    let gateway = credential.gateway_id;
    let app = Arc::clone(app);
    let max_write = app.rules.event_bytes().saturating_add(WRITE_MARGIN);
    upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(websocket::BURST_BYTES)
        .max_write_buffer_size(max_write)
        .max_message_size(MAX_INCOMING)
        .max_frame_size(MAX_INCOMING)
        .on_failed_upgrade(move |error| {
            tracing::info!(%gateway, %error, "an upgrade failed");
        })
        .on_upgrade(move |socket| async move {
            let (first, limits) = (session.ack_frame(), session.transport_limits());
            let (lane_end, transport_end) = socket::link();
            session.start(lane_end);
            // A task of its own, so that what the upgrade took is given back now.
            tokio::spawn(websocket::run(socket, first, transport_end, limits));
            look_again(&app, &presented).await;
        })
}

/// A key that was revoked between the look-up and the registration was not
/// found by the one who revoked it: whoever registers looks again.
async fn look_again(app: &App, presented: &Presented) {
    match auth::gateway(app.store.as_ref(), presented).await {
        Ok(Some(credential)) if credential.disabled => {
            app.dispatcher.close_gateway(credential.gateway, Reason::GatewayDisabled);
        }
        Ok(None) => app.dispatcher.close_token(presented.id(), Reason::TokenRevoked),
        // The sockets outlive a database that is away.
        Ok(Some(_)) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::event::{GatewayId, NodeId};
    use crate::store::sqlite::{Options, SqliteStore};
    use crate::store::{GatewayChange, Labels, NewToken};
    use crate::token;

    #[tokio::test]
    async fn whoever_is_shut_out_between_look_up_and_opening_is_told_why() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { path: directory.path().join("test.db"), ..Options::default() };
        // Nobody is to be woken.
        let store = SqliteStore::open(&options, NodeId::new(), <_>::default()).await.unwrap();
        let (organisation, id) = (store.organisation("default").await.unwrap(), GatewayId::new());
        store.create_gateway(organisation, id, "one", &Labels::new(), 1).await.unwrap();
        let issued = token::issue(Kind::Gateway).unwrap();
        let new = NewToken { id: issued.id.clone(), digest: issued.digest, expires_at: None };
        store.create_gateway_token(organisation, id, new).await.unwrap();
        let presented = Presented::parse(Kind::Gateway, issued.key.expose_secret()).unwrap();
        let status = async || {
            let address = IpAddr::from([192, 0, 2, 1]);
            shut_out(store.as_ref(), address, &presented).await.status().as_u16()
        };
        let disable = |disabled| GatewayChange { disabled: Some(disabled), ..Default::default() };
        store.update_gateway(organisation, id, disable(true)).await.unwrap();
        assert_eq!(status().await, 403);
        store.update_gateway(organisation, id, disable(false)).await.unwrap();
        assert_eq!(status().await, 503);
        store.delete_gateway(organisation, id).await.unwrap();
        assert_eq!(status().await, 401);
        store.close().await;
    }
}
