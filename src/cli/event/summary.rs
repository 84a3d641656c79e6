//! `event summary`: counts of published events over time.

use std::process::ExitCode;

use clap::Args;
use gateway_events::api::{PublishedQuery, PublishedSummary, Window};
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
}

pub(crate) async fn run(
    count: Count,
    api: &Api,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    let window = Window { from: count.from, to: count.to };
    let query = PublishedQuery { bucket: Some(count.bucket) };
    answer(client.json, &api.published(&window, &query).await?, shown)
}

fn shown(summary: &PublishedSummary) -> String {
    // The beginning of a bucket is a place in time, which an age would blur.
    let rows = summary.list.iter().map(|row| [time(row.from), cell(row.count)]);
    table(["from", "events"], rows, "no event was published in this window")
}
