//! The operators' console at `/console`: pages that the server renders from what the handlers of the
//! API return. A page calls these handlers and shows the equivalent `curl` command; it reads and
//! changes nothing in another way. Without scripts everything works except that pages do not
//! refresh by themselves.
//!
//! An operator signs in with an access token ([`session`]); what a page offers follows from the
//! token's scopes. Whatever someone else wrote is output as text ([`text`]).

use std::time::Duration;

use axum::error_handling::HandleErrorLayer;
use axum::extract::Extension;
use axum::http::{HeaderMap, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{any, get, post};
use axum::{BoxError, Router};
use tower::timeout::TimeoutLayer;

use super::problem::Problem;
use super::state::AppState;
use crate::api::Code;

mod access_tokens;
mod alert_destination;
mod alert_rule;
mod alerts;
mod assets;
mod audit;
mod changes;
mod chart;
mod components;
mod dead_letters;
mod delivery_list;
mod event;
mod event_type_form;
mod event_types;
mod events;
mod failure_selection;
mod failures;
mod fields;
mod form;
mod gateway;
mod gateway_actions;
mod gateway_keys;
mod gateway_labels;
mod gateway_log;
mod gateway_selection;
mod gateways;
mod inbox;
mod jobs;
pub(super) mod layout;
mod lookup;
mod nodes;
mod organisation;
mod overview;
mod pairs;
mod publish;
mod redrive;
mod replay;
mod republish;
mod resend;
mod selection;
mod session;
mod sign_in;
pub(super) mod sign_ins;
mod states;
mod steps;
mod text;
mod visit;

/// The routes of the console. They are not part of the API's description.
pub(super) fn routes(request_timeout: Duration) -> Router<AppState> {
    // A payload may be as large as an event.
    let large = Router::new()
        .route("/console/publish", get(publish::page).post(publish::submit))
        .layer(Extension(form::Large));
    let timeout = (HandleErrorLayer::new(timed_out), TimeoutLayer::new(request_timeout));
    Router::new()
        .route(layout::ROOT, get(overview::page))
        .route("/console/changes", get(changes::stream))
        .route("/console/sign-in", get(sign_in::page).post(sign_in::submit))
        .route("/console/sign-out", post(sign_in::end))
        .route("/console/gateways", get(gateways::page))
        .route("/console/gateways/selected", post(gateway_selection::submit))
        .route("/console/gateways/{id}", get(gateway::page))
        .route("/console/gateways/{id}/log", get(gateway_log::page))
        .route("/console/gateways/{id}/pause", post(gateway_actions::pause))
        .route("/console/gateways/{id}/resume", post(gateway_actions::resume))
        .route("/console/gateways/{id}/labels", post(gateway_labels::save))
        .route("/console/gateways/{id}/disable", post(gateway_actions::disable))
        .route("/console/gateways/{id}/enable", post(gateway_actions::enable))
        .route("/console/gateways/{id}/skip", post(gateway_actions::skip))
        .route("/console/gateways/{id}/resync", post(gateway_actions::resync))
        .route("/console/gateways/{id}/replay", post(replay::submit))
        .route("/console/gateways/{id}/keys", post(gateway_keys::create))
        .route("/console/gateways/{id}/keys/{key}/revoke", post(gateway_keys::revoke))
        .route("/console/events", get(events::page))
        .route("/console/events/{id}", get(event::page))
        .route("/console/events/{id}/resend", post(resend::submit))
        .route("/console/failures", get(failures::page))
        .route("/console/dead-letters", get(dead_letters::page))
        .route("/console/failures/redrive", post(redrive::submit))
        .route("/console/failures/redrive-selected", post(failure_selection::submit))
        .route("/console/inbox", get(inbox::page))
        .route("/console/inbox/{id}", get(inbox::row))
        .route("/console/inbox/{id}/retry", post(inbox::retry))
        .route("/console/inbox/{id}/edit", post(inbox::edit))
        .route("/console/inbox/{id}/delete", post(inbox::delete))
        .route("/console/event-types", get(event_types::page).post(event_types::register))
        .route("/console/event-types/{name}", get(event_types::one).post(event_types::save))
        .route("/console/jobs", get(jobs::page))
        .route("/console/jobs/{id}/abort", post(jobs::abort))
        .route("/console/audit", get(audit::page))
        .route("/console/nodes", get(nodes::page))
        .route("/console/alerts", get(alerts::page))
        .route("/console/alerts/new-rule", get(alert_rule::new))
        .route("/console/alerts/rules", get(alert_rule::new).post(alert_rule::create))
        .route("/console/alerts/rules/{id}", get(alert_rule::page).post(alert_rule::save))
        .route("/console/alerts/rules/{id}/silence", post(alert_rule::silence))
        .route("/console/alerts/rules/{id}/enable", post(alert_rule::enable))
        .route("/console/alerts/rules/{id}/disable", post(alert_rule::disable))
        .route("/console/alerts/rules/{id}/delete", post(alert_rule::delete))
        .route("/console/alerts/new-destination", get(alert_destination::new))
        .route("/console/alerts/destinations", get(alert_destination::new))
        .route("/console/alerts/destinations", post(alert_destination::create))
        .route("/console/alerts/destinations/{id}", get(alert_destination::page))
        .route("/console/alerts/destinations/{id}", post(alert_destination::save))
        .route("/console/alerts/destinations/{id}/test", post(alert_destination::test))
        .route("/console/alerts/destinations/{id}/delete", post(alert_destination::delete))
        .route("/console/access-tokens", get(access_tokens::page).post(access_tokens::create))
        .route("/console/access-tokens/{id}/revoke", post(access_tokens::revoke))
        .merge(large)
        .route("/console/organisation", get(organisation::page))
        .route("/console/", get(visit::to_root))
        .route("/console/{*path}", any(visit::not_found))
        .method_not_allowed_fallback(visit::wrong_method)
        .layer(timeout)
        .layer(map_response(layout::secured))
        .route("/console/assets/{file}", get(assets::file))
}

/// Whether a request asks for a page, as browsers do.
pub(super) fn is_browser(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|it| it.to_str().ok());
    let mut types = accepted.flat_map(|line| line.split(','));
    types.any(|one| {
        let essence = one.split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("text/html")
    })
}

async fn timed_out(_: BoxError) -> Response {
    let problem = Problem::unavailable(
        Code::Timeout,
        "The page took too long. Choose a shorter time window or more filters, or try again.",
    );
    layout::alone("Timeout", &layout::problem(&problem), &problem)
}
