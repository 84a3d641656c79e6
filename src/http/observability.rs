//! The layers around all routes that make requests traceable: a request id, a span, metrics, and a
//! line in the access log. Names follow the OpenTelemetry semantic conventions for HTTP where these
//! define one.
//!
//! A span or log line contains no path, query, header or body, because each of these may contain a
//! secret. The path is replaced by the route's template.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use dashmap::DashMap;
use metrics::{Counter, Gauge, Histogram};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tower_http::trace::TraceLayer;
use tracing::{Span, field};
use utoipa::openapi::OpenApi;

use super::auth::Auth;
use super::client_address::client_address;
use super::conclusion::Conclusion;
use super::failures::Failures;
use super::listener::Peer;
use super::problem::Problem;
use super::request_id::{self, NewRequestId, without_bad_request_id};
use super::state::AppState;
use crate::config::{Config, Network};
use crate::event::{ConnectionId, GatewayId};
use crate::metric;
use crate::telemetry::{self, HTTP_REQUEST_SPAN};
use crate::trace_context::TraceParent;

/// The target of the access log's lines, for `log.filter`.
const ACCESS: &str = "gateway_events::access";

/// Adds the layers to a router, the first one outermost.
pub(super) fn observed(
    router: Router<AppState>,
    document: &OpenApi,
    state: &AppState,
) -> Router<AppState> {
    let config: Arc<Config> = state.get();
    let make_span = move |request: &Request| request_span(request, &config.server.trusted_proxies);
    let trace = TraceLayer::new_for_http()
        .make_span_with(make_span)
        .on_request(())
        .on_response(log_access)
        .on_body_chunk(())
        .on_eos(())
        .on_failure(());
    let stack = ServiceBuilder::new()
        .map_request(without_bad_request_id)
        .layer(SetRequestIdLayer::x_request_id(NewRequestId))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(trace)
        .layer(middleware::from_fn_with_state(
            (state.get(), state.get(), Arc::new(HttpMetrics::of(document))),
            measure,
        ))
        .layer(CatchPanicLayer::custom(panicked));
    router.layer(stack)
}

/// The caller's trace context. A header that is missing, repeated or invalid
/// counts as none, as the specification demands.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut values = headers.get_all("traceparent").iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()?.parse().ok()
}

/// The span of a request. Its level is the highest one, because it is the context of every line
/// that is logged in it, whatever `log.filter` selects.
fn request_span(request: &Request, trusted: &[Network]) -> Span {
    let headers = request.headers();
    let (method, route) = (method(request.method()), route(request));
    let peer = request.extensions().get::<Peer>();
    let client = peer.map(|peer| client_address(peer.address.ip(), headers, trusted));
    let request_id = request.extensions().get::<RequestId>();
    let request_id = request_id.and_then(|id| id.header_value().to_str().ok());
    let parent = traceparent(headers);
    let is_exported = telemetry::exports_spans();
    let span = tracing::error_span!(
        HTTP_REQUEST_SPAN,
        http.request.method = method,
        http.route = route,
        client.address = client.map(field::display),
        request_id,
        trace_id = parent.map(|it| field::display(it.trace_id())),
        // For the exporter, and not for the log.
        otel.name = is_exported.then(|| format!("{method} {route}")),
        otel.kind = is_exported.then_some("server"),
    );
    if is_exported
        && let Some(own) = telemetry::begin_span(&span, parent.as_ref())
        && parent.is_none()
    {
        span.record("trace_id", field::display(own));
    }
    span
}

/// The span of a gateway's connection, which outlives that of its upgrade.
pub(super) fn connection_span(
    gateway: GatewayId,
    connection: ConnectionId,
    transport: &'static str,
    upgrade: &HeaderMap,
) -> Span {
    let request_id = request_id::of(upgrade);
    tracing::error_span!(
        parent: None,
        "gateway_connection",
        gateway_id = %gateway,
        connection_id = %connection,
        transport,
        request_id,
    )
}

/// Ends a request's span, with a line in the access log, which is off unless `log.filter` selects
/// its target.
fn log_access(response: &Response, latency: Duration, span: &Span) {
    let (status, duration_ms) = (response.status().as_u16(), latency.as_secs_f64() * 1000.0);
    telemetry::end_span(span, status);
    tracing::debug!(
        target: ACCESS,
        { http.response.status_code = status, duration_ms },
        "request completed"
    );
}

/// The handles of all metrics of requests. Looking a metric up by its labels for each request
/// would allocate each label several times.
struct HttpMetrics {
    in_flight: Gauge,
    /// By route template. The number of routes is fixed, and unknown paths share one.
    routes: DashMap<String, RouteMetrics>,
}

impl HttpMetrics {
    /// The metrics of the documented routes exist from the start: for each method the histograms of
    /// its successful statuses.
    fn of(document: &OpenApi) -> Self {
        let in_flight = metrics::gauge!(metric::HTTP_REQUESTS_IN_FLIGHT);
        in_flight.increment(0.0);
        let routes = DashMap::new();
        for (path, item) in &document.paths.paths {
            let route = RouteMetrics::new(path);
            for (method, operation) in [
                ("GET", &item.get),
                ("POST", &item.post),
                ("PUT", &item.put),
                ("PATCH", &item.patch),
                ("DELETE", &item.delete),
            ] {
                let responses = operation.iter().flat_map(|it| it.responses.responses.keys());
                for status in responses.filter_map(|status| status.parse::<StatusCode>().ok()) {
                    if status.is_success() {
                        // Registered by this, with no sample.
                        let _ = route.duration(method, path, status);
                    }
                }
            }
            routes.insert(path.clone(), route);
        }
        Self { in_flight, routes }
    }

    /// Records a completed request.
    fn record(
        &self,
        method: &'static str,
        route: &str,
        response: &Response,
        completed: &Completed,
    ) {
        let metrics = match self.routes.get(route) {
            Some(metrics) => metrics,
            None => self
                .routes
                .entry(route.to_owned())
                .or_insert_with(|| RouteMetrics::new(route))
                .downgrade(),
        };
        metrics.duration(method, route, response.status()).record(completed.duration);
        metrics.request_bytes.increment(completed.request_bytes);
        metrics.response_bytes.increment(response.body().size_hint().exact().unwrap_or(0));
    }
}

/// What is known of a request when its response begins.
struct Completed {
    duration: Duration,
    /// The length of its body, as announced; 0 if it is unknown.
    request_bytes: u64,
}

/// The handles of a route's metrics.
struct RouteMetrics {
    request_bytes: Counter,
    response_bytes: Counter,
    durations: DashMap<(&'static str, StatusCode), Histogram>,
}

impl RouteMetrics {
    fn new(route: &str) -> Self {
        let counter = |name| {
            let counter = metrics::counter!(name, "route" => route.to_owned());
            counter.increment(0);
            counter
        };
        Self {
            request_bytes: counter(metric::HTTP_REQUEST_BYTES),
            response_bytes: counter(metric::HTTP_RESPONSE_BYTES),
            durations: DashMap::new(),
        }
    }

    fn duration(&self, method: &'static str, route: &str, status: StatusCode) -> Histogram {
        if let Some(known) = self.durations.get(&(method, status)) {
            return known.clone();
        }
        let labels = [
            ("method", method.to_owned()),
            ("route", route.to_owned()),
            ("status", status.as_str().to_owned()),
        ];
        let new = metrics::histogram!(metric::HTTP_REQUEST_DURATION, &labels);
        self.durations.entry((method, status)).or_insert(new).clone()
    }
}

fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response {
    tracing::error!("a handler panicked");
    Problem::internal().into_response()
}

/// Measures a request, [concludes](Conclusion) it, and adds its id to its problem document.
/// One function, because each layer of this kind costs two allocations and a copy of the request.
async fn measure(
    State((auth, failures, metrics)): State<(Arc<Auth>, Arc<Failures>, Arc<HttpMetrics>)>,
    request: Request,
    next: Next,
) -> Response {
    let method = method(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let request_bytes = request.body().size_hint().exact().unwrap_or(0);
    let request_id = request.extensions().get::<RequestId>().cloned();
    let conclusion = Conclusion::of(&auth, &request);
    let started = Instant::now();
    let in_flight = InFlight::begin(metrics.in_flight.clone());
    let response = next.run(request).await;
    drop(in_flight);
    let duration = started.elapsed();
    let response = with_request_id(conclusion.apply(&failures, response), request_id.as_ref());
    metrics.record(
        method,
        template(route.as_ref()),
        &response,
        &Completed { duration, request_bytes },
    );
    response
}

/// A request in progress, which may also end by being dropped.
struct InFlight(Gauge);

impl InFlight {
    fn begin(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Adds `requestId` to a problem document, except for a 401, which must be the same for every
/// reason.
fn with_request_id(mut response: Response, id: Option<&RequestId>) -> Response {
    let problem = response.extensions_mut().remove::<Arc<Problem>>();
    let id = id.and_then(|id| id.header_value().to_str().ok());
    let (Some(problem), Some(id)) = (problem, id) else { return response };
    if response.status() == StatusCode::UNAUTHORIZED {
        return response;
    }
    let named = Problem::clone(&problem).with_request_id(id).into_document();
    response.map(|body| serde_json::to_vec(&named).map_or(body, Body::from))
}

/// The template of the route, such as `/api/internal/v1/events/{id}`. Requests that match no route
/// share a label.
fn route(request: &Request) -> &str {
    template(request.extensions().get::<MatchedPath>())
}

fn template(route: Option<&MatchedPath>) -> &str {
    route.map_or("unmatched", MatchedPath::as_str)
}

/// The method, if it is a common one, because any token can be sent as a method.
fn method(method: &Method) -> &'static str {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::CONNECT,
    ];
    const NAMES: [&str; 9] =
        ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT"];
    KNOWN.iter().position(|known| known == method).map_or("_OTHER", |at| NAMES[at])
}
