//! `delivery list`: deliveries by their state.

use gateway_events::command::number::whole;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gateway_events::api::{
    DeliveriesQuery, DeliveriesStatus, DeliveriesWindow, Delivery, DeliveryFilter, Page,
};
use gateway_events::client::api::Api;
use gateway_events::clock::Timestamp;
use gateway_events::event::{CorrelationId, EventId, EventType};

use super::super::access::ClientOptions;
use super::super::output::{age, answer, cell, optional};
use super::super::reference::{GatewayRef, event_id};
use super::super::table::table;
use super::super::time::parse_instant;

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The state of the deliveries
    #[arg(long, value_enum)]
    status: Status,
    /// Which time --from and --to select by: when the events were stored, or when attempts at their
    /// delivery ended (any but pending ones, newest attempt first)
    #[arg(long, value_enum)]
    window_of: Option<WindowOf>,
    /// From this time on: RFC 3339, or how long ago, like 2h or "15m ago" (by default 24h, and any time
    /// for pending ones)
    #[arg(long, visible_alias = "since", allow_hyphen_values = true, value_parser = parse_instant)]
    from: Option<Timestamp>,
    /// Before this time
    #[arg(long, allow_hyphen_values = true, value_parser = parse_instant)]
    to: Option<Timestamp>,
    /// To one gateway, by its name or id
    #[arg(long)]
    gateway: Option<GatewayRef>,
    /// Of one event type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<EventType>,
    /// Of one event, by its id or the beginning of it
    #[arg(long, value_name = "ID")]
    event: Option<EventId>,
    /// Of one correlation id
    #[arg(long, value_name = "ID")]
    correlation_id: Option<CorrelationId>,
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
    let gateway_id = match &list.gateway {
        Some(gateway) => Some(gateway.resolve(api).await?),
        None => None,
    };
    let event_id = match &list.event {
        Some(id) => Some(event_id(id, api).await?),
        None => None,
    };
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
    let filter = DeliveryFilter {
        from: list.from,
        to: list.to,
        gateway_id,
        event_type: list.event_type,
        reason: None,
        event_id,
        correlation_id: list.correlation_id,
    };
    let limit = if list.all { usize::MAX } else { usize::try_from(list.limit)? };
    answer(client.json, &api.deliveries(&query, &filter, limit).await?, shown)
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
    let mut text = table(header, rows, "no such deliveries");
    if page.pagination.next.is_some() {
        text.push_str("\n\nThere are more: use --all, raise --limit or narrow the window.");
    }
    text
}
