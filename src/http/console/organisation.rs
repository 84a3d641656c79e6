//! The organisation: who is signed in, what belongs to it, its totals, and the limits in force. The API
//! changes none of this as a whole; each part has a page of its own.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use maud::{Markup, html};

use super::super::problem::HandlerResult;
use super::super::query::Query;
use super::super::{access_tokens, alert_destinations, alerts, event_types, gateways, stats};
use super::components::facts;
use super::layout::{Call, Section};
use super::pairs::Pairs;
use super::session;
use super::text::{number, said, span, when_any};
use super::visit::{View, Visit};
use crate::api::{DeliveryStats, GatewaysQuery, PageQuery};
use crate::config::Config;

/// Gateways that are counted, at most.
const COUNTED: usize = PageQuery::MAX_LIMIT;

/// What belongs to the organisation.
struct Counts {
    gateways: usize,
    /// Whether there are more gateways than are counted.
    more: bool,
    connections: usize,
    event_types: usize,
    rules: usize,
    destinations: usize,
    /// Valid tokens. Only an admin may know.
    tokens: Option<usize>,
}

pub(super) async fn page(visit: Visit) -> Response {
    let view = content(&visit).await;
    visit.respond(Section::Organisation, view)
}

async fn content(visit: &Visit) -> HandlerResult<View> {
    let (counts, totals) = read(visit).await?;
    let none = Pairs::default();
    let mut calls = vec![
        Call::get("/stats", &none),
        Call::get("/gateways", &none.with("limit", COUNTED.to_string())),
        Call::get("/event-types", &none),
        Call::get("/alerts/rules", &none),
        Call::get("/alerts/destinations", &none),
    ];
    if visit.session.is_admin() {
        calls.push(Call::get("/access-tokens", &none));
    }
    let body = html! {
        h1 { "Organisation" }
        p.hint { "Everything that an access token shows and changes belongs to one organisation." }
        section aria-labelledby="you" { h2 #you { "Signed in as" } (signed_in(visit)) }
        section aria-labelledby="contents" { h2 #contents { "What belongs to it" } (contents(&counts)) }
        section aria-labelledby="deliveries" { h2 #deliveries { "Deliveries in total" } (deliveries(visit, &totals)) }
        section aria-labelledby="limits" { h2 #limits { "Limits and retention" } (limits(visit)) }
    };
    Ok(View { title: "Organisation".to_owned(), calls, body })
}

async fn read(visit: &Visit) -> HandlerResult<(Counts, DeliveryStats)> {
    let reader = || visit.session.reader();
    let first = PageQuery { limit: Some(COUNTED), cursor: None };
    let tokens = async {
        if !visit.session.is_admin() {
            return Ok(None);
        }
        let list = access_tokens::list(visit.part(), visit.session.admin()?, Query(())).await?.0;
        let is_valid =
            |expiry: Option<crate::clock::Timestamp>| expiry.is_none_or(|at| at > visit.now);
        let valid =
            list.list.iter().filter(|it| it.revoked_at.is_none() && is_valid(it.expires_at));
        Ok(Some(valid.count()))
    };
    let (totals, gateways, types, rules, destinations, tokens) = tokio::try_join!(
        stats::show(visit.part(), visit.part(), visit.part(), reader()?, Query(())),
        gateways::list(
            visit.state(),
            visit.part(),
            reader()?,
            Query((GatewaysQuery::default(), first))
        ),
        event_types::list(visit.part(), reader()?, Query(())),
        alerts::list(visit.part(), reader()?, Query(())),
        alert_destinations::list(visit.part(), reader()?, Query(())),
        tokens,
    )?;
    let counts = Counts {
        gateways: gateways.0.list.len(),
        more: gateways.0.pagination.next.is_some(),
        connections: totals.0.gateway_connections.total_active,
        event_types: types.0.list.len(),
        rules: rules.0.list.len(),
        destinations: destinations.0.list.len(),
        tokens,
    };
    Ok((counts, totals.0.event_delivery))
}

fn signed_in(visit: &Visit) -> Markup {
    let session = &visit.session;
    facts(&[
        ("Access token", said(&session.name)),
        ("Id", html! { code { (session.token()) } }),
        ("Scopes", html! { (session.scopes()) }),
        (
            "Session",
            html! { "ends " (span(session::LIFETIME.as_secs())) " after signing in, and with the token" },
        ),
    ])
}

fn contents(counts: &Counts) -> Markup {
    let link = |path: &str, count: usize| html! { a href=(path) { (number(count)) } };
    let mut all = vec![
        (
            "Gateways",
            html! { (link("/console/gateways", counts.gateways)) @if counts.more { "+" } },
        ),
        ("Live connections", html! { (number(counts.connections)) }),
        ("Event types", link("/console/event-types", counts.event_types)),
        ("Alert rules", link("/console/alerts", counts.rules)),
        ("Alert destinations", link("/console/alerts", counts.destinations)),
    ];
    if let Some(tokens) = counts.tokens {
        all.push(("Valid access tokens", link("/console/access-tokens", tokens)));
    }
    facts(&all)
}

fn deliveries(visit: &Visit, totals: &DeliveryStats) -> Markup {
    facts(&[
        ("Delivered", html! { (number(totals.total_events_sent)) }),
        (
            "Pending",
            html! { a href="/console/failures?status=pending" { (number(totals.pending)) } },
        ),
        ("Failed attempts", html! { (number(totals.failed_deliveries)) }),
        (
            "Dead letters",
            html! { a href="/console/dead-letters" { (number(totals.dead_letters)) } },
        ),
        (
            "Last failure",
            html! {
                (when_any(totals.last_failure_time, visit.now))
                @if let Some(reason) = totals.last_failure_reason { " " code { (reason.as_str()) } }
            },
        ),
    ])
}

/// The settings that concern everyone who uses the service.
fn limits(visit: &Visit) -> Markup {
    let config: Arc<Config> = visit.state.get();
    let kept = config.retention.limits(config.reliable.instance_ttl);
    let days = |time: Duration| html! { (span(time.as_secs())) };
    let bytes = |bytes: u64| html! { (number(bytes)) " bytes" };
    html! {
        p.hint { "They are settings of the service, and the same for all organisations. " code { "gateway-events config show" } " prints all settings in effect at a node." }
        (facts(&[
            ("Size of an event", bytes(config.limits.event_bytes.as_u64())),
            ("Size of a request that publishes", bytes(config.server.body_limit.as_u64())),
            ("Connection attempts per minute", html! { (number(config.limits.attempts_per_minute.get())) }),
            ("Confirmed events are kept", days(kept.max_age)),
            ("Confirmed events of a gateway, at most", html! { (number(kept.max_events)) }),
            ("Unconfirmed events are kept", days(kept.hard_max_age)),
            ("Unconfirmed events of a gateway, at most", html! { (number(kept.hard_max_events)) }),
            ("Dead letters are kept", days(kept.dead_letter_max_age)),
            ("The audit log is kept", days(kept.audit_max_age)),
        ]))
    }
}
