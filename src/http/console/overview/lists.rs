//! The lists of the overview.

use maud::{Markup, html};

use super::super::components::{event_link, gateway_link, numeric, table, text};
use super::super::states::node_status;
use super::super::text::{number, said, span, when};
use super::super::visit::Visit;
use super::{Overview, ROWS};
use crate::api::Gateway;

pub(super) fn behind(overview: &Overview) -> Markup {
    let mut behind: Vec<&Gateway> =
        overview.gateways.iter().filter(|it| it.lag.events > 0).collect();
    behind.sort_by_key(|gateway| std::cmp::Reverse(gateway.lag.events));
    let rows: Vec<Vec<Markup>> = behind
        .iter()
        .take(ROWS)
        .map(|gateway| {
            vec![
                gateway_link(gateway.id, &gateway.name),
                html! { (number(gateway.lag.events)) },
                html! { (span(gateway.lag.seconds)) },
            ]
        })
        .collect();
    html! {
        h2 #behind { "Furthest behind" }
        @if rows.is_empty() {
            p.hint { "No gateway has a pending delivery." }
        } @else {
            (table("The five furthest behind", &[text("Gateway"), numeric("Pending"), numeric("Oldest")], &rows))
        }
    }
}

pub(super) fn events(visit: &Visit, overview: &Overview) -> Markup {
    let rows: Vec<Vec<Markup>> = overview
        .events
        .iter()
        .map(|event| {
            vec![
                event_link(event.id.as_str()),
                html! { code { (event.event_type.as_str()) } },
                html! { (number(event.gateway_count)) },
                when(event.appended_at, visit.now),
            ]
        })
        .collect();
    html! {
        h2 #events { "Latest events" }
        @if rows.is_empty() {
            p.hint { "No event was published in the last 24 hours." }
        } @else {
            (table("Latest events", &[text("Event"), text("Type"), numeric("Gateways"), text("Published")], &rows))
            p.more { a href="/console/events" { "All events" } }
        }
    }
}

pub(super) fn changes(visit: &Visit, overview: &Overview) -> Markup {
    let rows: Vec<Vec<Markup>> = overview
        .changes
        .iter()
        .map(|record| {
            vec![
                html! { code { (record.action) } },
                html! { (said(&record.object.name)) },
                html! { (said(&record.principal.name)) },
                when(record.recorded_at, visit.now),
            ]
        })
        .collect();
    html! {
        h2 #changes { "Latest changes" }
        @if rows.is_empty() {
            p.hint { "Nothing was changed in the last 24 hours." }
        } @else {
            (table("Latest changes", &[text("Change"), text("Of"), text("By"), text("When")], &rows))
            p.more { a href="/console/audit" { "All changes" } }
        }
    }
}

pub(super) fn nodes(visit: &Visit, overview: &Overview) -> Markup {
    let rows: Vec<Vec<Markup>> = overview
        .nodes
        .iter()
        .take(ROWS)
        .map(|node| {
            vec![
                html! { (said(node.host.as_deref().unwrap_or("unknown"))) },
                node_status(node.status),
                when(node.last_heartbeat, visit.now),
            ]
        })
        .collect();
    html! {
        h2 #nodes { "Nodes" }
        (table("Nodes", &[text("Host"), text("State"), text("Last heartbeat")], &rows))
    }
}
