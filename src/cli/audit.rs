//! `audit`: list who changed what, when and from where.

use gateway_events::command::number::whole;
use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use gateway_events::api::{AuditObject, AuditQuery, AuditRecord, Page};
use gateway_events::clock::Timestamp;
use serde_json::Value;

use super::access::ClientOptions;
use super::output::{age, answer, cell, optional};
use super::table::table;
use super::time::parse_instant;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List changes, newest first: of the last 24 hours, or of another window
    List(List),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Recorded from this time on: RFC 3339, or how long ago, like 30d or "15m ago"
    #[arg(long, visible_alias = "since", allow_hyphen_values = true, value_parser = parse_instant)]
    from: Option<Timestamp>,
    /// Recorded before this time
    #[arg(long, allow_hyphen_values = true, value_parser = parse_instant)]
    to: Option<Timestamp>,
    /// What was done, such as gateway.disabled
    #[arg(long)]
    action: Option<String>,
    /// Only changes by this principal: an access token's public id or name, `local`, or the name of a system user
    #[arg(long)]
    principal: Option<String>,
    /// Only changes to this object: its id, or the name that it had then
    #[arg(long)]
    object: Option<String>,
    /// Maximum number of records to list
    #[arg(long, default_value_t = 100, value_parser = whole(1_u32..))]
    limit: u32,
    /// List all of them, however many
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let Command::List(List { from, to, action, principal, object, limit, all }) = command;
    let limit = if all { usize::MAX } else { usize::try_from(limit)? };
    let query = AuditQuery { from, to, action, principal, object };
    let page = client.api()?.audit(&query, limit).await?;
    let nothing = if from.is_some() { "no changes" } else { "no changes in 24 hours; set --since" };
    answer(client.json, &page, |page| listed(page, nothing))
}

fn listed(page: &Page<AuditRecord>, nothing: &str) -> String {
    let rows = page.list.iter().map(|record| {
        [
            cell(record.sequence),
            age(record.recorded_at),
            cell(&record.action),
            object(&record.object),
            cell(&record.principal.name),
            optional(record.source.as_ref()),
            change(record),
        ]
    });
    let header = ["number", "at", "action", "object", "by", "from", "change"];
    let mut text = table(header, rows, nothing);
    if page.pagination.next.is_some() {
        text.push_str("\n\nThere are more: use --all, raise --limit or narrow the window.");
    }
    text
}

/// Its name, or its id if that is what identifies it.
fn object(object: &AuditObject) -> String {
    match (object.kind.as_str(), object.name.is_empty()) {
        (_, true) => cell(&object.id),
        ("gateway" | "event_type", false) => cell(&object.name),
        (_, false) => cell(format!("{} ({})", object.id, object.name)),
    }
}

/// What changed: `disabled: false -> true`.
fn change(record: &AuditRecord) -> String {
    let shown = |value: Option<&Value>| match value {
        None => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(texts)) => {
            let texts =
                texts.iter().map(|it| it.as_str().map_or_else(|| it.to_string(), str::to_owned));
            texts.collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    };
    let names: BTreeSet<&String> = record.before.keys().chain(record.after.keys()).collect();
    let changes = names.into_iter().map(|name| {
        let (before, after) = (record.before.get(name), record.after.get(name));
        if record.before.is_empty() {
            format!("{name}: {}", shown(after))
        } else {
            format!("{name}: {} -> {}", shown(before), shown(after))
        }
    });
    cell(changes.collect::<Vec<_>>().join("; "))
}
