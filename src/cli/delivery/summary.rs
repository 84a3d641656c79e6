//! `delivery summary`: counts of failed attempts over time.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gateway_events::api::{Summary, SummaryBy, SummaryQuery};
use gateway_events::client::api::Api;

use super::super::access::ClientOptions;
use super::super::buckets::Buckets;
use super::super::output::{answer, cell, time};
use super::super::table::table;

#[derive(Debug, Args)]
pub(crate) struct Count {
    #[command(flatten)]
    buckets: Buckets,
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
    let window = count.buckets.window();
    let query = SummaryQuery { bucket: Some(count.buckets.bucket), by: Some(by) };
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
