//! The HTTP edge: one file per resource, which converts between the types of
//! [`api`](crate::api) and those of the store. [`connect`] admits gateways and hands
//! their connections to the dispatcher. Nothing here decides what is delivered, and no
//! SQL is known.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::error_handling::HandleErrorLayer;
use axum::extract::{Extension, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Router};
use tower::timeout::TimeoutLayer;
use utoipa::OpenApi as _;
use utoipa::openapi::Paths;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use crate::admission::Admissions;
use crate::alerts::Alerting;
use crate::api::Code;
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::event::{EventType, OrganisationKey};
use crate::event_types::EventTypeInfo;
use crate::feed::Feed;
use crate::ingest::Rules;
use crate::jobs::Supervisor;
use crate::store::{AccessCredential, Store};

mod access_tokens;
mod actions;
mod alert_bodies;
mod alert_destinations;
mod alerts;
pub mod asyncapi;
mod audit;
mod auth;
mod bodies;
mod browse;
mod bulk_jobs;
mod client_address;
mod connect;
mod connections;
mod console;
mod content_mode;
mod cursor;
mod deliveries;
mod diagnosis;
mod docs;
mod event_types;
mod events;
mod extract;
mod failures;
mod feed;
mod gateway_frames;
mod gateway_stream;
mod gateway_tokens;
mod gateways;
mod grpc;
mod health;
mod idempotency;
mod inbox;
mod inbox_edit;
mod instances;
pub mod listener;
mod log;
mod long_poll;
mod manifest;
mod no_body;
mod nodes;
mod not_opened;
mod observability;
pub mod openapi;
mod part;
pub mod problem;
mod proxy_protocol;
mod publish;
mod query;
mod replay;
mod request_head_timer;
mod resend;
mod rollouts;
mod stats;
pub mod tls;
mod ttl_cache;
mod upgrade_headers;

pub use connect::REFUSAL_CODES;

use extract::BodyLimit;
use listener::Peer;
use problem::Problem;
use ttl_cache::TtlCache;

/// The prefix of everything but the operational routes.
pub const BASE: &str = "/api/internal/v1";

/// Renders all metrics in the text format of Prometheus.
pub type RenderMetrics = Box<dyn Fn() -> String + Send + Sync>;

/// The state that handlers share.
pub struct App {
    parts: part::Parts,
    dispatcher: Arc<Dispatcher>,
    config: Arc<Config>,
    admissions: Admissions,
    failures: failures::Failures,
    rules: Arc<Rules>,
    bodies: Arc<bodies::Memory>,
    access: TtlCache<String, AccessCredential>,
    types: TtlCache<(OrganisationKey, EventType), Arc<EventTypeInfo>>,
    log_waiting: log::Waiting,
    waits: rollouts::Waits,
    feed: Feed,
    streams: gateway_frames::Streams,
    pollers: long_poll::Pollers,
    alerting: Arc<Alerting>,
    sign_ins: console::SignIns,
    render_metrics: RenderMetrics,
    /// Supervisors whose overdue jobs make the node unready.
    supervisors: Vec<Supervisor>,
}

impl App {
    /// The state of the handlers.
    pub fn new(
        store: Arc<dyn Store>,
        dispatcher: Arc<Dispatcher>,
        config: Arc<Config>,
        rules: Arc<Rules>,
        (feed, alerting): (Feed, Arc<Alerting>),
        render_metrics: RenderMetrics,
        supervisors: Vec<Supervisor>,
    ) -> Arc<Self> {
        let per_minute = config.limits.attempts_per_minute;
        let size = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let bodies =
            bodies::Memory::new(size(config.server.body_memory), size(config.server.body_limit));
        let admissions = Admissions::new(Arc::clone(&store), Arc::clone(&dispatcher), per_minute);
        Arc::new(Self {
            admissions,
            parts: part::Parts::new(store),
            dispatcher,
            config,
            failures: failures::Failures::default(),
            rules,
            bodies,
            access: TtlCache::default(),
            types: TtlCache::default(),
            log_waiting: log::Waiting::default(),
            waits: rollouts::Waits::default(),
            feed,
            streams: gateway_frames::Streams::default(),
            pollers: long_poll::Pollers::default(),
            alerting,
            sign_ins: console::SignIns::default(),
            render_metrics,
            supervisors,
        })
    }

    /// A part of the store. Handlers take it as a [`part::Part`] instead.
    fn part<T: part::OfStore + ?Sized>(&self) -> &T {
        self.parts.get()
    }

    /// Frees the memory of expired entries, and logs the numbers of suppressed lines. Called every
    /// minute.
    pub fn tidy_up(&self) {
        self.admissions.remove_unused();
        self.failures.log_suppressed();
        self.dispatcher.log_suppressed();
        self.sign_ins.remove_unused();
        self.access.remove_expired();
        self.types.remove_expired();
    }
}

/// All routes of the service with their middleware, for requests and upgrades.
pub fn router(app: Arc<App>) -> Router {
    let request_timeout = app.config.server.request_timeout;
    let (routes, document) = documented_routes(request_timeout).split_for_parts();
    let routes = routes
        .merge(grpc::routes(&app))
        .merge(console::routes(request_timeout))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    observability::observed(routes, &document, &app).with_state(app)
}

/// The routes with their documentation. `routes!` accepts no handler without it.
fn documented_routes(request_timeout: Duration) -> OpenApiRouter<Arc<App>> {
    let timeout = (HandleErrorLayer::new(timed_out), TimeoutLayer::new(request_timeout));
    let api = under_base(api()).layer(timeout);
    let connect = under_base(vec![routes!(connect::connect)]);
    let probes = OpenApiRouter::new()
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .layer(middleware::from_fn(keep_open));
    let reference = OpenApiRouter::new()
        .routes(routes!(docs::document))
        .routes(routes!(docs::streams))
        .routes(routes!(docs::page))
        .routes(routes!(docs::file));
    OpenApiRouter::with_openapi(openapi::Base::openapi())
        .merge(api)
        .merge(connect)
        .merge(probes)
        .merge(reference)
}

/// The operations of the API, by path.
fn api() -> Vec<ApiRoute> {
    let manifest = routes!(manifest::keep).layer(Extension(BodyLimit(manifest::MAX_BYTES)));
    let edit = routes!(inbox_edit::edit).layer(Extension(BodyLimit(inbox_edit::MAX_BYTES)));
    vec![
        routes!(browse::events, events::publish),
        routes!(events::show),
        routes!(resend::resend),
        routes!(actions::purge),
        routes!(diagnosis::of_event),
        routes!(rollouts::show),
        routes!(deliveries::list),
        routes!(deliveries::summary),
        routes!(deliveries::redrive),
        routes!(bulk_jobs::list),
        routes!(bulk_jobs::show),
        routes!(bulk_jobs::abort),
        routes!(gateways::list, gateways::create),
        routes!(gateways::show, gateways::change, gateways::remove),
        routes!(actions::pause),
        routes!(actions::resume),
        routes!(actions::skip),
        routes!(actions::resync),
        routes!(diagnosis::of_gateway),
        manifest,
        routes!(replay::replay),
        routes!(gateway_stream::follow),
        routes!(gateway_frames::send),
        routes!(long_poll::poll),
        routes!(long_poll::frames),
        routes!(gateway_tokens::list, gateway_tokens::create),
        routes!(gateway_tokens::revoke),
        routes!(connections::of_gateway),
        routes!(instances::list),
        routes!(instances::forget),
        routes!(log::show),
        routes!(connections::list),
        routes!(event_types::list),
        routes!(event_types::show, event_types::put, event_types::remove),
        routes!(inbox::list),
        routes!(inbox::retry),
        routes!(inbox::show, inbox::remove),
        edit,
        routes!(inbox::retry_one),
        routes!(access_tokens::list, access_tokens::create),
        routes!(access_tokens::revoke),
        routes!(audit::list),
        routes!(nodes::list),
        routes!(alerts::overview),
        routes!(alerts::list, alerts::create),
        routes!(alerts::show, alerts::put, alerts::remove),
        routes!(alerts::silence),
        routes!(alert_destinations::list, alert_destinations::create),
        routes!(alert_destinations::show, alert_destinations::put, alert_destinations::remove),
        routes!(alert_destinations::test),
        routes!(stats::show),
        routes!(stats::published),
        routes!(feed::follow),
    ]
}

/// A path with its handlers and their documentation.
type ApiRoute = UtoipaMethodRouter<Arc<App>>;

/// The router of these routes, whose paths are relative to [`BASE`]. Nesting a router would give the
/// same, but rewrite the URI of each request.
fn under_base(routes: Vec<ApiRoute>) -> OpenApiRouter<Arc<App>> {
    let mut documented = OpenApiRouter::new();
    for (schemas, paths, handlers) in routes.into_iter().map(no_body::refused_where_undocumented) {
        let mut under = Paths::new();
        under.paths =
            paths.paths.into_iter().map(|(path, it)| (format!("{BASE}{path}"), it)).collect();
        documented = documented.routes((schemas, under, handlers));
    }
    documented
}

async fn timed_out(_: BoxError) -> Problem {
    Problem::unavailable(
        Code::Timeout,
        "The request took too long. If it was to store something, that may still happen; a retry with the same event id or Idempotency-Key is safe.",
    )
}

/// Keeps the connection open, because probes are repeated.
async fn keep_open(request: Request, next: Next) -> Response {
    if let Some(peer) = request.extensions().get::<Peer>() {
        peer.keep();
    }
    next.run(request).await
}

/// What happens after each request: the error behind a failed one is logged, and the connection is
/// closed, except after a probe or a request with a valid access token. A gateway sends about ten
/// other requests after each connect, most of which are answered with 404; their connections would
/// stay open for a minute each, as would those of refused upgrades.
struct Conclusion {
    peer: Option<Peer>,
    /// The client's address.
    address: Option<IpAddr>,
}

impl Conclusion {
    fn of(app: &App, request: &Request) -> Self {
        let peer = request.extensions().get::<Peer>().cloned();
        Self { address: auth::address(app, request.extensions(), request.headers()), peer }
    }

    fn apply(self, app: &App, mut response: Response) -> Response {
        if let Some(problem::Cause(error)) = response.extensions().get() {
            app.failures.store(self.address, error);
        }
        let is_kept = self.peer.is_none_or(|peer| peer.is_kept());
        if !is_kept && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Nothing is served at `/`, so a browser that opens it is led to the console.
async fn not_found(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if uri.path() == "/" && method == Method::GET && console::is_browser(&headers) {
        let to = [(header::LOCATION, console::ROOT), (header::VARY, "accept")];
        return (StatusCode::SEE_OTHER, to).into_response();
    }
    Problem::new(Code::NotFound, "Nothing is served at this path.").into_response()
}

/// 405 to `HEAD`, which axum passes to the handlers of `GET`: some of them have effects.
fn get_only() -> Response {
    let problem = Problem::new(Code::MethodNotAllowed, "This path only accepts GET.");
    ([(header::ALLOW, "GET")], problem).into_response()
}

async fn method_not_allowed() -> Problem {
    Problem::new(
        Code::MethodNotAllowed,
        "This path exists, but not for this method; the Allow header lists those that do.",
    )
}

fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    tracing::error!("a handler panicked");
    Problem::internal().into_response()
}
