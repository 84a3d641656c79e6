//! An event: how far it has come at each gateway, its payload, and every attempt to deliver it.

use axum::response::Response;
use maud::{Markup, html};

use super::super::extract::Path;
use super::super::problem::HandlerResult;
use super::super::query::Query;
use super::super::{diagnosis, events, rollouts};
use super::components::{
    Refresh, empty, facts, following, gateway_link, more, numeric, table, text,
};
use super::events::target;
use super::layout::{Call, Section};
use super::pairs::{Pairs, encode};
use super::republish;
use super::resend;
use super::states::{Tone, event_state, rollout_state, state};
use super::steps::{Subject, next_steps};
use super::text::{
    escapes, none, number, pretty, said, sentences, short, visible_json, when, when_any,
};
use super::visit::{Key, View, Visit};
use crate::api::{
    EventDiagnosis, EventDiagnosisQuery, EventState, EventWithDeliveries, Rollout, RolloutQuery,
    WaitQuery,
};
use crate::event::EventId;
use crate::store::Scope;

mod attempts;

/// Gateways, and deliveries, that are shown at most.
const ROWS: usize = 200;

pub(super) async fn page(visit: Visit, Key(id): Key<EventId>) -> Response {
    let view = content(&visit, id).await;
    visit.respond(Section::Events, view)
}

async fn content(visit: &Visit, id: EventId) -> HandlerResult<View> {
    let reader = || visit.session.reader();
    let wait = WaitQuery::default;
    let of = RolloutQuery { event_id: Some(id.clone()), correlation_id: None };
    let asked = EventDiagnosisQuery { gateway_id: None };
    let (event, rollout, diagnosis) = tokio::try_join!(
        events::show(visit.state(), visit.part(), reader()?, Path(id.clone()), Query(wait())),
        rollouts::show(visit.state(), reader()?, Query((of, wait()))),
        diagnosis::of_event(visit.part(), reader()?, Path(id.clone()), Query(asked)),
    )?;
    let (event, rollout, diagnosis) = (event.0, rollout.0.rollout, diagnosis.0);
    let is_pending = event.verdict.state == EventState::Pending;
    let latest = if is_pending { Refresh::OFTEN.soonest } else { Refresh::OFTEN.latest };
    let refresh = Refresh { latest, ..Refresh::OFTEN };
    let progress = html! {
        (verdict_part(visit, &event, &diagnosis))
        (event_facts(visit, &event))
        (rollout_part(&rollout))
        (attempts::part(visit, &event))
    };
    let body = html! {
        p.up { a href="/console/events" { "Events" } }
        h1 { "Event " span.id { bdi { (short(id.as_str(), 80)) } } }
        (following(visit, refresh, None, &progress))
        (actions(visit, &event))
        (missed(&diagnosis))
        (payload(visit, &event))
    };
    let (path, query) = (encode(id.as_str()), Pairs::default());
    let calls = vec![
        Call::get(format!("/events/{path}"), &query),
        Call::get("/rollouts", &query.with("eventId", id.as_str())),
        Call::get(format!("/events/{path}/diagnosis"), &query),
    ];
    Ok(View { title: format!("Event {}", short(id.as_str(), 40)), calls, body })
}

/// What can be done with it. Without its payload, nothing can.
fn actions(visit: &Visit, event: &EventWithDeliveries) -> Markup {
    let (resends, publishes) = (visit.session.is_admin(), visit.session.can(Scope::Publish));
    html! {
        @if event.purged.is_none() && (resends || publishes) {
            section.actions aria-labelledby="actions" {
                h2 #actions { "Actions" }
                @if resends { (resend::offer(visit, &event.id)) }
                @if publishes { (republish::offer(&event.id)) }
            }
        }
    }
}

fn event_facts(visit: &Visit, event: &EventWithDeliveries) -> Markup {
    let correlation = event.correlation_id.as_str();
    let related = Pairs::default().with("correlationId", correlation).after("/console/events");
    facts(&[
        (
            "Type",
            html! {
                a href=(format!("/console/event-types/{}", encode(event.event_type.as_str()))) {
                    code { (event.event_type.as_str()) }
                }
            },
        ),
        ("Published", when(event.appended_at, visit.now)),
        ("Occurred", when(event.occurred_at, visit.now)),
        ("Expires", when_any(event.expires_at, visit.now)),
        ("For", target(event.target.as_ref())),
        ("Gateways at publication", html! { (number(event.gateway_count)) }),
        ("Correlation id", html! { a.id href=(related) { (short(correlation, 80)) } }),
        ("User", event.user_id.as_deref().map_or_else(none, said)),
        ("Collapse key", event.collapse_key.as_deref().map_or_else(none, said)),
    ])
}

fn verdict_part(visit: &Visit, event: &EventWithDeliveries, diagnosis: &EventDiagnosis) -> Markup {
    html! {
        div.verdict {
            (event_state(event.verdict.state))
            p { (sentences(&event.verdict.summary)) " (" (when(event.verdict.since, visit.now)) ")" }
        }
        (next_steps(visit, Subject::Event(&event.id), &diagnosis.next))
    }
}

/// The share of each state as a bar, and the gateways one by one.
fn rollout_part(rollout: &Rollout) -> Markup {
    let shares = [
        ("applied", "good", rollout.applied),
        ("received", "received", rollout.received),
        ("pending", "warning", rollout.pending),
        ("not connected", "away", rollout.not_connected),
        ("failed", "bad", rollout.failed),
        ("filtered", "quiet", rollout.filtered),
        ("superseded", "quiet", rollout.superseded),
    ];
    let rows: Vec<Vec<Markup>> = rollout
        .gateways
        .iter()
        .take(ROWS)
        .map(|it| {
            vec![
                gateway_link(it.gateway_id, &it.gateway_name),
                rollout_state(it.state),
                html! { (number(it.sequence.0)) },
                match it.reason {
                    Some(reason) => html! { code { (reason.as_str()) } },
                    None => none(),
                },
                html! {
                    @if it.filtered_by.is_empty() { (none()) }
                    @for name in &it.filtered_by { (said(name)) " " }
                },
            ]
        })
        .collect();
    let columns = [
        text("Gateway"),
        text("State"),
        numeric("Sequence"),
        text("Reason"),
        text("Filtered by instances"),
    ];
    html! {
        section aria-labelledby="rollout" {
            h2 #rollout { "Rollout" }
            @if rollout.targets > 0 { (bar(&shares, rollout.targets)) }
            @if rows.is_empty() {
                (empty(&html! { p { "No gateway matched its target, so it is in no log. Resend it to the gateways that should have it." } }))
            } @else {
                (table("The event at each gateway", &columns, &rows))
                @if rollout.gateways.len() > ROWS { p.hint { "and " (number(rollout.gateways.len() - ROWS)) " more" } }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a width in percent needs no more than 52 bits")]
fn bar(shares: &[(&str, &str, usize)], targets: usize) -> Markup {
    let label: Vec<String> = shares
        .iter()
        .filter(|(_, _, count)| *count > 0)
        .map(|(name, _, count)| format!("{count} {name}"))
        .collect();
    let scale = 1000.0 / targets as f64;
    html! {
        figure.bar {
            svg viewBox="0 0 1000 12" preserveAspectRatio="none" role="img" aria-label=(label.join(", ")) {
                @let mut at = 0.0;
                @for (_, class, count) in shares.iter().filter(|(_, _, count)| *count > 0) {
                    @let width = *count as f64 * scale;
                    rect class=(class) x=(format!("{at:.1}")) y="0" width=(format!("{width:.1}")) height="12" {}
                    @let () = at += width;
                }
            }
            figcaption {
                ul.legend {
                    @for (name, class, count) in shares.iter().filter(|(_, _, count)| *count > 0) {
                        li class=(format!("key {class}")) { (name) " " b { (number(*count)) } }
                    }
                    li { "of " b { (number(targets)) } " gateways" }
                }
            }
        }
    }
}

fn missed(diagnosis: &EventDiagnosis) -> Markup {
    let rows: Vec<Vec<Markup>> = diagnosis
        .gateways
        .list
        .iter()
        .map(|it| vec![gateway_link(it.gateway_id, &it.gateway_name), sentences(&it.summary)])
        .collect();
    html! {
        @if !rows.is_empty() {
            section aria-labelledby="missed" {
                h2 #missed { "Gateways that were not matched because of a label" }
                (table("Gateways that were not matched because of a label", &[text("Gateway"), text("Why")], &rows))
                (more(&diagnosis.gateways))
            }
        }
    }
}

fn payload(visit: &Visit, event: &EventWithDeliveries) -> Markup {
    let raw = event.payload.get();
    html! {
        section aria-labelledby="payload" {
            h2 #payload { "Payload" }
            @if let Some(purge) = &event.purged {
                p { (state("purged", Tone::Quiet)) " by " (said(&purge.by)) " " (when(purge.at, visit.now)) ": " (said(&purge.reason)) }
            } @else {
                div.command {
                    pre tabindex="0" { code #payload-pretty { (pretty(&event.payload)) } }
                    button type="button" hidden data-copy="payload-raw" { "Copy" }
                }
                details {
                    summary { "As it was published, " (number(raw.len())) " bytes" (escapes(raw)) }
                    pre.raw tabindex="0" { code #payload-raw { (visible_json(raw)) } }
                }
            }
        }
    }
}
