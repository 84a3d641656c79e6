//! Probes and metrics, for operators. They need no credentials. Metrics name the gateways that are
//! furthest behind (`metrics.furthest_behind`), and nothing else of an organisation.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::openapi::{Problems, Readiness};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use crate::api::Code;
use crate::dispatch::Dispatcher;
use crate::jobs::Supervisor;
use crate::store::Health;

/// Renders all metrics in the text format of Prometheus.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Those whose overdue jobs make the node unready.
pub(super) type Supervisors = Arc<[Supervisor]>;

/// Check whether the process runs.
#[utoipa::path(
    get, path = "/livez", tag = "operations", operation_id = "liveness",
    responses((status = 200, description = "The process runs.", body = String, content_type = "text/plain", example = "ok\n")),
)]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Check whether the node is ready.
///
/// It is ready unless it is shutting down, its database can't be read and written, or a
/// background job that the delivery of events or the record of deliveries depends on is
/// overdue. A nearly full disk is mentioned and does not make it unready: gateways can
/// still be served.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", operation_id = "readiness",
    responses(
        (status = 200, description = "It is ready.", body = String, content_type = "text/plain", example = "ok\n"),
        Problems<(Readiness,)>,
    ),
)]
pub(super) async fn readyz(
    State(dispatcher): State<Arc<Dispatcher>>,
    State(supervisors): State<Supervisors>,
    Part(health): Part<dyn Health>,
) -> HandlerResult<&'static str> {
    if dispatcher.is_draining() {
        return Err(Problem::unavailable(Code::Draining, "This node is shutting down."));
    }
    health.check().await?;
    let overdue = supervisors.iter().filter_map(Supervisor::overdue);
    if let Some(overdue) = overdue.max_by_key(|overdue| overdue.age) {
        let job = overdue.job;
        return Err(Problem::unavailable(
            Code::JobOverdue,
            format!(
                "The background job {job} has not completed a run for {} s.",
                overdue.age.as_secs()
            ),
        ));
    }
    if !health.has_room().await {
        return Ok(
            "degraded: the disk is nearly full, and publishing is refused (507); delivery continues\n",
        );
    }
    Ok("ok\n")
}

/// Read metrics, in the Prometheus text format.
#[utoipa::path(
    get, path = "/metrics", tag = "operations", operation_id = "metrics",
    responses((status = 200, description = "All metrics.", body = String, content_type = "text/plain")),
)]
pub(super) async fn metrics(State(render): State<RenderMetrics>) -> Response {
    let text = render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
