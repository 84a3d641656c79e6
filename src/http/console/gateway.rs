//! A gateway: its diagnosis first, then what can be done, then the evidence.

use axum::response::Response;
use maud::{Markup, html};

use super::super::extract::Path;
use super::super::problem::Answer;
use super::super::query::Query;
use super::super::{diagnosis, gateways, instances};
use super::components::{
    Tone, event_link, facts, labels, live, numeric, state, table, text, verdict,
};
use super::layout::{Call, Section};
use super::pairs::Pairs;
use super::text::{lines, none, number, pretty, said, sentences, short, span, when, when_any};
use super::visit::{Key, View, Visit};
use super::{gateway_actions, gateway_keys};
use crate::api::{ConnectionStatus, Evidence, Gateway, GatewayDiagnosis, Instances, NextStep};
use crate::event::GatewayId;

pub(super) async fn page(visit: Visit, Key(id): Key<GatewayId>) -> Response {
    let view = content(&visit, id).await;
    visit.respond(Section::Gateways, view)
}

async fn content(visit: &Visit, id: GatewayId) -> Answer<View> {
    let reader = || visit.session.reader();
    let (gateway, diagnosis, instances) = tokio::try_join!(
        gateways::show(visit.state(), reader()?, Path(id), Query(())),
        diagnosis::of_gateway(visit.state(), reader()?, Path(id), Query(())),
        instances::list(visit.state(), reader()?, Path(id), Query(())),
    )?;
    let (gateway, diagnosis, instances) = (gateway.0, diagnosis.0, instances.0);
    let name = short(&gateway.name, 64);
    let body = html! {
        p.up { a href="/console/gateways" { "Gateways" } }
        h1 { bdi { (name) } }
        (live(visit, 3000, &html! {
            (verdict_part(visit, &gateway, &diagnosis))
            (gateway_facts(visit, &gateway))
        }))
        @if visit.session.is_admin() { (gateway_actions::part(visit, &gateway, &diagnosis)) }
        (pending(visit, &gateway, &diagnosis))
        (failures(visit, &gateway, &diagnosis))
        (connections(visit, &diagnosis))
        (instances_part(visit, &instances))
        (gateway_keys::part(visit, &diagnosis))
        (missed(visit, &diagnosis))
        (history(visit, &diagnosis))
        (manifest(visit, &gateway))
    };
    let none = Pairs::default();
    let calls = vec![
        Call::get(format!("/gateways/{id}"), &none),
        Call::get(format!("/gateways/{id}/diagnosis"), &none),
        Call::get(format!("/gateways/{id}/instances"), &none),
    ];
    Ok(View { title: name, calls, body })
}

fn verdict_part(visit: &Visit, gateway: &Gateway, diagnosis: &GatewayDiagnosis) -> Markup {
    let of = &diagnosis.verdict;
    html! {
        div.verdict {
            (verdict(of.state))
            p {
                (sentences(&of.summary))
                " (" (when(of.since, visit.now)) ")"
            }
        }
        @if let Some(refusal) = &gateway.last_refusal {
            p.hint {
                "Last refused connection attempt: " (when(refusal.at, visit.now)) " from " (said(&refusal.address)) ", "
                (said(refusal.cause.as_deref().unwrap_or(&refusal.code)))
            }
        }
        (next_steps(&diagnosis.next))
    }
}

/// What to do next, with the commands that do it.
pub(super) fn next_steps(steps: &[NextStep]) -> Markup {
    html! {
        @if !steps.is_empty() {
            section.next aria-labelledby="next" {
                h2 #next { "What to do next" }
                ol {
                    @for (nth, step) in steps.iter().enumerate() {
                        @let id = format!("step-{nth}");
                        li {
                            p { (sentences(&step.why)) }
                            div.command {
                                pre tabindex="0" { code id=(id) { (lines(&step.command)) } }
                                button type="button" hidden data-copy=(id) { "Copy" }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn gateway_facts(visit: &Visit, gateway: &Gateway) -> Markup {
    let id = gateway.id;
    let lag = gateway.lag;
    facts(&[
        ("Connections", html! { (number(gateway.connections)) }),
        (
            "Pending",
            html! {
                a href=(format!("/console/failures?status=pending&gatewayId={id}")) { (number(lag.events)) }
                @if lag.events > 0 { ", the oldest for " (span(lag.seconds)) }
            },
        ),
        (
            "Confirmed",
            html! {
                (number(gateway.confirmed.0)) " of "
                a href=(format!("/console/gateways/{id}/log")) { (number(gateway.head.0)) " in the log" }
            },
        ),
        ("Labels", labels(&gateway.labels)),
        (
            "Replicas",
            html! { (number(gateway.replicas)) ", confirmed by " (gateway.confirmation.as_str()) },
        ),
        ("Registered", when(gateway.created_at, visit.now)),
        ("Id", html! { code.id { (id) } }),
    ])
}

/// How many elements a list of evidence leaves out.
pub(super) fn more<T>(evidence: &Evidence<T>) -> Markup {
    html! { @if evidence.more > 0 { p.hint { "and " (number(evidence.more)) " more" } } }
}

fn pending(visit: &Visit, gateway: &Gateway, diagnosis: &GatewayDiagnosis) -> Markup {
    let rows: Vec<Vec<Markup>> = diagnosis
        .pending
        .list
        .iter()
        .map(|it| {
            vec![
                html! { (number(it.sequence.0)) },
                event_link(it.event_id.as_str()),
                html! { code { (it.event_type.as_str()) } },
                when(it.appended_at, visit.now),
                when_any(it.expires_at, visit.now),
            ]
        })
        .collect();
    let columns =
        [numeric("Sequence"), text("Event"), text("Type"), text("Appended"), text("Expires")];
    html! {
        section aria-labelledby="pending" {
            h2 #pending { "Pending deliveries" }
            @if rows.is_empty() { p.hint { "Everything in its log is confirmed or was given up." } }
            @else { (table("Pending deliveries, oldest first", &columns, &rows)) (more(&diagnosis.pending)) }
            p.more { a href=(format!("/console/gateways/{}/log", gateway.id)) { "The whole log" } }
        }
    }
}

fn failures(visit: &Visit, gateway: &Gateway, diagnosis: &GatewayDiagnosis) -> Markup {
    let row = |it: &crate::api::FailuresByReason| {
        vec![
            html! { code { (it.reason.as_str()) } },
            html! { (number(it.count)) },
            when(it.first_at, visit.now),
            when(it.last_at, visit.now),
        ]
    };
    let failures: Vec<Vec<Markup>> = diagnosis.failures.iter().map(row).collect();
    let dead: Vec<Vec<Markup>> = diagnosis.dead_letters_by_reason.iter().map(row).collect();
    let columns = [text("Reason"), numeric("Count"), text("First"), text("Last")];
    html! {
        section aria-labelledby="failures" {
            h2 #failures { "Failures" }
            @if failures.is_empty() { p.hint { "No failed attempt is on record." } }
            @else { (table("Failed attempts by reason", &columns, &failures)) }
            @if !dead.is_empty() {
                (table("Dead letters by reason: given up, and not redriven", &columns, &dead))
            }
            p.more { a href=(format!("/console/failures?gatewayId={}&last=30d", gateway.id)) { "Failed deliveries of this gateway" } }
        }
    }
}

fn connections(visit: &Visit, diagnosis: &GatewayDiagnosis) -> Markup {
    let rows: Vec<Vec<Markup>> = diagnosis
        .connections
        .list
        .iter()
        .map(|it| {
            let is_live = it.status == ConnectionStatus::Connected;
            vec![
                when(it.connected_at, visit.now),
                state(it.status.as_str(), if is_live { Tone::Good } else { Tone::Quiet }),
                said(&it.transport),
                html! { (said(&it.remote_address)) },
                when(it.last_heartbeat, visit.now),
                when_any(it.closed_at, visit.now),
                match it.close_reason {
                    Some(reason) => html! { code { (reason.as_str()) } },
                    None => none(),
                },
            ]
        })
        .collect();
    let columns = [
        text("Opened"),
        text("State"),
        text("Transport"),
        text("Address"),
        text("Last sign of life"),
        text("Ended"),
        text("Reason"),
    ];
    html! {
        section aria-labelledby="connections" {
            h2 #connections { "Connections" }
            @if rows.is_empty() {
                p.hint { "It has never connected. It connects with its key in the header " code { "api-key" } "." }
            } @else { (table("Connections, newest first", &columns, &rows)) (more(&diagnosis.connections)) }
        }
    }
}

fn instances_part(visit: &Visit, instances: &Instances) -> Markup {
    let rows: Vec<Vec<Markup>> = instances
        .list
        .iter()
        .map(|it| {
            let word = if it.connected { "connected" } else { "away" };
            vec![
                said(&it.name),
                state(word, if it.connected { Tone::Good } else { Tone::Bad }),
                html! { (number(it.received.0)) },
                html! { (number(it.applied.0)) },
                html! { (number(it.lag)) },
                when(it.last_seen_at, visit.now),
            ]
        })
        .collect();
    let columns = [
        text("Instance"),
        text("State"),
        numeric("Received"),
        numeric("Applied"),
        numeric("Behind"),
        text("Last sign of life"),
    ];
    html! {
        @if !rows.is_empty() {
            section aria-labelledby="instances" {
                h2 #instances { "Instances" }
                (table("Named instances", &columns, &rows))
            }
        }
    }
}

fn missed(visit: &Visit, diagnosis: &GatewayDiagnosis) -> Markup {
    let rows: Vec<Vec<Markup>> = diagnosis
        .missed
        .list
        .iter()
        .map(|it| {
            vec![
                labels(&it.labels),
                html! { @for difference in &it.differences { p { (sentences(&difference.summary)) } } },
                html! { (number(it.events)) },
                event_link(it.last_event_id.as_str()),
                when(it.last_at, visit.now),
            ]
        })
        .collect();
    let columns = [
        text("Published for"),
        text("Why it missed this gateway"),
        numeric("Events"),
        text("Last event"),
        text("Last"),
    ];
    html! {
        @if !rows.is_empty() {
            section aria-labelledby="missed" {
                h2 #missed { "Events that missed it" }
                (table("Events that missed it by a label", &columns, &rows))
                (more(&diagnosis.missed))
            }
        }
    }
}

fn history(visit: &Visit, diagnosis: &GatewayDiagnosis) -> Markup {
    let rows: Vec<Vec<Markup>> = diagnosis
        .history
        .list
        .iter()
        .map(|it| {
            let (word, tone) = match (it.deleted, it.disabled) {
                (true, _) => ("deleted", Tone::Quiet),
                (_, true) => ("disabled", Tone::Quiet),
                _ => ("enabled", Tone::Good),
            };
            vec![
                when(it.changed_at, visit.now),
                said(&it.name),
                state(word, tone),
                labels(&it.labels),
                said(&it.changed_by),
            ]
        })
        .collect();
    let columns = [text("Changed"), text("Name"), text("State"), text("Labels"), text("By")];
    html! {
        section aria-labelledby="history" {
            h2 #history { "Names and labels over time" }
            (table("Names and labels, newest first", &columns, &rows))
            (more(&diagnosis.history))
        }
    }
}

fn manifest(visit: &Visit, gateway: &Gateway) -> Markup {
    html! {
        section aria-labelledby="manifest" {
            h2 #manifest { "Manifest" }
            @match &gateway.manifest {
                Some(manifest) => {
                    p.hint { "Sent " (when_any(gateway.manifest_at, visit.now)) }
                    details {
                        summary { "Show the manifest" }
                        pre tabindex="0" { (pretty(manifest)) }
                    }
                }
                None => p.hint { "It has sent none." },
            }
        }
    }
}
