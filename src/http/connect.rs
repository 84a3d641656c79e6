//! Admits gateways. Every refusal comes before the upgrade, and its status is
//! chosen with care: unmodified gateways end their process on 401 and 403 and
//! try again on 400, 426, 429 and 503. So 401 is only for a key that is certainly
//! wrong, 403 only for a gateway that is certainly disabled.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Extension, FromRequestParts as _, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tracing::{Instrument as _, Span};

use super::App;
use super::auth::{self, Checked};
use super::failures;
use super::listener::Peer;
use super::observability;
use super::problem::{Answer, Challenge, Problem};
use super::rates;
use super::reconnects::Attempt;
use super::upgrade_headers;
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
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let (mut parts, _) = request.into_parts();
    upgrade_headers::normalise(&mut parts.headers);
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let trusted = &app.config.server.trusted_proxies;
    let address = rates::client_address(peer.address.ip(), &parts.headers, trusted);
    admit(&app, &peer, address, &parts.headers, upgrade).await.unwrap_or_else(|refusal| {
        refusal.log(&app, address);
        let mut response = refusal.problem.into_response();
        if response.status() == StatusCode::UPGRADE_REQUIRED {
            response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        response
    })
}

/// A refused upgrade, and what is known of who asked for it.
struct Refusal {
    problem: Problem,
    /// The public part of the key.
    token: Option<String>,
    gateway: Option<GatewayCredential>,
    is_bad_key: bool,
}

impl From<Problem> for Box<Refusal> {
    fn from(problem: Problem) -> Self {
        Self::new(Refusal { problem, token: None, gateway: None, is_bad_key: false })
    }
}

impl Refusal {
    /// Of a gateway with a good key.
    fn of(
        problem: impl Into<Problem>,
        presented: &Presented,
        credential: &GatewayCredential,
    ) -> Box<Self> {
        let (token, gateway) = (Some(presented.id().to_owned()), Some(credential.clone()));
        Box::new(Self { problem: problem.into(), token, gateway, is_bad_key: false })
    }

    /// Logs and counts it, and notes it at the gateway.
    fn log(&self, app: &App, address: IpAddr) {
        if self.is_bad_key {
            failures::count(Kind::Gateway);
        }
        app.failures.upgrade(address, &self.problem, self.token.as_deref(), self.gateway.as_ref());
        if let Some(gateway) = &self.gateway
            && app.failures.may_note(gateway.gateway)
        {
            // A bad key is the reason, whatever was answered to the tenth of them.
            let code = if self.is_bad_key { "unauthorized" } else { self.problem.code() };
            app.store.note_refusal(gateway.gateway, code, &address.to_string());
        }
    }
}

async fn admit(
    app: &Arc<App>,
    peer: &Peer,
    address: IpAddr,
    headers: &HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Box<Refusal>> {
    check_origin(app, headers)?;
    if app.dispatcher.is_draining() {
        return Err(draining().into());
    }
    if peer.place.is_reserve() {
        return Err(Problem::http_connection_limit().into());
    }
    let (presented, credential) = authenticate(app, address, headers).await?;
    peer.place.authenticated();
    let refuse = |problem: Problem| Refusal::of(problem, &presented, &credential);
    let attempt = app.reconnects.begin(app.store.as_ref(), credential.gateway).await;
    let attempt = attempt.map_err(|error| refuse(error.into()))?;
    let mut attempt = attempt.map_err(|wait| refuse(too_many(wait)))?;
    if credential.disabled {
        return Err(refuse(disabled()));
    }
    let upgrade = upgrade.map_err(|_| {
        refuse(Problem::new(
            StatusCode::UPGRADE_REQUIRED,
            "upgrade_required",
            "This path speaks WebSocket (version 13, over HTTP/1.1) only.",
        ))
    })?;
    let permit = app.dispatcher.try_admit().ok_or_else(|| {
        if app.dispatcher.is_draining() {
            return refuse(draining());
        }
        refuse(Problem::unavailable(
            "connection_limit",
            "Too many gateways are connected; try again later.",
        ))
    })?;
    let admission = Admission {
        gateway: credential.gateway,
        gateway_id: credential.gateway_id,
        gateway_name: credential.gateway_name.as_str().into(),
        organisation: credential.organisation,
        token: presented.id().to_owned(),
        token_expires_at: credential.expires_at,
        transport: "websocket",
        remote_address: address.to_string(),
    };
    let session = match app.dispatcher.open(permit, admission).await {
        Ok(session) => session,
        Err(StoreError::NotFound(_)) => return Err(shut_out(app.store.as_ref(), &presented).await),
        // A drain has begun since the first look.
        Err(_) if app.dispatcher.is_draining() => return Err(refuse(draining())),
        Err(error) => return Err(refuse(error.into())),
    };
    if session.is_stopped() {
        // The gateway would be closed as soon as it was connected. Told before
        // the upgrade, it waits a moment before it connects again.
        return Err(refuse(if app.dispatcher.is_draining() {
            draining()
        } else {
            Problem::unavailable("unavailable", "This connection was ended; connect again.")
        }));
    }
    attempt.held();
    let span = observability::connection_span(credential.gateway_id, session.id(), headers);
    Ok(start(app, upgrade, session, attempt, presented, span))
}

fn draining() -> Problem {
    Problem::unavailable("draining", "This node is shutting down; connect again.")
}

fn disabled() -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "gateway_disabled", "This gateway is disabled.")
}

/// A gateway that was there at the look-up and is not at the opening: disabled
/// or deleted in between, and told so as if it had come a moment later.
async fn shut_out(store: &dyn Store, presented: &Presented) -> Box<Refusal> {
    match auth::gateway(store, presented).await {
        Ok(Checked::Good(credential)) if credential.disabled => {
            Refusal::of(disabled(), presented, &credential)
        }
        Ok(Checked::Good(credential)) => {
            let problem = Problem::unavailable(
                "unavailable",
                "This gateway was disabled for a moment; connect again.",
            );
            Refusal::of(problem, presented, &credential)
        }
        Ok(Checked::Bad(gateway)) => Box::new(Refusal {
            problem: Problem::unauthorized(Challenge::ApiKey),
            token: Some(presented.id().to_owned()),
            gateway,
            is_bad_key: true,
        }),
        Err(problem) => problem.into(),
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
) -> Result<(Presented, GatewayCredential), Box<Refusal>> {
    let Some(presented) = auth::gateway_key(headers) else {
        return Err(refused(app, address, None, None));
    };
    match auth::gateway(app.store.as_ref(), &presented).await? {
        Checked::Good(credential) => Ok((presented, credential)),
        Checked::Bad(gateway) => Err(refused(app, address, Some(presented.id()), gateway)),
    }
}

/// A bad key: charged to its address.
fn refused(
    app: &App,
    address: IpAddr,
    token: Option<&str>,
    gateway: Option<GatewayCredential>,
) -> Box<Refusal> {
    let problem = match app.attempts.charge(&address.into()) {
        Ok(()) => Problem::unauthorized(Challenge::ApiKey),
        Err(wait) => too_many(wait),
    };
    Box::new(Refusal { problem, token: token.map(str::to_owned), gateway, is_bad_key: true })
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
    attempt: Attempt,
    presented: Presented,
    span: Span,
) -> Response {
    let failed = span.clone();
    let app = Arc::clone(app);
    let max_write = app.rules.event_bytes().saturating_add(WRITE_MARGIN);
    upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(websocket::BURST_BYTES)
        .max_write_buffer_size(max_write)
        .max_message_size(MAX_INCOMING)
        .max_frame_size(MAX_INCOMING)
        .on_failed_upgrade(move |error| {
            failed.in_scope(|| tracing::info!(%error, "an upgrade failed"));
        })
        .on_upgrade(move |socket| async move {
            let (first, limits) = (session.ack_frame(), session.transport_limits());
            let (lane_end, transport_end) = socket::link();
            span.in_scope(|| session.start(lane_end));
            // A task of its own, so that what the upgrade took is given back now.
            let run = async move {
                websocket::run(socket, first, transport_end, limits).await;
                drop(attempt);
            };
            tokio::spawn(run.instrument(span));
            look_again(&app, &presented).await;
        })
}

/// A key that was revoked between the look-up and the registration was not
/// found by the one who revoked it: whoever registers looks again.
async fn look_again(app: &App, presented: &Presented) {
    match auth::gateway(app.store.as_ref(), presented).await {
        Ok(Checked::Good(credential)) if credential.disabled => {
            app.dispatcher.close_gateway(credential.gateway, Reason::GatewayDisabled);
        }
        Ok(Checked::Bad(_)) => app.dispatcher.close_token(presented.id(), Reason::TokenRevoked),
        // The sockets outlive a database that is away.
        Ok(Checked::Good(_)) | Err(_) => {}
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
        let status = async || shut_out(store.as_ref(), &presented).await.problem.status().as_u16();
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
