//! `event summary`: counts of published events over time.

use std::process::ExitCode;

use clap::Args;
use gateway_events::api::{PublishedQuery, PublishedSummary};
use gateway_events::client::api::Api;

use super::super::access::ClientOptions;
use super::super::buckets::Buckets;
use super::super::output::{answer, cell, time};
use super::super::table::table;

#[derive(Debug, Args)]
pub(crate) struct Count {
    #[command(flatten)]
    buckets: Buckets,
}

pub(crate) async fn run(
    count: Count,
    api: &Api,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    let window = count.buckets.window();
    let query = PublishedQuery { bucket: Some(count.buckets.bucket) };
    answer(client.json, &api.published(&window, &query).await?, shown)
}

fn shown(summary: &PublishedSummary) -> String {
    // The beginning of a bucket is a place in time, which an age would blur.
    let rows = summary.list.iter().map(|row| [time(row.from), cell(row.count)]);
    table(["from", "events"], rows, "no event was published in this window")
}
