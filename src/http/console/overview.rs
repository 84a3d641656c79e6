//! The overview: is everything delivered everywhere, and if not, where to look.

use axum::response::Response;
use maud::{Markup, html};

use super::super::problem::HandlerResult;
use super::super::query::Query;
use super::super::{alerts, audit, browse, deliveries, gateways, nodes, stats};
use super::chart;
use super::components::{Refresh, following, gateway_link, table, text};
use super::layout::{Call, Section};
use super::pairs::Pairs;
use super::states::verdict;
use super::text::{count, number, said, when};
use super::visit::{View, Visit};
use crate::api::{
    Alert, AuditQuery, AuditRecord, DeliveryStats, EventFilter, EventSummary, Gateway,
    GatewaysQuery, Node, NodeStatus, NodesQuery, PageQuery, PublishedQuery, PublishedSummary,
    Summary, SummaryQuery, VerdictState, Window,
};
use crate::store::{Alerts, Ledger};

mod lists;

/// Gateways that are counted, at most.
const COUNTED: usize = 5000;
/// Rows of each list.
const ROWS: usize = 5;

pub(super) async fn page(visit: Visit) -> Response {
    let view = content(&visit).await;
    visit.respond(Section::Overview, view)
}

/// What the page shows.
struct Overview {
    gateways: Vec<Gateway>,
    /// Whether there are more gateways than are counted.
    more: bool,
    totals: DeliveryStats,
    failures: Summary,
    published: PublishedSummary,
    nodes: Vec<Node>,
    /// The firing alerts.
    alerts: Vec<Alert>,
    events: Vec<EventSummary>,
    /// Empty for those who may not read them.
    changes: Vec<AuditRecord>,
}

async fn content(visit: &Visit) -> HandlerResult<View> {
    let overview = read(visit).await?;
    let body = html! {
        h1 { "Overview" }
        (following(visit, Refresh::SELDOM, None, &parts(visit, &overview)))
    };
    let none = Pairs::default();
    let calls = vec![
        Call::get("/gateways", &none),
        Call::get("/stats", &none),
        Call::get("/deliveries/summary", &none),
        Call::get("/stats/published", &none),
        Call::get("/nodes", &none),
        Call::get("/alerts", &none),
    ];
    Ok(View { title: "Overview".to_owned(), calls, body })
}

async fn read(visit: &Visit) -> HandlerResult<Overview> {
    let reader = || visit.session.reader();
    let few = || PageQuery { limit: Some(ROWS), cursor: None };
    let summary = (Window::default(), SummaryQuery::default());
    let published = (Window::default(), PublishedQuery::default());
    let changes = async {
        if !visit.session.is_admin() {
            return Ok(Vec::new());
        }
        let query = Query((AuditQuery::default(), few()));
        Ok(audit::list(visit.part(), visit.session.admin()?, query).await?.0.list)
    };
    let organisation = reader()?.0;
    let (ledger, alerts_store) =
        (visit.state.part::<dyn Ledger>(), visit.state.part::<dyn Alerts>());
    let (gateways, totals, failures, published, nodes, alerts, events, changes) = tokio::try_join!(
        all_gateways(visit),
        stats::deliveries(ledger.as_ref(), organisation),
        deliveries::summary(visit.part(), reader()?, Query(summary)),
        stats::published(visit.part(), reader()?, Query(published)),
        nodes::list(visit.part(), reader()?, Query(NodesQuery { limit: Some(100) })),
        alerts::firing(alerts_store.as_ref(), organisation),
        browse::events(visit.part(), reader()?, Query((EventFilter::default(), few()))),
        changes,
    )?;
    let (gateways, more) = gateways;
    Ok(Overview {
        gateways,
        more,
        totals,
        failures: failures.0,
        published: published.0,
        nodes: nodes.0.list,
        alerts,
        events: events.0.list,
        changes,
    })
}

/// All gateways, up to a limit, and whether there are more.
async fn all_gateways(visit: &Visit) -> HandlerResult<(Vec<Gateway>, bool)> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = PageQuery { limit: Some(PageQuery::MAX_LIMIT), cursor };
        let query = Query((GatewaysQuery::default(), page));
        let page =
            gateways::list(visit.state(), visit.part(), visit.session.reader()?, query).await?.0;
        all.extend(page.list);
        cursor = page.pagination.next;
        if cursor.is_none() || all.len() >= COUNTED {
            return Ok((all, cursor.is_some()));
        }
    }
}

fn parts(visit: &Visit, overview: &Overview) -> Markup {
    html! {
        (headline(overview))
        (firing(visit, overview))
        (tiles(overview))
        div.columns {
            section aria-labelledby="attention" { (attention(visit, overview)) }
            section aria-labelledby="behind" { (lists::behind(overview)) }
        }
        div.columns {
            section aria-labelledby="published" {
                h2 #published { "Published in the last 24 hours" }
                (chart::published(&overview.published))
                p.more { a href="/console/events" { "All events" } }
            }
            section aria-labelledby="failures" {
                h2 #failures { "Failed attempts in the last 24 hours" }
                (chart::failures(&overview.failures, "Reason"))
                p.more { a href="/console/failures" { "All failures" } }
            }
        }
        div.columns {
            section aria-labelledby="events" { (lists::events(visit, overview)) }
            @if visit.session.is_admin() {
                section aria-labelledby="changes" { (lists::changes(visit, overview)) }
            } @else {
                section aria-labelledby="nodes" { (lists::nodes(visit, overview)) }
            }
        }
    }
}

/// How urgently someone should do something about a gateway, the most urgent first. `None` if nothing
/// is to be done.
const fn urgency(gateway: &Gateway) -> Option<u8> {
    match gateway.verdict.state {
        VerdictState::Failing => Some(0),
        VerdictState::Away => Some(1),
        VerdictState::Behind => Some(2),
        VerdictState::Paused => Some(3),
        VerdictState::Deleted | VerdictState::Disabled | VerdictState::Ok => None,
    }
}

fn headline(overview: &Overview) -> Markup {
    let all = overview.gateways.iter().filter(|gateway| !gateway.disabled).count();
    let wrong = overview.gateways.iter().filter_map(urgency).count();
    let (dead, lost) = (overview.totals.dead_letters, lost(overview));
    html! {
        @if overview.gateways.is_empty() {
            div.notice {
                p {
                    "No gateway is registered yet. Register the first one with "
                    code { "gateway-events gateway register berlin" }
                    ", create its key with " code { "gateway-events token create --gateway berlin" } ", and connect it."
                }
            }
        } @else if wrong == 0 && dead == 0 && lost == 0 {
            @match all {
                0 => div.notice { p { "All gateways are disabled." } },
                1 => div.notice.good { p { "The gateway is connected and up to date." } },
                all => div.notice.good { p { "All " (number(all)) " gateways are connected and up to date." } },
            }
        } @else {
            div.notice.bad {
                p {
                    @if wrong > 0 {
                        (number(wrong)) " of " (count(all, "gateway", "gateways"))
                        @if wrong == 1 { " needs attention. " } @else { " need attention. " }
                    }
                    @if dead > 0 { (count(dead, "dead letter has", "dead letters have")) " not been redriven. " }
                    @if lost > 0 { (count(lost, "node is lost", "nodes are lost")) "." }
                }
            }
        }
    }
}

/// Alerts that fire, the most urgent ones.
fn firing(visit: &Visit, overview: &Overview) -> Markup {
    let few = &overview.alerts[..overview.alerts.len().min(ROWS)];
    html! {
        @if !few.is_empty() {
            section aria-labelledby="firing" {
                h2 #firing { (count(overview.alerts.len(), "firing alert", "firing alerts")) }
                (super::alerts::list(visit, few))
                p.more { a href="/console/alerts" { "All alerts" } }
            }
        }
    }
}

fn lost(overview: &Overview) -> usize {
    overview.nodes.iter().filter(|node| node.status == NodeStatus::Lost).count()
}

fn tile(name: &str, value: &Markup, about: &Markup) -> Markup {
    html! { div.tile { dt { (name) } dd { b { (value) } span { (about) } } } }
}

fn tiles(overview: &Overview) -> Markup {
    let connected = overview.gateways.iter().filter(|gateway| gateway.connected).count();
    let registered = overview.gateways.len();
    let failed: i64 = overview.failures.list.iter().map(|row| row.count).sum();
    let published: i64 = overview.published.list.iter().map(|row| row.count).sum();
    let live = overview.nodes.iter().filter(|node| node.status == NodeStatus::Live).count();
    let totals = &overview.totals;
    let plus = if overview.more { "+" } else { "" };
    html! {
        dl.tiles {
            (tile("Connected", &html! { a href="/console/gateways" { (number(connected)) } },
                &html! { "of " (number(registered)) (plus) " gateways" }))
            (tile("Pending deliveries",
                &html! { a href="/console/failures?status=pending" { (number(totals.pending)) } },
                &html! { "not confirmed yet" }))
            (tile("Dead letters",
                &html! { a href="/console/dead-letters" { (number(totals.dead_letters)) } },
                &html! { "given up, not redriven" }))
            (tile("Published", &html! { a href="/console/events" { (number(published)) } },
                &html! { "in the last 24 hours" }))
            (tile("Failed attempts", &html! { (number(failed)) }, &html! { "in the last 24 hours" }))
            (tile("Delivered", &html! { (number(totals.total_events_sent)) }, &html! { "deliveries in total" }))
            (tile("Nodes", &html! { a href="/console/nodes" { (number(live)) } }, &html! { "live" }))
        }
    }
}

fn attention(visit: &Visit, overview: &Overview) -> Markup {
    let counts = [
        VerdictState::Failing,
        VerdictState::Away,
        VerdictState::Behind,
        VerdictState::Paused,
        VerdictState::Disabled,
        VerdictState::Ok,
    ]
    .map(|of| (of, overview.gateways.iter().filter(|it| it.verdict.state == of).count()));
    let mut wrong: Vec<(u8, &Gateway)> =
        overview.gateways.iter().filter_map(|gateway| Some((urgency(gateway)?, gateway))).collect();
    wrong.sort_by_key(|(urgency, gateway)| (*urgency, std::cmp::Reverse(gateway.lag.events)));
    let rows: Vec<Vec<Markup>> = wrong
        .iter()
        .take(ROWS)
        .map(|(_, gateway)| {
            let reason = gateway.verdict.reason.as_deref().unwrap_or_default();
            vec![
                gateway_link(gateway.id, &gateway.name),
                verdict(gateway.verdict.state),
                html! { (said(reason)) },
                when(gateway.verdict.since, visit.now),
            ]
        })
        .collect();
    html! {
        h2 #attention { "Gateways by state" }
        ul.counts {
            @for (of, count) in counts.iter().filter(|(_, count)| *count > 0) {
                li { a href=(format!("/console/gateways?state={}", of.as_str())) { (verdict(*of)) " " b { (number(*count)) } } }
            }
        }
        @if !rows.is_empty() {
            (table("Gateways that need attention", &[text("Gateway"), text("State"), text("Reason"), text("Since")], &rows))
        }
    }
}
