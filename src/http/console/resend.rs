//! Resending an event to more gateways: a dry run first, then the confirmation.

use axum::response::Response;
use maud::{Markup, html};

use super::super::extract::Path;
use super::super::idempotency::Keyed;
use super::super::problem::{HandlerResult, Problem};
use super::super::query::Query;
use super::super::resend;
use super::components::{event_path, hidden, numeric, table, text};
use super::form::{Submission, TOKEN};
use super::layout::{Call, Section};
use super::lookup;
use super::text::{count as counted, none, number};
use super::visit::{Key, View, Visit};
use crate::api::{Labels, Object, ResendRequest, Resent, Target};
use crate::event::EventId;

/// The parameter of an event's page with the gateway that the form is filled with.
pub(super) const TO: &str = "resendTo";

/// The form of an event's page.
pub(super) fn offer(visit: &Visit, id: &EventId) -> Markup {
    let to = visit.query.get(TO);
    html! {
            details open[!to.is_empty()] {
                summary { "Resend it to more gateways" }
                form method="post" action=(format!("{}/resend", event_path(id.as_str()))) {
                    (hidden(TOKEN, &visit.session.id.form_token()))
                    (hidden("step", "dry-run"))
                    p.hint {
                        "For gateways that it was not published for. Those that have it in their log are left out; redrive it for them. "
                        "Shows a preview first."
                    }
                    div.field {
                        label for="resend-labels" { "Gateways with all of these labels" }
                        input #resend-labels type="text" name="labels" placeholder="env=prod region=eu-west"
                            maxlength="1000" spellcheck="false" autocomplete="off";
                    }
                    div.field {
                        label for="resend-gateways" { "Or gateways by name or id, one to a line" }
                        textarea #resend-gateways name="gateways" rows="3" spellcheck="false" autocomplete="off" { "\n" (to) }
                    }
                    button type="submit" { "Resend…" }
                }
            }
    }
}

pub(super) async fn submit(Key(id): Key<EventId>, submission: Submission) -> Response {
    match resent(&submission, id).await {
        Ok(view) => submission.visit.respond(Section::Events, Ok(view)),
        Err(problem) => submission.refused(&problem),
    }
}

/// The gateways that the form names.
async fn request(submission: &Submission, dry_run: bool) -> HandlerResult<ResendRequest> {
    let fields = &submission.fields;
    let (labels, gateways) = (fields.get("labels"), fields.get("gateways"));
    let request = ResendRequest { dry_run, ..ResendRequest::default() };
    match (labels.is_empty(), gateways.is_empty()) {
        (false, true) => {
            let pairs = labels.split_whitespace().map(|pair| {
                let pair =
                    pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
                pair.ok_or_else(|| {
                    Problem::invalid("labels", "must be name=value, with blanks between")
                })
            });
            let labels = Some(pairs.collect::<HandlerResult<Labels>>()?);
            let target = Some(Object(Target { labels, ..Target::default() }));
            Ok(ResendRequest { target, ..request })
        }
        (true, false) => {
            let named = lookup::gateways(&submission.visit, "gateways", gateways).await?;
            let ids = named.into_iter().map(|gateway| gateway.id).collect();
            Ok(ResendRequest { gateway_ids: Some(ids), ..request })
        }
        _ => Err(Problem::invalid("labels", "give either labels or gateways")),
    }
}

async fn resent(submission: &Submission, id: EventId) -> HandlerResult<View> {
    let visit = &submission.visit;
    let dry_run = submission.is_dry_run()?;
    let request = request(submission, dry_run).await?;
    let ids: Vec<String> = request.gateway_ids.iter().flatten().map(ToString::to_string).collect();
    let call =
        Call::post(format!("/events/{}/resend", super::pairs::encode(id.as_str())), &request);
    let admin = visit.session.admin()?;
    let back = event_path(id.as_str());
    let done =
        resend::resend(visit.part(), admin, Path(id), Query(()), Keyed(None, request)).await?.0;
    let title = if dry_run { "Resend: preview" } else { "Resend" };
    let body = html! {
        p.up { a href=(back) { "Back to the event" } }
        h1 { (title) }
        @if dry_run { (planned(submission, &ids.join("\n"), &done)) } @else {
            div.notice.good role="status" { p { "It was appended for " (counted(done.deliveries.len(), "gateway", "gateways")) "." } }
        }
        (gateways(&done))
    };
    Ok(View { title: title.to_owned(), calls: vec![call], body })
}

/// The dry run. `ids` are the chosen gateways, whose names may change until the confirmation.
fn planned(submission: &Submission, ids: &str, done: &Resent) -> Markup {
    let (visit, count) = (&submission.visit, done.deliveries.len());
    html! {
        @if count == 0 {
            div.notice {
                p {
                    @if done.already_in_log.is_empty() { "No gateway matches." }
                    @else { "All gateways that match have it in their log. Redrive it for those where it failed." }
                }
            }
        } @else {
            div.notice { p { "It would be appended for " (counted(count, "gateway", "gateways")) "." } }
            form.inline method="post" action=(visit.path) {
                (hidden(TOKEN, &visit.session.id.form_token()))
                (hidden("step", "confirmed"))
                (hidden("labels", submission.fields.get("labels")))
                (hidden("gateways", ids))
                button.primary type="submit" { "Resend it to " (counted(count, "gateway", "gateways")) }
            }
        }
    }
}

fn gateways(done: &Resent) -> Markup {
    let link = |id: crate::event::GatewayId| html! { a.id href=(format!("/console/gateways/{id}")) { (id) } };
    let new = done.deliveries.iter().map(|it| {
        let sequence = it.sequence.map_or_else(none, |sequence| html! { (number(sequence.0)) });
        vec![link(it.gateway_id), html! { "appended" }, sequence]
    });
    let present = done
        .already_in_log
        .iter()
        .map(|it| vec![link(it.gateway_id), html! { "has it" }, html! { (number(it.sequence.0)) }]);
    let rows: Vec<Vec<Markup>> = new.chain(present).take(200).collect();
    html! {
        @if !rows.is_empty() {
            (table("Gateways", &[text("Gateway"), text("Event"), numeric("Sequence")], &rows))
        }
    }
}
