//! `delivery list`: deliveries by their state.

use gateway_events::command::number::whole;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gateway_events::api::{DeliveriesQuery, DeliveriesStatus, DeliveriesWindow, Delivery, Page};
use gateway_events::client::api::Api;

use super::super::access::ClientOptions;
use super::super::output::{age, answer, cell, optional};
use super::super::reference::note_unknown_type;
use super::super::table;
use super::filter::Filter;

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The state of the deliveries
    #[arg(long, value_enum)]
    status: Status,
    /// Which time --from and --to select by: when the events were stored, or when attempts at their
    /// delivery ended (any but pending ones, newest attempt first)
    #[arg(long, value_enum)]
    window_of: Option<WindowOf>,
    #[command(flatten)]
    filter: Filter,
    /// Maximum number of deliveries to list
    #[arg(long, default_value_t = 100, value_parser = whole(1_u32..))]
    limit: u32,
    /// List all of them, however many
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

/// Failed deliveries are listed by `delivery failed`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Status {
    Pending,
    Delivered,
    Filtered,
    Superseded,
    All,
}

/// What the window is about.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum WindowOf {
    Appended,
    Outcome,
}

pub(crate) async fn run(list: List, api: &Api, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let status = match list.status {
        Status::Pending => DeliveriesStatus::Pending,
        Status::Delivered => DeliveriesStatus::Delivered,
        Status::Filtered => DeliveriesStatus::Filtered,
        Status::Superseded => DeliveriesStatus::Superseded,
        Status::All => DeliveriesStatus::All,
    };
    let window_of = list.window_of.map(|window| match window {
        WindowOf::Appended => DeliveriesWindow::Appended,
        WindowOf::Outcome => DeliveriesWindow::Outcome,
    });
    let query = DeliveriesQuery { status: Some(status), window_of };
    let filter = list.filter.resolve(api).await?;
    let limit = if list.all { usize::MAX } else { usize::try_from(list.limit)? };
    let page = api.deliveries(&query, &filter, limit).await?;
    if page.list.is_empty() {
        note_unknown_type(filter.event_type.as_ref(), api).await;
    }
    answer(client.json, &page, shown)
}

fn shown(page: &Page<Delivery>) -> String {
    let rows = page.list.iter().map(|delivery| {
        [
            cell(&delivery.gateway_name),
            cell(delivery.sequence),
            cell(delivery.state.as_str()),
            age(delivery.appended_at),
            optional(delivery.event_type.as_ref()),
            cell(delivery.failures),
            optional(delivery.event_id.as_ref()),
        ]
    });
    let header = ["gateway", "sequence", "state", "stored", "type", "failures", "event"];
    let mut text =
        table::list(header, rows, &["event", "failures", "stored"], "no such deliveries");
    if page.pagination.next.is_some() {
        text.push_str("\n\nThere are more: use --all, raise --limit or narrow the window.");
    }
    text
}
