//! Alerts: what fires, notifications, rules and destinations.

use axum::response::Response;
use maud::{Markup, html};

use super::super::alerts;
use super::super::problem::HandlerResult;
use super::super::query::{FromQuery as _, Query};
use super::components::{empty, hidden, live, numeric, paging, table, text};
use super::form::TOKEN;
use super::layout::{Call, Section};
use super::states::{alert_state, notification_state, severity};
use super::text::{none, number, said, sentences, short, when, when_any};
use super::visit::{View, Visit};
use super::{alert_destination, alert_rule};
use crate::api::{Alert, AlertDestination, AlertNotification, AlertRule, PageQuery};

pub(super) async fn page(visit: Visit) -> Response {
    let view = content(&visit).await;
    visit.respond(Section::Alerts, view)
}

async fn content(visit: &Visit) -> HandlerResult<View> {
    let query = match visit.query.get("limit") {
        "" => visit.query.with("limit", "50"),
        _ => visit.query.clone(),
    };
    let asked: PageQuery = query.query()?;
    let overview = alerts::overview(visit.part(), visit.session.reader()?, Query(asked)).await?.0;
    let counts = overview.counts;
    let changing = html! {
        section aria-labelledby="alerts" {
            h2 #alerts { "Alerts" }
            @if overview.alerts.is_empty() {
                (empty(&html! { p { "No alert is firing, and none has fired recently." } }))
            } @else {
                p.hint { (number(counts.firing)) " firing, " (number(counts.pending)) " pending, " (number(counts.resolved)) " resolved recently" }
                (list(visit, &overview.alerts))
            }
            (paging(visit, overview.pagination.next.as_deref(), &query))
        }
        section aria-labelledby="notifications" {
            h2 #notifications { "Notifications" }
            @if overview.notifications.is_empty() {
                (empty(&html! { p { "No notifications have been sent recently." } }))
            } @else { (notifications(visit, &overview.notifications)) }
        }
    };
    let is_admin = visit.session.is_admin();
    let body = html! {
        h1 { "Alerts" }
        (live(visit, 5000, &changing))
        section aria-labelledby="rules" {
            h2 #rules { "Rules" }
            @if is_admin {
                p { "Open a rule to change, silence or disable it. " a href="/console/alerts/new-rule" { "Create a rule" } }
            }
            (rules(visit, &overview.rules))
        }
        section aria-labelledby="destinations" {
            h2 #destinations { "Destinations" }
            @if overview.destinations.is_empty() {
                (empty(&html! {
                    p { "No notifications are sent, because there is no destination: a webhook, a Slack channel, an e-mail address or an Alertmanager." }
                    @if is_admin { p { a href="/console/alerts/new-destination" { "Create a destination" } } }
                    @else { p { "An admin can create one." } }
                }))
            } @else {
                @if is_admin { p { a href="/console/alerts/new-destination" { "Create a destination" } } }
                 (destinations(visit, &overview.destinations)) }
        }
    };
    let calls = vec![Call::get("/alerts", &query.known(&PageQuery::names()))];
    Ok(View { title: "Alerts".to_owned(), calls, body })
}

/// Alerts in a table.
pub(super) fn list(visit: &Visit, alerts: &[Alert]) -> Markup {
    let rows: Vec<Vec<Markup>> = alerts
        .iter()
        .map(|alert| {
            vec![
                said(&alert.key),
                html! { (alert_state(alert.state)) @if alert.silenced { " silenced" } },
                severity(alert.severity),
                sentences(&alert.found.summary),
                when(alert.since, visit.now),
                when_any(alert.resolved_at, visit.now),
                html! { @if alert.notified.is_empty() { (none()) } @else { (said(&alert.notified.join(", "))) } },
            ]
        })
        .collect();
    let columns = [
        text("Alert"),
        text("State"),
        text("Severity"),
        text("What was found"),
        text("Since"),
        text("Resolved"),
        text("Notified"),
    ];
    table("Alerts, firing ones first", &columns, &rows)
}

fn notifications(visit: &Visit, notifications: &[AlertNotification]) -> Markup {
    let rows: Vec<Vec<Markup>> = notifications
        .iter()
        .map(|notification| {
            let last = notification.attempts.last().map(|attempt| attempt.detail.as_str());
            vec![
                said(&notification.key),
                html! { (notification.event.as_str()) },
                said(&notification.destination),
                notification_state(notification.state),
                html! { (number(notification.attempt_count)) },
                last.filter(|detail| !detail.is_empty()).map_or_else(none, sentences),
                when(notification.created_at, visit.now),
            ]
        })
        .collect();
    let columns = [
        text("Alert"),
        text("Event"),
        text("Destination"),
        text("State"),
        numeric("Attempts"),
        text("Last answer"),
        text("Stored"),
    ];
    table("Notifications, newest first", &columns, &rows)
}

fn rules(visit: &Visit, rules: &[AlertRule]) -> Markup {
    let rows: Vec<Vec<Markup>> = rules
        .iter()
        .map(|rule| {
            let definition = &rule.definition;
            vec![
                html! { a href=(alert_rule::path(&rule.id)) { (short(&rule.id, 64)) } },
                severity(definition.severity),
                html! {
                    @if !definition.enabled { "disabled" }
                    @else if let Some(until) = rule.silenced_until { "silence ends " (when(until, visit.now)) }
                    @else { "on" }
                },
                sentences(&definition.description),
                said(&definition.owner),
            ]
        })
        .collect();
    let columns =
        [text("Rule"), text("Severity"), text("State"), text("Description"), text("Owner")];
    table("Rules by id", &columns, &rows)
}

fn destinations(visit: &Visit, destinations: &[AlertDestination]) -> Markup {
    let is_admin = visit.session.is_admin();
    let rows: Vec<Vec<Markup>> = destinations
        .iter()
        .map(|destination| {
            let (id, settings) = (&destination.id, &destination.settings);
            let mut row = vec![
                html! { a href=(alert_destination::path(id)) { (short(id, 64)) } },
                html! { (settings.kind.as_str()) },
                said(&settings.address),
                sentences(&settings.description),
                when(destination.updated_at, visit.now),
            ];
            if is_admin {
                row.push(html! {
                    form method="post" action=(format!("{}/test", alert_destination::path(id))) {
                        (hidden(TOKEN, &visit.session.id.form_token()))
                        button type="submit" aria-label=(format!("Test the destination {id}")) { "Test" }
                    }
                });
            }
            row
        })
        .collect();
    let columns = [
        text("Destination"),
        text("Kind"),
        text("Address"),
        text("Description"),
        text("Changed"),
        text("Action"),
    ];
    let columns = if is_admin { &columns[..] } else { &columns[..5] };
    table("Destinations by id", columns, &rows)
}
