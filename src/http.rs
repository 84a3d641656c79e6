//! The HTTP edge: one file per resource, which converts between the types of
//! [`api`](crate::api) and those of the store. [`connect`] admits gateways and hands
//! their connections to the dispatcher. Nothing here decides what is delivered, and no
//! SQL is known.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{Extension, Request};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use tower::timeout::TimeoutLayer;
use utoipa::OpenApi as _;
use utoipa::openapi::Paths;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use crate::api::{BASE_PATH, Code};
use crate::config::Config;

mod acceptor;
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
mod conclusion;
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
mod fallbacks;
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
mod request_id;
mod resend;
mod rollouts;
mod state;
mod stats;
pub mod tls;
mod ttl_cache;
mod upgrade_headers;

pub use acceptor::REFUSAL_CODES;
pub use health::RenderMetrics;
pub use state::{AppState, Components};

use extract::BodyLimit;
use fallbacks::{method_not_allowed, timed_out};
use listener::Peer;
use no_body::ApiRoute;
use problem::Problem;

/// All routes of the service with their middleware, for requests and upgrades.
pub fn router(state: AppState) -> Router {
    let config: Arc<Config> = state.get();
    let request_timeout = config.server.request_timeout;
    let (routes, document) = documented_routes(request_timeout).split_for_parts();
    let routes = routes
        .merge(grpc::routes(&state))
        .merge(console::routes(request_timeout))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    observability::observed(routes, &document, &state).with_state(state)
}

/// The routes with their documentation. `routes!` accepts no handler without it.
fn documented_routes(request_timeout: Duration) -> OpenApiRouter<AppState> {
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

/// The router of these routes, whose paths are relative to [`BASE_PATH`]. Nesting a router would give the
/// same, but rewrite the URI of each request.
fn under_base(routes: Vec<ApiRoute>) -> OpenApiRouter<AppState> {
    let mut documented = OpenApiRouter::new();
    for (schemas, paths, handlers) in routes.into_iter().map(no_body::refused_where_undocumented) {
        let mut under = Paths::new();
        under.paths =
            paths.paths.into_iter().map(|(path, it)| (format!("{BASE_PATH}{path}"), it)).collect();
        documented = documented.routes((schemas, under, handlers));
    }
    documented
}

/// Keeps the connection open, because probes are repeated.
async fn keep_open(request: Request, next: Next) -> Response {
    if let Some(peer) = request.extensions().get::<Peer>() {
        peer.keep();
    }
    next.run(request).await
}

/// Nothing is served at `/`, so a browser that opens it is led to the console.
async fn not_found(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if uri.path() == "/" && method == Method::GET && console::is_browser(&headers) {
        let to = [(header::LOCATION, console::layout::ROOT), (header::VARY, "accept")];
        return (StatusCode::SEE_OTHER, to).into_response();
    }
    Problem::new(Code::NotFound, "Nothing is served at this path.").into_response()
}
