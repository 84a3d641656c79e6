//! `inbox`: list, edit and retry rows that other programs inserted and that could not be published.

use gateway_events::command::number::whole;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use gateway_events::api::{
    Page, RejectedFilter, RejectedRow, RejectedRowWithPayload, RejectionReason, Retried,
    RetryRequest, RetryRowRequest,
};
use gateway_events::clock::Timestamp;

use super::access::ClientOptions;
use super::confirm::Confirmation;
use super::output::{age, answer, cell, clean, optional, time};
use super::table::table;
use super::time::parse_instant;

mod edit;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List rejected rows, newest first
    Rejected {
        #[command(flatten)]
        filter: Filter,
        /// Include rows that were put back into the inbox
        #[arg(long)]
        retried: bool,
        /// Maximum number of rows to list
        #[arg(long, default_value_t = 100, value_parser = whole(1_u32..))]
        limit: u32,
    },
    /// Show a rejected row with its payload
    Show {
        /// The row's id
        #[arg(value_parser = whole::<i64>(..))]
        id: i64,
    },
    /// Correct a rejected row, and publish it; exits with 1 if it is still rejected
    Edit(Box<edit::Edit>),
    /// Put rejected rows back into the inbox, after the cause was corrected
    Retry(Retry),
    /// Delete a rejected row permanently
    Delete {
        /// The row's id
        #[arg(value_parser = whole::<i64>(..))]
        id: i64,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Rejected for one reason, such as unknown_event_type
    #[arg(long)]
    reason: Option<RejectionReason>,
    /// Rejected from this time on: RFC 3339, or how long ago, like 2h or "15m ago"
    #[arg(long, visible_alias = "since", allow_hyphen_values = true, value_parser = parse_instant)]
    from: Option<Timestamp>,
    /// Rejected before this time
    #[arg(long, allow_hyphen_values = true, value_parser = parse_instant)]
    to: Option<Timestamp>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(
    ["id", "all", "reason", "from", "to"],
))]
pub(crate) struct Retry {
    /// One row, by its id
    #[arg(value_parser = whole::<i64>(..), conflicts_with_all = ["all", "reason", "from", "to"])]
    id: Option<i64>,
    /// All rejected rows
    #[arg(long, conflicts_with_all = ["reason", "from", "to"])]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Only report what would become of the rows
    #[arg(long)]
    dry_run: bool,
}

impl Filter {
    fn rejected(&self, retried: bool) -> RejectedFilter {
        RejectedFilter { reason: self.reason, from: self.from, to: self.to, retried }
    }
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let api = client.api()?;
    match command {
        Command::Rejected { filter, retried, limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let page = api.rejected_rows(&filter.rejected(retried), limit).await?;
            answer(client.json, &page, listed)
        }
        Command::Show { id } => answer(client.json, &api.rejected_row(id).await?, shown),
        Command::Edit(edit) => edit::run(*edit, &api, client).await,
        Command::Retry(Retry { id: Some(id), dry_run, .. }) => {
            let request = RetryRowRequest { dry_run };
            answer(client.json, &api.retry_rejected_row(id, &request).await?, put_back)
        }
        Command::Retry(Retry { id: None, all, filter: Filter { reason, from, to }, dry_run }) => {
            let request = RetryRequest { all, reason, from, to, dry_run };
            let done = api.retry_rejected_rows(&request).await?;
            answer(client.json, &done, put_back)
        }
        Command::Delete { id, confirmation } => {
            confirmation.require(
                format_args!(
                    "Rejected row {id} will be deleted permanently, and its event is never published."
                ),
                "Delete it?",
            )?;
            api.delete_rejected_row(id).await?;
            answer(client.json, &(), |()| format!("rejected row {id} is deleted"))
        }
    }
}

fn listed(page: &Page<RejectedRow>) -> String {
    let rows = page.list.iter().map(|row| {
        [
            cell(row.id),
            age(row.rejected_at),
            cell(&row.event_type),
            cell(row.reason.as_str()),
            cell(&row.detail),
        ]
    });
    let mut text = table(
        ["id", "rejected", "type", "reason", "detail"],
        rows,
        "no row of the inbox was rejected",
    );
    if page.pagination.next.is_some() {
        text.push_str("\n\nThere are more; raise --limit or narrow the window.");
    }
    text
}

fn shown(shown: &RejectedRowWithPayload) -> String {
    let row = &shown.row;
    format!(
        "row          {} (in the inbox: {})\nversion      {}\nreason       {}\ndetail       {}\nrejected     {}\nput back     {}\n\n\
         type         {}\ngateway      {}\ntarget       {}\nevent        {}\ncorrelation  {}\nuser         {}\n\
         expires      {}\ntraceparent  {}\ncollapse key {}\ninserted     {}\npayload      {}",
        row.id,
        row.inbox_id,
        row.version,
        row.reason.as_str(),
        cell(&row.detail),
        time(row.rejected_at),
        time(row.retried_at),
        cell(&row.event_type),
        optional(row.gateway_id.as_ref()),
        optional(row.target.as_ref()),
        optional(row.event_id.as_ref()),
        optional(row.correlation_id.as_ref()),
        optional(row.user_id.as_ref()),
        optional(row.expires_at.as_ref()),
        optional(row.traceparent.as_ref()),
        optional(row.collapse_key.as_ref()),
        time(row.inserted_at),
        cell(&shown.payload),
    )
}

fn put_back(done: &Retried) -> String {
    if done.dry_run {
        return would_be_put_back(done);
    }
    let mut text = format!("{} put back into the inbox", done.retried);
    if done.more {
        text.push_str("\nMore rows match; run the command again.");
    }
    text
}

fn would_be_put_back(would: &Retried) -> String {
    let rows = if would.retried == 1 { "row" } else { "rows" };
    let mut lines = vec![format!("{} {rows} would be put back into the inbox", would.retried)];
    for row in &would.rows {
        let becomes = match (&row.reason, row.gateway_count) {
            (Some(reason), _) => {
                let detail = row.detail.as_deref().unwrap_or_default();
                format!("would be rejected again: {}, {}", reason.as_str(), clean(detail))
            }
            (None, 1) => "would be published for 1 gateway".to_owned(),
            (None, count) => format!("would be published for {count} gateways"),
        };
        lines.push(format!("row {} {becomes}", row.id));
    }
    let unexamined = would.retried.saturating_sub(would.rows.len() as u64);
    if unexamined > 0 {
        lines.push(format!("{unexamined} more rows were not examined"));
    }
    if would.more {
        lines.push("More rows match than one call puts back.".to_owned());
    }
    lines.push("This was a dry run: nothing was changed.".to_owned());
    lines.join("\n")
}
