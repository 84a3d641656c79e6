//! `delivery summary`: counts of failed attempts over time.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gateway_events::api::{Summary, SummaryBy, SummaryQuery, Window};
use gateway_events::client::api::Api;
use gateway_events::clock::Timestamp;

use super::super::access::ClientOptions;
use super::super::output::{answer, cell, time};
use super::super::table::table;
use super::super::time::parse_instant;

#[derive(Debug, Args)]
pub(crate) struct Count {
    /// From this time on: RFC 3339, how long ago, like 2h, or yesterday (by default 24h)
    #[arg(long, visible_alias = "since", allow_hyphen_values = true, value_parser = parse_instant)]
    from: Option<Timestamp>,
    /// Before this time
    #[arg(long, allow_hyphen_values = true, value_parser = parse_instant)]
    to: Option<Timestamp>,
    /// The width of a bucket, such as 5m, 1h or 1d
    #[arg(long, default_value = "1h")]
    bucket: String,
    /// What failures are grouped by
    #[arg(long, value_enum, default_value_t = By::Reason)]
    by: By,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    Reason,
    Gateway,
    Type,
}

pub(crate) async fn run(
    count: Count,
    api: &Api,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    let by = match count.by {
        By::Reason => SummaryBy::Reason,
        By::Gateway => SummaryBy::Gateway,
        By::Type => SummaryBy::Type,
    };
    let window = Window { from: count.from, to: count.to };
    let query = SummaryQuery { bucket: Some(count.bucket), by: Some(by) };
    answer(client.json, &api.summary(&window, &query).await?, shown)
}

fn shown(summary: &Summary) -> String {
    let key = match summary.by {
        SummaryBy::Reason => "reason",
        SummaryBy::Gateway => "gateway",
        SummaryBy::Type => "type",
    };
    let rows = summary.list.iter().map(|row| {
        let name = row.gateway_name.as_ref().unwrap_or(&row.key);
        // The beginning of a bucket is a place in time, which an age would blur.
        [time(row.from), cell(name), cell(row.count)]
    });
    table(["from", key, "failures"], rows, "no delivery failed in this window")
}
