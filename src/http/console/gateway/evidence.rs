//! The evidence of a diagnosis: what is pending or failed, and what the gateway was over time.

use maud::{Markup, html};

use super::super::components::{event_link, event_link_to, labels, more, numeric, table, text};
use super::super::pairs::Pairs;
use super::super::states::{Tone, state};
use super::super::text::{none, number, pretty, said, sentences, short, when, when_any};
use super::super::visit::Visit;
use crate::api::{
    ConnectionStatus, FailuresByReason, Gateway, GatewayDiagnosis, Instances, MissedTarget,
};

/// Events of a target that are listed, at most.
const LISTED: usize = 10;

pub(super) fn pending(visit: &Visit, gateway: &Gateway, diagnosis: &GatewayDiagnosis) -> Markup {
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

pub(super) fn failures(visit: &Visit, gateway: &Gateway, diagnosis: &GatewayDiagnosis) -> Markup {
    let row = |it: &FailuresByReason| {
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
                p.more { a href=(format!("/console/dead-letters?gatewayId={}", gateway.id)) { "Dead letters of this gateway" } }
            }
            p.more { a href=(format!("/console/failures?gatewayId={}&last=30d", gateway.id)) { "Failed deliveries of this gateway" } }
        }
    }
}

pub(super) fn connections(visit: &Visit, diagnosis: &GatewayDiagnosis) -> Markup {
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

pub(super) fn instances(visit: &Visit, instances: &Instances) -> Markup {
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

pub(super) fn missed(visit: &Visit, gateway: &Gateway, diagnosis: &GatewayDiagnosis) -> Markup {
    let rows: Vec<Vec<Markup>> = diagnosis
        .missed
        .list
        .iter()
        .map(|it| {
            vec![
                labels(&it.labels),
                html! { @for difference in &it.differences { p { (sentences(&difference.summary)) } } },
                html! { (number(it.events)) },
                missed_events(gateway, it),
                when(it.last_at, visit.now),
            ]
        })
        .collect();
    let columns = [
        text("Published for"),
        text("Why it missed this gateway"),
        numeric("Events"),
        text("Which"),
        text("Last"),
    ];
    html! {
        @if !rows.is_empty() {
            section aria-labelledby="missed" {
                h2 #missed { "Events that missed it" }
                @if visit.session.is_admin() {
                    p.hint { "Change its labels if they are wrong. Then resend, from the page of each event, what it needs: the oldest first." }
                }
                (table("Events that missed it by a label", &columns, &rows))
                (more(&diagnosis.missed))
            }
        }
    }
}

/// The oldest events of a target. Each link fills the gateway in the form that resends the event.
fn missed_events(gateway: &Gateway, missed: &MissedTarget) -> Markup {
    let id = gateway.id.to_string();
    html! {
        @for event in missed.oldest.iter().take(LISTED) {
            p { (event_link_to(event.event_id.as_str(), &Pairs::default().with(super::super::resend::TO, &*id))) }
        }
        @if missed.events > LISTED { p.hint { "and " (number(missed.events - LISTED)) " more" } }
    }
}

pub(super) fn rejected(visit: &Visit, diagnosis: &GatewayDiagnosis) -> Markup {
    let rows: Vec<Vec<Markup>> = diagnosis
        .rejected
        .list
        .iter()
        .map(|it| {
            vec![
                html! { a href=(format!("/console/inbox/{}", it.row.id)) { "Row " (it.row.id) } },
                state(it.row.reason.as_str(), Tone::Bad),
                said(&it.row.event_type),
                html! {
                    (sentences(&it.row.detail))
                    @if let Some(meant) = &it.did_you_mean { " Did you mean " code { (short(meant, 80)) } "?" }
                    @if it.similar_target { span.hint { " Its target is only similar to the labels of this gateway." } }
                },
                when(it.row.rejected_at, visit.now),
            ]
        })
        .collect();
    let columns =
        [text("Row"), text("Reason"), text("Type"), text("What is wrong"), text("Rejected")];
    html! {
        @if !rows.is_empty() {
            section aria-labelledby="rejected" {
                h2 #rejected { "Rejected rows that were meant for it" }
                (table("Rejected rows of the inbox for this gateway, newest first", &columns, &rows))
                (more(&diagnosis.rejected))
            }
        }
    }
}

pub(super) fn history(visit: &Visit, diagnosis: &GatewayDiagnosis) -> Markup {
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

pub(super) fn manifest(visit: &Visit, gateway: &Gateway) -> Markup {
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
