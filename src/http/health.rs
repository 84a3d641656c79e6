//! For those who run the service: is it alive, is it ready, how is it doing.
//! No token is needed, and nothing about organisations is said.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::App;
use super::problem::{Answer, Problem};
use crate::jobs::Supervisor;

/// The process runs and answers.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// New work is welcome: not draining, the database reads and writes, and no
/// background job is overdue. A disk
/// that is nearly full is told, and no reason to say no: whoever asks this takes
/// the gateways elsewhere, or nowhere, and they could still be served.
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Answer<&'static str> {
    if app.dispatcher.is_draining() {
        return Err(Problem::unavailable("draining", "This node is shutting down."));
    }
    app.store.check().await?;
    let overdue = app.supervisors.iter().filter_map(Supervisor::overdue);
    if let Some(overdue) = overdue.max_by_key(|overdue| overdue.age) {
        let job = overdue.job;
        return Err(Problem::unavailable(
            "job_overdue",
            format!(
                "The background job {job} has not completed a run for {} s.",
                overdue.age.as_secs()
            ),
        ));
    }
    if !app.store.has_room().await {
        return Ok(
            "degraded: the disk is nearly full, and publishing is refused (507); delivery goes on\n",
        );
    }
    Ok("ok\n")
}

/// Prometheus's text format.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = (app.render_metrics)();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
