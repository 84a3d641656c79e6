//! `gateway log`: a gateway's sequences with the states of their deliveries.

use gateway_events::command::number::whole;
use std::process::ExitCode;

use clap::Args;
use gateway_events::api::{LogPage, LogQuery, PageQuery};
use gateway_events::client::api::Api;
use gateway_events::event::Sequence;

use super::super::access::ClientOptions;
use super::super::output::{age, answer, cell};
use super::super::reference::GatewayRef;
use super::super::table::table;

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// The gateway's name or id
    gateway: GatewayRef,
    /// Show the entries after this sequence; by default the newest ones
    #[arg(long, value_name = "SEQUENCE", value_parser = whole(0_i64..))]
    after: Option<i64>,
    /// Maximum number of entries to list
    #[arg(long, default_value_t = 100, value_parser = whole(1_u32..))]
    limit: u32,
    /// Show all of them, however many
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

pub(crate) async fn run(log: Log, api: &Api, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let id = log.gateway.resolve(api).await?;
    let limit = if log.all { usize::MAX } else { usize::try_from(log.limit)? };
    let after = match (log.after, log.all) {
        (Some(after), _) => after,
        (None, true) => 0,
        (None, false) => api.gateway(id).await?.head.0.saturating_sub(log.limit.into()).max(0),
    };
    let mut query = LogQuery { after: Some(Sequence(after)), limit: None, wait: None };
    query.limit = Some(limit.min(PageQuery::MAX_LIMIT));
    let mut page = api.gateway_log(id, &query).await?;
    // A page is bounded in bytes, so there may be more before the limit.
    while let Some(next) = page.pagination.next.filter(|_| page.list.len() < limit) {
        query.after = Some(next);
        query.limit = Some((limit - page.list.len()).min(PageQuery::MAX_LIMIT));
        let mut more = api.gateway_log(id, &query).await?;
        more.list.splice(0..0, page.list);
        more.count = more.list.len();
        page = more;
    }
    answer(client.json, &page, shown)
}

fn shown(page: &LogPage) -> String {
    let rows = page.list.iter().map(|entry| {
        [
            cell(entry.sequence),
            cell(entry.state.as_str()),
            age(entry.appended_at),
            cell(&entry.event_type),
            cell(&entry.event_id),
        ]
    });
    let nothing = "the log has no such entries";
    let text = table(["sequence", "state", "stored", "type", "event"], rows, nothing);
    match page.pagination.next {
        Some(next) => format!("{text}\n\nThere are more: use --after {next}."),
        None => text,
    }
}
