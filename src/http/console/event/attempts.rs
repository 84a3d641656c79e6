//! The attempts to deliver an event: on a time line, and one by one.

use maud::{Markup, html};

use super::super::components::{gateway_link, numeric, table, text};
use super::super::states::outcome;
use super::super::text::{exact, none, number, sentences, short, when};
use super::super::visit::Visit;
use super::ROWS;
use crate::api::{Attempt, Delivery, EventWithDeliveries, Outcome};
use crate::clock::Timestamp;

/// Gateways of the time line.
const LINES: usize = 20;
const WIDTH: f64 = 1000.0;
/// The least width of an attempt on the time line.
const MIN_WIDTH: f64 = 6.0;

/// Every attempt on record, by gateway and in the order in which they were made.
pub(super) fn part(visit: &Visit, event: &EventWithDeliveries) -> Markup {
    let all = event
        .deliveries
        .iter()
        .flat_map(|delivery| delivery.attempts.iter().map(move |attempt| (delivery, attempt)));
    let rows: Vec<Vec<Markup>> =
        all.clone().take(ROWS).map(|(delivery, it)| attempt(visit, delivery, it)).collect();
    let columns = [
        text("Gateway"),
        numeric("Sequence"),
        text("Started"),
        text("Outcome"),
        numeric("Took"),
        text("Reason"),
        text("Detail"),
    ];
    let count = all.count();
    html! {
        section aria-labelledby="attempts" {
            h2 #attempts { "Attempts" }
            @if rows.is_empty() { p.hint { "No attempt is on record yet." } }
            @else {
                (time_line(event))
                (table("Attempts by gateway", &columns, &rows))
            }
            @if count > ROWS { p.hint { "and " (number(count - ROWS)) " more attempts" } }
        }
    }
}

fn attempt(visit: &Visit, delivery: &Delivery, it: &Attempt) -> Vec<Markup> {
    let took = it.finished_at.since(it.started_at).as_millis();
    vec![
        gateway_link(delivery.gateway_id, &delivery.gateway_name),
        html! {
            (number(delivery.sequence.0))
            @if let Some(new) = delivery.redriven_as { span.hint { ", redriven as " (number(new.sequence.0)) } }
        },
        when(it.started_at, visit.now),
        outcome(it.outcome),
        html! { (number(i64::try_from(took).unwrap_or(i64::MAX))) " ms" },
        it.reason.map_or_else(none, |reason| html! { code { (reason.as_str()) } }),
        it.detail.as_deref().map_or_else(none, sentences),
    ]
}

/// The time from the publication to the end of the last attempt.
struct Span {
    from: Timestamp,
    micros: f64,
}

impl Span {
    #[expect(clippy::cast_precision_loss, reason = "a position needs no more than 52 bits")]
    fn new(from: Timestamp, to: Timestamp) -> Self {
        Self { from, micros: (to.micros() - from.micros()).max(1) as f64 }
    }

    #[expect(clippy::cast_precision_loss, reason = "a position needs no more than 52 bits")]
    fn place(&self, at: Timestamp) -> f64 {
        (at.micros() - self.from.micros()) as f64 / self.micros * (WIDTH - MIN_WIDTH)
    }
}

/// A line for each gateway, from the publication to the end of the last attempt, with a mark for each attempt.
/// The table has the same, so it is a picture for assistive technology.
fn time_line(event: &EventWithDeliveries) -> Markup {
    let tried = || event.deliveries.iter().filter(|delivery| !delivery.attempts.is_empty());
    let attempts = || tried().flat_map(|delivery| &delivery.attempts);
    let begins = attempts().map(|it| it.started_at).chain([event.appended_at]);
    let (Some(from), Some(to)) = (begins.min(), attempts().map(|it| it.finished_at).max()) else {
        return html! {};
    };
    let span = Span::new(from, to);
    let count = attempts().count();
    let noun = if count == 1 { "attempt" } else { "attempts" };
    let label = format!("{count} {noun} between {} and {}", exact(from), exact(to));
    html! {
        figure.time-line role="img" aria-label=(label) {
            @for delivery in tried().take(LINES) {
                div.line aria-hidden="true" {
                    span.name { bdi { (short(&delivery.gateway_name, 64)) } }
                    (line(&span, delivery))
                }
            }
            @if tried().count() > LINES { p.hint { "and " (number(tried().count() - LINES)) " more gateways" } }
            div.axis-labels aria-hidden="true" { span { (exact(from)) } span { (exact(to)) } }
            (legend())
        }
    }
}

fn line(span: &Span, delivery: &Delivery) -> Markup {
    html! {
        svg viewBox=(format!("0 0 {WIDTH} 12")) preserveAspectRatio="none" {
            line.axis x1="0" x2=(WIDTH) y1="6" y2="6" {}
            @for it in &delivery.attempts {
                @let (start, end) = (span.place(it.started_at), span.place(it.finished_at));
                rect class=(class(it.outcome)) x=(format!("{start:.1}")) y="0" height="12"
                    width=(format!("{:.1}", (end - start).max(MIN_WIDTH))) {}
            }
        }
    }
}

fn legend() -> Markup {
    html! {
        ul.legend aria-hidden="true" {
            li.key.good { "applied" }
            li.key.received { "received" }
            li.key.bad { "failed" }
            li.key.quiet { "other" }
        }
    }
}

const fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Applied => "good",
        Outcome::Received => "received",
        Outcome::Failed => "bad",
        Outcome::Filtered | Outcome::Snapshot | Outcome::Superseded | Outcome::Unknown => "quiet",
    }
}
