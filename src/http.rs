//! The edge: HTTP in, problems out. One file per noun; [`connect`] admits
//! sockets and hands them to the dispatcher. Nothing here decides what is
//! delivered, and no SQL is known.

use std::sync::Arc;

use axum::error_handling::HandleErrorLayer;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{BoxError, Router};
use tower::timeout::TimeoutLayer;

use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::event::{EventType, OrganisationKey};
use crate::event_types::EventTypeInfo;
use crate::intake::Rules;
use crate::jobs::Supervisor;
use crate::store::{AccessCredential, Store};

mod access_tokens;
mod auth;
mod bodies;
mod connect;
mod connections;
mod cursor;
mod deliveries;
mod event_types;
mod events;
mod extract;
mod failures;
mod fields;
mod gateway_tokens;
mod gateways;
mod health;
mod inbox;
mod keep_alive;
pub mod listener;
mod log;
mod manifest;
mod nodes;
mod observability;
pub mod problem;
mod proxy_protocol;
mod publish;
mod rates;
mod reconnects;
mod remembered;
mod stats;
pub mod tls;
mod upgrade_headers;

use listener::Peer;
use problem::Problem;
use remembered::Remembered;

/// The prefix of everything but the operational routes.
pub const BASE: &str = "/api/internal/v1";

/// The largest body of a request that does not publish events.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// Renders the metrics.
pub type RenderMetrics = Box<dyn Fn() -> String + Send + Sync>;

/// What the handlers share.
pub struct App {
    store: Arc<dyn Store>,
    dispatcher: Arc<Dispatcher>,
    config: Arc<Config>,
    /// Attempts to connect that did not authenticate, by address.
    attempts: rates::Buckets<rates::Source>,
    reconnects: reconnects::Reconnects,
    failures: failures::Failures,
    rules: Arc<Rules>,
    bodies: Arc<bodies::Memory>,
    access: Remembered<String, AccessCredential>,
    types: Remembered<(OrganisationKey, EventType), Arc<EventTypeInfo>>,
    log_waiting: log::Waiting,
    render_metrics: RenderMetrics,
    /// Whose jobs are to be on time.
    supervisors: Vec<Supervisor>,
}

impl App {
    /// Brings together what the handlers need.
    pub fn new(
        store: Arc<dyn Store>,
        dispatcher: Arc<Dispatcher>,
        config: Arc<Config>,
        rules: Arc<Rules>,
        render_metrics: RenderMetrics,
        supervisors: Vec<Supervisor>,
    ) -> Arc<Self> {
        let per_minute = config.limits.attempts_per_minute;
        let size = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let bodies =
            bodies::Memory::new(size(config.server.body_memory), size(config.server.body_limit));
        Arc::new(Self {
            store,
            dispatcher,
            config,
            attempts: rates::Buckets::new(per_minute),
            reconnects: reconnects::Reconnects::new(per_minute.get()),
            failures: failures::Failures::default(),
            rules,
            bodies,
            access: Remembered::default(),
            types: Remembered::default(),
            log_waiting: log::Waiting::default(),
            render_metrics,
            supervisors,
        })
    }

    /// Lets go of what serves no longer; called every minute.
    pub fn tidy_up(&self) {
        self.attempts.forget_full();
        self.reconnects.forget_old();
        self.failures.log_suppressed();
        self.dispatcher.log_suppressed();
        self.access.forget_old();
        self.types.forget_old();
    }
}

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    let request_timeout = app.config.server.request_timeout;
    let timeout = (HandleErrorLayer::new(timed_out), TimeoutLayer::new(request_timeout));
    let api = api().layer(timeout).layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    let probes = Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .layer(middleware::from_fn(keep_open));
    let routes = Router::new()
        .nest(BASE, api.route("/ws/gateways/connect", get(connect::connect)))
        .merge(probes)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    observability::observed(routes, &app).with_state(app)
}

fn api() -> Router<Arc<App>> {
    Router::new()
        .route("/events", post(events::publish))
        .route("/events/{id}", get(events::show))
        .route("/event-types", get(event_types::list))
        .route("/event-types/{name}", get(event_types::show).put(event_types::put))
        .route("/gateways", get(gateways::list).post(gateways::create))
        .route(
            "/gateways/{id}",
            get(gateways::show).patch(gateways::change).delete(gateways::remove),
        )
        .route(
            "/gateways/{id}/manifest",
            post(manifest::keep).layer(DefaultBodyLimit::max(manifest::MAX_BYTES)),
        )
        .route("/gateways/{id}/tokens", get(gateway_tokens::list).post(gateway_tokens::create))
        .route("/gateways/{id}/tokens/{token}", delete(gateway_tokens::revoke))
        .route("/gateways/{id}/connections", get(connections::of_gateway))
        .route("/gateways/{id}/log", get(log::show))
        .route("/connections", get(connections::list))
        .route("/nodes", get(nodes::list))
        .route("/access-tokens", get(access_tokens::list).post(access_tokens::create))
        .route("/access-tokens/{id}", delete(access_tokens::revoke))
        .route("/stats", get(stats::show))
        .route("/inbox/rejected", get(inbox::list))
        .route("/inbox/rejected/retry", post(inbox::retry))
        .route("/inbox/rejected/{id}", get(inbox::show).delete(inbox::remove))
        .route("/inbox/rejected/{id}/retry", post(inbox::retry_one))
        .route("/deliveries", get(deliveries::list))
        .route("/deliveries/summary", get(deliveries::summary))
        .route("/deliveries/redrive", post(deliveries::redrive))
}

async fn timed_out(_: BoxError) -> Problem {
    Problem::unavailable(
        "timeout",
        "The request took too long. If it was to store something, that may still happen; a retry with the same event id or Idempotency-Key is safe.",
    )
}

/// Probes ask again and again, and may use the same connection.
async fn keep_open(request: Request, next: Next) -> Response {
    if let Some(peer) = request.extensions().get::<Peer>() {
        peer.place.keep();
    }
    next.run(request).await
}

/// Logs what made a request fail, and ends the connection unless it is kept: it
/// stays open for the next request only after a probe, or a request with a good
/// access token. A gateway makes about ten other requests after each connect,
/// most of them answered 404; those connections would stay for a minute each. So
/// does one whose upgrade was refused.
async fn conclude(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().cloned();
    let (parts, body) = request.into_parts();
    let address = auth::address(&app, &parts);
    let mut response = next.run(Request::from_parts(parts, body)).await;
    if let Some(problem::Cause(error)) = response.extensions().get() {
        app.failures.store(address, error);
    }
    let is_kept = peer.is_none_or(|peer| peer.place.is_kept());
    if !is_kept && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "Nothing is served at this path.")
}

async fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "This path exists, but not for this method; the Allow header lists those that do.",
    )
}

fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    tracing::error!("a handler panicked");
    Problem::internal().into_response()
}
