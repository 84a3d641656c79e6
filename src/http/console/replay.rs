//! Replaying a part of a gateway's log: a dry run first, then the confirmation.

use axum::response::Response;
use maud::{Markup, html};

use super::super::extract::Path;
use super::super::idempotency::Keyed;
use super::super::problem::{HandlerResult, Problem};
use super::super::query::Query;
use super::super::replay;
use super::components::{facts, hidden};
use super::form::{Submission, TOKEN};
use super::layout::{Call, Section};
use super::text::{count, number};
use super::visit::{Key, View, Visit};
use crate::api::{Gateway, ReplayRequest, Replayed};
use crate::event::{GatewayId, Sequence};

/// The form.
pub(super) fn offer(visit: &Visit, gateway: &Gateway) -> Markup {
    html! {
        details {
            summary { "Replay a part of its log" }
            form method="post" action=(format!("/console/gateways/{}/replay", gateway.id)) {
                (hidden(TOKEN, &visit.session.id.form_token()))
                (hidden("step", "dry-run"))
                p.hint { "The events are appended again, for a gateway that has lost what it received. Shows a preview first." }
                div.field {
                    label for="replay-from" { "First sequence" }
                    input #replay-from type="number" name="from" min="1" max=(gateway.head.0.max(1)) required;
                }
                div.field {
                    label for="replay-to" { "Last sequence, or the head of the log if empty" }
                    input #replay-to type="number" name="to" min="1" max=(gateway.head.0.max(1));
                }
                button type="submit" { "Replay…" }
            }
        }
    }
}

pub(super) async fn submit(Key(id): Key<GatewayId>, submission: Submission) -> Response {
    match replayed(&submission, id).await {
        Ok(view) => submission.visit.respond(Section::Gateways, Ok(view)),
        Err(problem) => submission.refused(&problem),
    }
}

async fn replayed(submission: &Submission, id: GatewayId) -> HandlerResult<View> {
    let (visit, fields) = (&submission.visit, &submission.fields);
    let sequence = |name: &'static str| match fields.get(name) {
        "" => Ok(None),
        text => text
            .parse()
            .map(|it| Some(Sequence(it)))
            .map_err(|_| Problem::invalid(name, "must be a whole number")),
    };
    let dry_run = submission.is_dry_run()?;
    let (from_sequence, to_sequence) = (sequence("from")?, sequence("to")?);
    let request = ReplayRequest { from_sequence, to_sequence, dry_run, ..ReplayRequest::default() };
    let call = Call::post(format!("/gateways/{id}/replay"), &request);
    let admin = visit.session.admin()?;
    let (_, done) = replay::replay(
        visit.part(),
        visit.part(),
        admin,
        Path(id),
        Query(()),
        Keyed(None, request),
    )
    .await?;
    let title = if dry_run { "Replay: preview" } else { "Replay" };
    let body = html! {
        p.up { a href=(format!("/console/gateways/{id}")) { "Back to the gateway" } }
        h1 { (title) }
        (result(visit, &done.0, dry_run))
    };
    Ok(View { title: title.to_owned(), calls: vec![call], body })
}

fn result(visit: &Visit, done: &Replayed, dry_run: bool) -> Markup {
    let (first, last) = (done.from_sequence, done.to_sequence);
    let range = html! {
        @if let (Some(first), Some(last)) = (first, last) { (number(first.0)) " to " (number(last.0)) }
    };
    html! {
        @if done.job.is_some() && !dry_run {
            div.notice.good role="status" { p { "A job replays sequences " (range) ". " a href="/console/jobs" { "Show its progress" } } }
        } @else if done.replayed == 0 && done.job.is_none() {
            div.notice { p { "Nothing of sequences " (range) " can be replayed." } }
        } @else if dry_run {
            div.notice { p { "Of sequences " (range) ", " (count(done.replayed, "event", "events")) " would be appended again." } }
            form.inline method="post" action=(visit.path) {
                (hidden(TOKEN, &visit.session.id.form_token()))
                (hidden("step", "confirmed"))
                @if let (Some(first), Some(last)) = (first, last) {
                    (hidden("from", &first.0.to_string())) (hidden("to", &last.0.to_string()))
                }
                button.primary type="submit" { "Replay " (count(done.replayed, "event", "events")) }
            }
        } @else {
            div.notice.good role="status" { p { (count(done.replayed, "event", "events")) " of sequences " (range) " appended again." } }
        }
        @let left = [
            ("Repeated later in the range", done.repeated),
            ("Expired", done.expired),
            ("Removed by retention", done.event_removed),
            ("Payload purged", done.payload_purged),
        ];
        @let left: Vec<(&str, Markup)> = left.into_iter().filter(|(_, count)| *count > 0)
            .map(|(name, count)| (name, html! { (number(count)) })).collect();
        @if !left.is_empty() { h2 { "Skipped" } (facts(&left)) }
    }
}
