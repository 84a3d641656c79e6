//! `delivery`: what failed, when and why; and appending it again.

use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use gateway_events::client::api::Api;
use gateway_events::clock::Timestamp;
use gateway_events::event::{CorrelationId, EventId, EventType, Reason};
use serde_json::{Map, Value, json};

use super::access::ClientOptions;
use super::output::{answer, cell, elements, time};
use super::reference::GatewayRef;
use super::table::table;
use super::time::parse_instant;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List failed deliveries, newest failure first (the last 24 hours unless told otherwise)
    Failed {
        #[command(flatten)]
        filter: Filter,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Append failed deliveries again: the same event, a new sequence
    Redrive(Redrive),
}

#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// From this time on: RFC 3339, or how long ago, like 2h or "15m ago"
    #[arg(long, visible_alias = "since", allow_hyphen_values = true, value_parser = parse_instant)]
    from: Option<Timestamp>,
    /// Until this time, which is not included
    #[arg(long, allow_hyphen_values = true, value_parser = parse_instant)]
    to: Option<Timestamp>,
    /// Of one gateway, by its name or id
    #[arg(long)]
    gateway: Option<GatewayRef>,
    /// Of one event type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<EventType>,
    /// For one reason, such as not_connected
    #[arg(long)]
    reason: Option<Reason>,
    /// Of one event
    #[arg(long, value_name = "ID")]
    event: Option<EventId>,
    /// Of one correlation id
    #[arg(long, value_name = "ID")]
    correlation_id: Option<CorrelationId>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(
    ["sequence", "from", "to", "gateway", "event_type", "reason", "event", "correlation_id"],
))]
pub(crate) struct Redrive {
    #[command(flatten)]
    filter: Filter,
    /// One delivery: this sequence of the gateway
    #[arg(
        long,
        requires = "gateway",
        conflicts_with_all = ["from", "to", "event_type", "reason", "event", "correlation_id"]
    )]
    sequence: Option<u64>,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
}

impl Filter {
    /// As the API's names and values.
    async fn pairs(&self, api: &Api) -> anyhow::Result<Vec<(&'static str, String)>> {
        let gateway = match &self.gateway {
            Some(gateway) => Some(gateway.resolve(api).await?),
            None => None,
        };
        let pairs = [
            ("from", self.from.map(|at| at.to_string())),
            ("to", self.to.map(|at| at.to_string())),
            ("gatewayId", gateway.map(|id| id.to_string())),
            ("type", self.event_type.as_ref().map(ToString::to_string)),
            ("reason", self.reason.map(|reason| reason.to_string())),
            ("eventId", self.event.as_ref().map(ToString::to_string)),
            ("correlationId", self.correlation_id.as_ref().map(ToString::to_string)),
        ];
        Ok(pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
    }
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let api = client.api()?;
    match command {
        Command::Failed { filter, limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let page = failed(&api, &filter.pairs(&api).await?, limit).await?;
            answer(client.json, &page, shown)
        }
        Command::Redrive(redrive) => {
            let done = redrive_all(&api, redrive.body(&api).await?).await?;
            answer(client.json, &done, |done| redriven(done, redrive.dry_run))
        }
    }
}

/// Numbers in the answer to a redrive, and what they say.
const LEFT_ALONE: [(&str, &str); 5] = [
    ("pending", "still pending: they will be delivered anyway"),
    ("delivered", "delivered since"),
    ("alreadyRedriven", "appended again already"),
    ("eventRemoved", "removed by retention: publish them again"),
    ("expired", "expired: publish them again, if they are still good"),
];

/// As many calls as it takes: each one does a bounded part.
async fn redrive_all(api: &Api, mut body: Value) -> anyhow::Result<Value> {
    let mut all = api.post("/deliveries/redrive", &body).await?;
    while all["next"].is_string() {
        body["cursor"] = all["next"].take();
        let mut done = api.post("/deliveries/redrive", &body).await?;
        if let (Some(all), Some(more)) =
            (all["redriven"].as_array_mut(), done["redriven"].as_array_mut())
        {
            all.append(more);
        }
        for (name, _) in LEFT_ALONE {
            let count = |answer: &Value| answer[name].as_i64().unwrap_or_default();
            all[name] = json!(count(&all) + count(&done));
        }
        for name in ["more", "next"] {
            all[name] = done[name].take();
        }
    }
    Ok(all)
}

/// Up to `limit` failed deliveries, as many pages as that takes: a page may
/// be short and still have a next one.
pub(crate) async fn failed(
    api: &Api,
    filter: &[(&'static str, String)],
    limit: usize,
) -> anyhow::Result<Value> {
    let mut query = filter.to_vec();
    query.push(("status", "failed".to_owned()));
    Ok(api.list_up_to("/deliveries", &query, limit).await?)
}

/// Failed deliveries as a table.
pub(crate) fn shown(page: &Value) -> String {
    let rows = elements(&page["list"]).iter().map(|delivery| {
        [
            time(&delivery["lastFailureAt"]),
            cell(&delivery["gatewayName"]),
            cell(&delivery["sequence"]),
            cell(&delivery["type"]),
            cell(&delivery["reason"]),
            cell(&delivery["failures"]),
            state(delivery),
            cell(&delivery["eventId"]),
        ]
    });
    let mut text = table(
        ["last failure", "gateway", "sequence", "type", "reason", "failures", "now", "event"],
        rows,
        "no delivery failed in this window",
    );
    if page["pagination"]["next"].is_string() {
        text.push_str("\n\nThere are more: raise --limit or narrow the window.");
    }
    text
}

/// Where a failed delivery stands now; a redriven one stands where its newest
/// redrive does.
fn state(delivery: &Value) -> String {
    let successor = &delivery["redrivenAs"];
    if !successor.is_null() {
        let word = match successor["state"].as_str() {
            Some("delivered") => "delivered",
            Some("failed") => "dead letter",
            _ => "pending",
        };
        return format!("redriven as {}: {word}", cell(&successor["sequence"]));
    }
    let word = if delivery["redriven"] == true {
        "redriven"
    } else if delivery["deliveredSince"] == true {
        "delivered since"
    } else if delivery["state"] == "failed" {
        "dead letter"
    } else {
        "pending"
    };
    word.to_owned()
}

impl Redrive {
    async fn body(&self, api: &Api) -> anyhow::Result<Value> {
        let pairs = self.filter.pairs(api).await?.into_iter();
        let mut filter: Map<String, Value> =
            pairs.map(|(name, value)| (name.to_owned(), value.into())).collect();
        Ok(match self.sequence {
            // Of a gateway, which is all that the filter can name beside it.
            Some(sequence) => {
                filter.insert("sequence".to_owned(), sequence.into());
                filter.insert("dryRun".to_owned(), self.dry_run.into());
                filter.into()
            }
            None => json!({ "filter": filter, "dryRun": self.dry_run }),
        })
    }
}

fn redriven(done: &Value, is_dry_run: bool) -> String {
    let rows = elements(&done["redriven"]).iter().map(|delivery| {
        [
            cell(&delivery["gatewayId"]),
            cell(&delivery["eventId"]),
            cell(&delivery["sequence"]),
            cell(&delivery["newSequence"]),
        ]
    });
    let nothing = "nothing is appended again: no dead letter fits";
    let mut lines = vec![table(["gateway", "event", "sequence", "new sequence"], rows, nothing)];
    match (elements(&done["redriven"]).len(), is_dry_run) {
        (0, _) => {}
        (count, true) => lines.push(format!("\n{count} would be appended again")),
        (count, false) => lines.push(format!("\n{count} appended again")),
    }
    for (name, why) in LEFT_ALONE {
        if let Some(count @ 1..) = done[name].as_i64() {
            lines.push(format!("{count} left alone: {why}"));
        }
    }
    if is_dry_run {
        lines.push("This was a dry run: nothing was changed.".to_owned());
    }
    lines.join("\n")
}
