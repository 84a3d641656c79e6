//! `inbox`: what other programs inserted and could not be published, and why;
//! and trying it again.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use gateway_events::clock::Timestamp;
use gateway_events::store::RejectionReason;
use serde_json::{Map, Value, json};

use super::access::ClientOptions;
use super::output::{answer, cell, elements, time};
use super::table::table;
use super::time::parse_instant;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List rejected rows, newest first
    Rejected {
        #[command(flatten)]
        filter: Filter,
        /// Those that were put back, too
        #[arg(long)]
        retried: bool,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show a rejected row with its payload
    Show {
        /// Which
        id: i64,
    },
    /// Put rejected rows back into the inbox, after what was wrong has been put right
    Retry(Retry),
    /// Remove a rejected row for good
    Delete {
        /// Which
        id: i64,
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
    /// Rejected until this time, which is not included
    #[arg(long, allow_hyphen_values = true, value_parser = parse_instant)]
    to: Option<Timestamp>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(
    ["id", "all", "reason", "from", "to"],
))]
pub(crate) struct Retry {
    /// One row
    #[arg(conflicts_with_all = ["all", "reason", "from", "to"])]
    id: Option<i64>,
    /// All of them
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
}

impl Filter {
    /// As the API's names and values.
    fn pairs(&self) -> Vec<(&'static str, String)> {
        [
            ("reason", self.reason.map(|reason| reason.to_string())),
            ("from", self.from.map(|at| at.to_string())),
            ("to", self.to.map(|at| at.to_string())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let api = client.api()?;
    match command {
        Command::Rejected { filter, retried, limit } => {
            let mut query = filter.pairs();
            query.push(("retried", retried.to_string()));
            query.push(("limit", limit.to_string()));
            let page = api.get_with("/inbox/rejected", &query).await?;
            answer(client.json, &page, listed)
        }
        Command::Show { id } => {
            let row = api.get(&format!("/inbox/rejected/{id}")).await?;
            answer(client.json, &row, shown)
        }
        Command::Retry(Retry { id: Some(id), .. }) => {
            let done = api.post(&format!("/inbox/rejected/{id}/retry"), &json!({})).await?;
            answer(client.json, &done, put_back)
        }
        Command::Retry(Retry { filter, .. }) => {
            let pairs = filter.pairs().into_iter();
            let body: Map<String, Value> =
                pairs.map(|(name, value)| (name.to_owned(), value.into())).collect();
            let done = api.post("/inbox/rejected/retry", &body).await?;
            answer(client.json, &done, put_back)
        }
        Command::Delete { id } => {
            let done = api.delete(&format!("/inbox/rejected/{id}")).await?;
            answer(client.json, &done, |_| format!("rejected row {id} is removed"))
        }
    }
}

fn listed(page: &Value) -> String {
    let rows = elements(&page["list"]).iter().map(|row| {
        [
            cell(&row["id"]),
            time(&row["rejectedAt"]),
            cell(&row["type"]),
            cell(&row["reason"]),
            cell(&row["detail"]),
        ]
    });
    let mut text = table(
        ["id", "rejected", "type", "reason", "what was wrong"],
        rows,
        "no row of the inbox was rejected",
    );
    if page["pagination"]["next"].is_string() {
        text.push_str("\n\nThere are more: raise --limit or narrow the window.");
    }
    text
}

fn shown(row: &Value) -> String {
    format!(
        "row          {} (in the inbox: {})\nreason       {}\ndetail       {}\nrejected     {}\nput back     {}\n\n\
         type         {}\ngateway      {}\ntarget       {}\nevent        {}\ncorrelation  {}\nuser         {}\n\
         expires      {}\ntraceparent  {}\ninserted     {}\npayload      {}",
        cell(&row["id"]),
        cell(&row["inboxId"]),
        cell(&row["reason"]),
        cell(&row["detail"]),
        time(&row["rejectedAt"]),
        time(&row["retriedAt"]),
        cell(&row["type"]),
        cell(&row["gatewayId"]),
        cell(&row["target"]),
        cell(&row["eventId"]),
        cell(&row["correlationId"]),
        cell(&row["userId"]),
        cell(&row["expiresAt"]),
        cell(&row["traceparent"]),
        time(&row["insertedAt"]),
        cell(&row["payload"]),
    )
}

fn put_back(done: &Value) -> String {
    let mut text = format!("{} put back into the inbox", cell(&done["retried"]));
    if done["more"] == true {
        text.push_str("\nThere are more that fit: run it again.");
    }
    text
}
