//! Histograms as SVG, with the same numbers as a table.

use std::collections::BTreeMap;
use std::time::Duration;

use maud::{Markup, html};

use super::components::{Column, numeric, table, text};
use super::text::{exact, number, short};
use crate::api::{PublishedSummary, Summary};
use crate::clock::Timestamp;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 160.0;
/// Room for the labels of the axis.
const BELOW: f64 = 24.0;
/// Kinds that have a colour of their own; the others share one.
const COLOURS: usize = 5;

/// Counts by bucket and kind.
struct Series {
    /// The start of each bucket.
    buckets: Vec<Timestamp>,
    /// The kinds, the most frequent first, with their totals.
    kinds: Vec<(String, i64)>,
    counts: BTreeMap<(usize, usize), i64>,
}

/// A window, and what is counted in it.
struct Counted {
    from: Timestamp,
    to: Timestamp,
    bucket_seconds: u64,
    /// The start of a bucket, a kind, and its count.
    rows: Vec<(Timestamp, String, i64)>,
}

/// What is counted, in words.
struct Words {
    /// As the heading of a column.
    heading: &'static str,
    /// Within a sentence.
    plural: &'static str,
    /// A sentence that says that there are none.
    none: &'static str,
    /// What kinds are.
    by: &'static str,
    /// Whether what is counted is wrong, so that it has the colours of what is wrong.
    is_wrong: bool,
}

impl Words {
    /// The class of a kind, which gives it its colour.
    fn class(&self, kind: usize) -> String {
        if self.is_wrong { format!("k{kind}") } else { "received".to_owned() }
    }
}

impl Series {
    fn of(counted: Counted) -> Self {
        let Counted { from, to, bucket_seconds, rows } = counted;
        let width = Duration::from_secs(bucket_seconds.max(1));
        let width_us = i64::try_from(width.as_micros()).unwrap_or(i64::MAX);
        let mut start = Timestamp::from_micros(from.micros() / width_us * width_us);
        let mut buckets = Vec::new();
        while start < to {
            buckets.push(start);
            start = start.plus(width);
        }
        let mut totals = BTreeMap::<&str, i64>::new();
        for (_, kind, count) in &rows {
            *totals.entry(kind).or_default() += count;
        }
        let mut kinds: Vec<(String, i64)> =
            totals.into_iter().map(|(kind, total)| (kind.to_owned(), total)).collect();
        kinds.sort_by_key(|(_, total)| std::cmp::Reverse(*total));
        let mut counts = BTreeMap::new();
        for (from, kind, count) in &rows {
            let bucket = buckets.iter().rposition(|bucket| bucket <= from);
            let kind = kinds.iter().position(|(other, _)| other == kind);
            if let (Some(bucket), Some(kind)) = (bucket, kind) {
                *counts.entry((bucket, kind.min(COLOURS))).or_default() += count;
            }
        }
        Self { buckets, kinds, counts }
    }

    fn total(&self) -> i64 {
        self.kinds.iter().map(|(_, total)| total).sum()
    }

    fn highest(&self) -> i64 {
        let sums =
            (0..self.buckets.len()).map(|at| self.in_bucket(at).map(|(_, count)| count).sum());
        sums.max().unwrap_or(0).max(1)
    }

    fn in_bucket(&self, bucket: usize) -> impl Iterator<Item = (usize, i64)> + '_ {
        self.counts.range((bucket, 0)..=(bucket, COLOURS)).map(|((_, kind), count)| (*kind, *count))
    }
}

/// A histogram of failed attempts by their kind; a sentence if there are none.
pub(super) fn failures(summary: &Summary, by: &'static str) -> Markup {
    let name = |row: &crate::api::FailuresByBucket| {
        row.gateway_name.clone().unwrap_or_else(|| row.key.clone())
    };
    let Summary { from, to, bucket_seconds, .. } = *summary;
    let rows = summary.list.iter().map(|row| (row.from, name(row), row.count)).collect();
    let words = Words {
        heading: "Failed attempts",
        plural: "failed attempts",
        none: "No attempt failed in this window.",
        by,
        is_wrong: true,
    };
    histogram(Counted { from, to, bucket_seconds, rows }, &words)
}

/// A histogram of published events; a sentence if there are none.
pub(super) fn published(summary: &PublishedSummary) -> Markup {
    let PublishedSummary { from, to, bucket_seconds, .. } = *summary;
    let rows = summary.list.iter().map(|row| (row.from, "published".to_owned(), row.count));
    let words = Words {
        heading: "Events",
        plural: "events",
        none: "No event was published in this window.",
        by: "Events",
        is_wrong: false,
    };
    histogram(Counted { from, to, bucket_seconds, rows: rows.collect() }, &words)
}

fn histogram(counted: Counted, words: &Words) -> Markup {
    let series = Series::of(counted);
    if series.total() == 0 {
        return html! { p.hint { (words.none) } };
    }
    html! {
        figure.chart {
            (picture(&series, words))
            figcaption {
                ul.legend {
                    @for (nth, (kind, total)) in series.kinds.iter().take(COLOURS).enumerate() {
                        li class=(format!("key {}", words.class(nth))) { bdi { (short(kind, 60)) } " " b { (number(*total)) } }
                    }
                    @if series.kinds.len() > COLOURS {
                        @let others: i64 = series.kinds.iter().skip(COLOURS).map(|(_, total)| total).sum();
                        li.key.k5 { "others " b { (number(others)) } }
                    }
                }
            }
        }
        details.numbers {
            summary { "The numbers as a table" }
            (numbers(&series, words))
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "pixels need no more than 52 bits")]
fn picture(series: &Series, words: &Words) -> Markup {
    let (highest, step) = (series.highest() as f64, WIDTH / series.buckets.len() as f64);
    let gap = if step > 4.0 { 1.5 } else { 0.0 };
    let label = format!(
        "{} {}, at most {} in one interval",
        series.total(),
        words.plural,
        series.highest()
    );
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {}", HEIGHT + BELOW)) role="img" aria-label=(label) preserveAspectRatio="none" {
            line.axis x1="0" x2=(WIDTH) y1=(HEIGHT) y2=(HEIGHT) {}
            @for bucket in 0..series.buckets.len() {
                @let mut below = 0.0;
                @for (kind, count) in series.in_bucket(bucket) {
                    @let height = count as f64 / highest * (HEIGHT - 4.0);
                    rect class=(words.class(kind)) x=(format!("{:.1}", bucket as f64 * step + gap / 2.0))
                        y=(format!("{:.1}", HEIGHT - below - height)) width=(format!("{:.1}", step - gap))
                        height=(format!("{height:.1}")) {}
                    @let () = below += height;
                }
            }
        }
        div.axis-labels aria-hidden="true" {
            @if let (Some(first), Some(last)) = (series.buckets.first(), series.buckets.last()) {
                span { (minute(*first)) } span { (minute(*last)) }
            }
        }
    }
}

/// An instant to the minute.
fn minute(at: Timestamp) -> String {
    let text = exact(at);
    text.get(..16).map_or_else(|| text.clone(), |it| format!("{it} UTC"))
}

fn numbers(series: &Series, words: &Words) -> Markup {
    let columns: [Column; 2] = [text(words.by), numeric(words.heading)];
    let rows: Vec<Vec<Markup>> = series
        .kinds
        .iter()
        .map(|(kind, total)| vec![html! { bdi { (short(kind, 80)) } }, html! { (number(*total)) }])
        .collect();
    table(words.heading, &columns, &rows)
}
