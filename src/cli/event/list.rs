//! `event list`: the events of a time window.

use gateway_events::command::number::whole;
use std::process::ExitCode;

use clap::Args;
use gateway_events::api::{EventFilter, EventSummary, Page, PublishedTarget};
use gateway_events::client::api::Api;
use gateway_events::clock::Timestamp;
use gateway_events::event::{CorrelationId, EventIdPrefix, EventType, GatewayId};

use super::super::access::ClientOptions;
use super::super::output::{age, answer, cell, labels, optional};
use super::super::reference::{GatewayRef, Names, note_unknown_type};
use super::super::table;
use super::super::time::parse_instant;

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Stored from this time on: RFC 3339, or how long ago, like 2h or "15m ago" (by default 24h)
    #[arg(long, visible_alias = "since", allow_hyphen_values = true, value_parser = parse_instant)]
    from: Option<Timestamp>,
    /// Stored before this time
    #[arg(long, allow_hyphen_values = true, value_parser = parse_instant)]
    to: Option<Timestamp>,
    /// Of one event type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<EventType>,
    /// In the log of one gateway, by its name or id
    #[arg(long)]
    gateway: Option<GatewayRef>,
    /// Of one correlation id
    #[arg(long, value_name = "ID")]
    correlation_id: Option<CorrelationId>,
    /// Published on behalf of one user
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// About one artifact, such as an API, by its id
    #[arg(long, value_name = "ID")]
    artifact: Option<String>,
    /// About one deployment, by its id
    #[arg(long, value_name = "ID")]
    deployment: Option<String>,
    /// Only events whose id starts with this
    #[arg(long, value_name = "TEXT")]
    id_prefix: Option<EventIdPrefix>,
    /// Maximum number of events to list
    #[arg(long, default_value_t = 100, value_parser = whole(1_u32..))]
    limit: u32,
    /// List all of them, however many
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

pub(crate) async fn run(list: List, api: &Api, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let gateway_id = match &list.gateway {
        Some(gateway) => Some(gateway.resolve(api).await?),
        None => None,
    };
    let limit = if list.all { usize::MAX } else { usize::try_from(list.limit)? };
    let filter = EventFilter {
        from: list.from,
        to: list.to,
        event_type: list.event_type,
        gateway_id,
        correlation_id: list.correlation_id,
        user_id: list.user,
        artifact_id: list.artifact,
        deployment_id: list.deployment,
        id_prefix: list.id_prefix,
    };
    let page = api.events(&filter, limit).await?;
    if page.list.is_empty() {
        note_unknown_type(filter.event_type.as_ref(), api).await;
    }
    let targets = page.list.iter().filter_map(|event| single(event.target.as_ref()?));
    let names = Names::of(targets.filter(|_| !client.json), api).await;
    answer(client.json, &page, |page| shown(page, &names))
}

fn shown(page: &Page<EventSummary>, names: &Names) -> String {
    let rows = page.list.iter().map(|event| {
        [
            age(event.appended_at),
            cell(&event.event_type),
            target(event.target.as_ref(), event.gateway_count, |id| names.cell(id)),
            cell(event.gateway_count),
            optional(event.user_id.as_ref()),
            cell(&event.id),
        ]
    });
    let header = ["stored", "type", "for", "gateways", "user", "id"];
    let mut text =
        table::list(header, rows, &["user", "gateways", "for"], "no events in this window");
    if page.pagination.next.is_some() {
        text.push_str("\n\nThere are more: use --all, raise --limit or narrow the window.");
    }
    text
}

/// What an event was published for, as the text of a table's cell.
pub(crate) fn target(
    target: Option<&PublishedTarget>,
    count: i64,
    name: impl FnOnce(GatewayId) -> String,
) -> String {
    match target {
        None => "-".to_owned(),
        Some(PublishedTarget { all: Some(true), .. }) => "all gateways".to_owned(),
        Some(PublishedTarget { labels: Some(wanted), .. }) => labels(wanted),
        Some(target) => match single(target) {
            Some(id) => name(id),
            None => format!("{count} gateways by id"),
        },
    }
}

/// The gateway that an event was published for, if it is the only one that was named.
fn single(target: &PublishedTarget) -> Option<GatewayId> {
    match target.gateway_ids.as_deref()? {
        [id] => Some(*id),
        _ => None,
    }
}
