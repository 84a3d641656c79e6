//! Redriving what a list of failures shows: a dry run first, then the confirmation.

use axum::response::Response;
use maud::{Markup, html};

use super::super::deliveries;
use super::super::idempotency::Keyed;
use super::super::problem::HandlerResult;
use super::super::query::{FromQuery as _, Query};
use super::components::{event_link, facts, hidden, numeric, table, text};
use super::delivery_list::DeliveryList;
use super::form::{Submission, TOKEN};
use super::layout::Call;
use super::pairs::Pairs;
use super::text::{count, number};
use super::visit::{View, Visit};
use crate::api::{DeliveryFilter, Object, RedriveRequest, Redriven};
use crate::clock::Timestamp;

/// Rows of a dry run that are listed.
const ROWS: usize = 50;

/// The form below the filters of a list. Its filter is that of the list's query.
pub(super) fn offer(visit: &Visit, list: &DeliveryList, query: &Pairs) -> Markup {
    html! {
        form.inline method="post" action="/console/failures/redrive" {
            (fields(visit, list, &filter(visit, query)))
            (hidden("step", "dry-run"))
            button type="submit" { "Redrive all matching…" }
            span.hint { "Shows a preview first." }
        }
    }
}

/// The filter as fields of a form. A list begins 24 hours ago unless it says otherwise; a redrive
/// has no default.
fn filter(visit: &Visit, query: &Pairs) -> Pairs {
    let filter = query.known(&DeliveryFilter::names());
    if !filter.get("from").is_empty() {
        return filter;
    }
    let day = std::time::Duration::from_hours(24);
    let second = visit.now.minus(day).micros() / 1_000_000 * 1_000_000;
    filter.with("from", Timestamp::from_micros(second).to_string())
}

fn fields(visit: &Visit, list: &DeliveryList, filter: &Pairs) -> Markup {
    html! {
        (list.field())
        (hidden(TOKEN, &visit.session.id.form_token()))
        @for (name, value) in filter.iter() { (hidden(name, value)) }
    }
}

/// The dry run, or what was confirmed.
pub(super) async fn submit(submission: Submission) -> Response {
    match redrive(&submission).await {
        Ok(view) => {
            let section = DeliveryList::of(&submission.fields).section;
            submission.visit.respond(section, Ok(view))
        }
        Err(problem) => submission.refused(&problem),
    }
}

async fn redrive(submission: &Submission) -> HandlerResult<View> {
    let visit = &submission.visit;
    let dry_run = submission.is_dry_run()?;
    let pairs = submission.fields.known(&DeliveryFilter::names());
    let filter: DeliveryFilter = pairs.query()?;
    let request =
        RedriveRequest { filter: Some(Object(filter)), dry_run, ..RedriveRequest::default() };
    let call = Call::post("/deliveries/redrive", &request);
    let admin = visit.session.admin()?;
    let (_, done) =
        deliveries::redrive(visit.part(), visit.part(), admin, Query(()), Keyed(None, request))
            .await?;
    let list = DeliveryList::of(&submission.fields);
    let title = if dry_run { "Redrive: preview" } else { "Redrive" };
    let body = html! {
        p.up { a href=(list.path) { (list.title) } }
        h1 { (title) }
        @if dry_run { (planned(visit, list, &pairs, &done.0)) } @else { (finished(&done.0)) }
    };
    Ok(View { title: title.to_owned(), calls: vec![call], body })
}

/// Why the only delivery of a redrive is left alone, if so.
pub(super) const fn skip_reason(done: &Redriven) -> Option<&'static str> {
    if done.pending > 0 {
        Some("It is still pending.")
    } else if done.delivered > 0 {
        Some("It has been delivered, filtered or superseded since.")
    } else if done.already_redriven > 0 {
        Some("It was redriven before.")
    } else if done.expired > 0 {
        Some("Its event has expired.")
    } else if done.event_removed > 0 {
        Some("Retention has removed its event.")
    } else if done.payload_purged > 0 {
        Some("The payload of its event was purged.")
    } else if done.gateway_deleted > 0 {
        Some("Its gateway is deleted.")
    } else {
        None
    }
}

/// Why dead letters that match are left alone.
fn skipped(done: &Redriven) -> Markup {
    let counts = [
        ("Still pending", done.pending),
        ("Delivered since", done.delivered),
        ("Redriven before", done.already_redriven),
        ("Expired", done.expired),
        ("Event removed by retention", done.event_removed),
        ("Payload purged", done.payload_purged),
        ("Gateway deleted", done.gateway_deleted),
    ];
    let counts: Vec<(&str, Markup)> = counts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name, html! { (number(count)) }))
        .collect();
    html! { @if !counts.is_empty() { h2 { "Skipped" } (facts(&counts)) } }
}

fn planned(visit: &Visit, list: &DeliveryList, filter: &Pairs, done: &Redriven) -> Markup {
    let total = done.total.unwrap_or_default();
    html! {
        @if total == 0 {
            div.notice { p { "None of the deliveries that match can be redriven." } }
        } @else {
            div.notice {
                p { (count(total, "delivery", "deliveries")) " would be appended again, each under a new sequence of its gateway. Gateways recognise repeats by the event's correlation id." }
            }
            form.inline method="post" action="/console/failures/redrive" {
                (fields(visit, list, filter))
                (hidden("step", "confirmed"))
                button.primary type="submit" { "Redrive " (count(total, "delivery", "deliveries")) }
                a href=(list.path) { "Cancel" }
            }
            (deliveries_of(done, "Would be redriven"))
        }
        (skipped(done))
    }
}

fn finished(done: &Redriven) -> Markup {
    html! {
        @if done.job.is_some() {
            div.notice.good role="status" {
                p { "A background job redrives them, because there are too many for one request. " a href="/console/jobs" { "Show its progress" } }
            }
        } @else {
            div.notice.good role="status" {
                p { (count(done.redriven.len(), "delivery", "deliveries")) " appended again." }
            }
            (deliveries_of(done, "Redriven deliveries"))
            (skipped(done))
        }
    }
}

fn deliveries_of(done: &Redriven, caption: &str) -> Markup {
    let rows: Vec<Vec<Markup>> = done
        .redriven
        .iter()
        .take(ROWS)
        .map(|it| {
            vec![
                event_link(it.event_id.as_str()),
                html! { a.id href=(format!("/console/gateways/{}", it.gateway_id)) { (it.gateway_id) } },
                html! { (number(it.sequence.0)) },
                html! { @match it.new_sequence { Some(new) => (number(new.0)), None => (super::text::none()) } },
            ]
        })
        .collect();
    let columns = [text("Event"), text("Gateway"), numeric("Sequence"), numeric("New sequence")];
    html! {
        @if !rows.is_empty() {
            (table(caption, &columns, &rows))
            @if done.redriven.len() > ROWS { p.hint { "and " (number(done.redriven.len() - ROWS)) " more" } }
        }
    }
}
