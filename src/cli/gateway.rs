//! `gateway`: register, list, show, update, disable, enable, delete.

use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use gateway_events::client::api::Api;
use gateway_events::event::GatewayId;
use serde_json::{Map, Value, json};

use super::access::ClientOptions;
use super::confirm::Confirmation;
use super::output::{self, answer, cell, elements, labels, time};
use super::reference::GatewayRef;
use super::table::table;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register a gateway
    Register {
        /// Its name, unique in the organisation
        name: String,
        /// Its id, a UUID; made up if it is left out
        #[arg(long)]
        id: Option<GatewayId>,
        /// A label, `name=value`; may be repeated
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
        labels: Vec<(String, String)>,
        /// How many replicas of it connect at the same time; 1 if it is left out
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        replicas: Option<u32>,
    },
    /// List all gateways, with what they have confirmed
    List,
    /// Show one gateway
    Show {
        /// Its name or id
        gateway: GatewayRef,
    },
    /// Change a gateway's name, labels or number of replicas
    Update(Update),
    /// Keep a gateway from connecting; events for it wait
    Disable {
        /// Its name or id
        gateway: GatewayRef,
    },
    /// Let a gateway connect again
    Enable {
        /// Its name or id
        gateway: GatewayRef,
    },
    /// List connections, newest first: the live ones, or past ones too
    Connections {
        /// Of this gateway only: its name or id
        gateway: Option<GatewayRef>,
        /// Past ones too, with the reason why they ended
        #[arg(long)]
        all: bool,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Delete a gateway; events that it has not received are recorded as failed
    Delete {
        /// Its name or id
        gateway: GatewayRef,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true).args(
    ["name", "replicas", "labels", "removed"],
))]
pub(crate) struct Update {
    /// Its name or id
    gateway: GatewayRef,
    /// Its new name
    #[arg(long)]
    name: Option<String>,
    /// How many replicas of it connect at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    replicas: Option<u32>,
    /// Set a label, `name=value`, and keep the others; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Remove a label; may be repeated
    #[arg(long = "remove-label", value_name = "NAME")]
    removed: Vec<String>,
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let api = client.api()?;
    let path = async |gateway: &GatewayRef| {
        anyhow::Ok(format!("/gateways/{}", gateway.resolve(&api).await?))
    };
    let shown = match command {
        Command::Register { name, id, labels, replicas } => {
            let mut body = json!({ "name": name, "labels": to_json(labels) });
            if let Some(id) = id {
                body["id"] = json!(id);
            }
            if let Some(replicas) = replicas {
                body["replicas"] = json!(replicas);
            }
            api.post("/gateways", &body).await?
        }
        Command::List => return list(&api, client).await,
        Command::Show { gateway } => api.get(&path(&gateway).await?).await?,
        Command::Connections { gateway, all, limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let id = match gateway {
                Some(gateway) => Some(gateway.resolve(&api).await?),
                None => None,
            };
            return connections(&api, client, id.as_ref(), all, limit).await;
        }
        Command::Update(update) => {
            api.patch(&path(&update.gateway).await?, &update.patch()).await?
        }
        Command::Disable { gateway } => {
            api.patch(&path(&gateway).await?, &json!({ "disabled": true })).await?
        }
        Command::Enable { gateway } => {
            api.patch(&path(&gateway).await?, &json!({ "disabled": false })).await?
        }
        Command::Delete { gateway, confirmation } => {
            let id = gateway.resolve(&api).await?;
            let gateway = api.get(&format!("/gateways/{id}")).await?;
            confirmation.require(consequences(&gateway), "Delete it?")?;
            let nothing = api.delete(&format!("/gateways/{id}")).await?;
            return answer(client.json, &nothing, |_| format!("gateway {id} is deleted"));
        }
    };
    answer(client.json, &shown, one)
}

/// What deleting a gateway means.
fn consequences(gateway: &Value) -> String {
    let name = output::clean(&cell(&gateway["name"]));
    let connected = if gateway["connected"] == true { ", which is connected," } else { "" };
    let undelivered = match gateway["lag"]["events"].as_i64() {
        None | Some(0) => "no event for it is undelivered".to_owned(),
        Some(1) => "1 undelivered event will be recorded as failed".to_owned(),
        Some(events) => format!("{events} undelivered events will be recorded as failed"),
    };
    format!("Gateway {name}{connected} will be deleted for good; {undelivered}.")
}

async fn list(api: &Api, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let list = api.list("/gateways", &[]).await?;
    let page = json!({ "count": list.len(), "list": list });
    answer(client.json, &page, |page| {
        let rows = elements(&page["list"]).iter().map(|gateway| {
            [
                cell(&gateway["name"]),
                status(gateway).to_owned(),
                cell(&gateway["connections"]),
                cell(&gateway["head"]),
                cell(&gateway["confirmed"]),
                lag(gateway),
                labels(&gateway["labels"]),
                cell(&gateway["id"]),
            ]
        });
        table(
            ["name", "status", "connections", "head", "confirmed", "lag", "labels", "id"],
            rows,
            "no gateways; register one: gateway-events gateway register NAME",
        )
    })
}

async fn connections(
    api: &Api,
    client: &ClientOptions,
    id: Option<&GatewayId>,
    all: bool,
    limit: usize,
) -> anyhow::Result<ExitCode> {
    let path =
        id.map_or_else(|| "/connections".to_owned(), |id| format!("/gateways/{id}/connections"));
    let status = if all { "all" } else { "connected" };
    let query = [("status", status.to_owned())];
    let page = api.list_up_to(&path, &query, limit).await?;
    answer(client.json, &page, |page| {
        let rows = elements(&page["list"]).iter().map(|one| {
            [
                cell(&one["gatewayName"]),
                cell(&one["status"]),
                time(&one["connectedAt"]),
                time(&one["lastHeartbeat"]),
                cell(&one["confirmed"]),
                cell(&one["remoteAddress"]),
                cell(&one["closeReason"]),
                cell(&one["connectionId"]),
            ]
        });
        let header =
            ["gateway", "status", "since", "last sign", "confirmed", "from", "ended by", "id"];
        let mut text = table(header, rows, "no connections");
        if page["pagination"]["next"].is_string() {
            text.push_str("\n\nThere are more: raise --limit.");
        }
        text
    })
}

impl Update {
    /// The change as a JSON merge patch.
    fn patch(&self) -> Value {
        let mut patch = json!({});
        if let Some(name) = &self.name {
            patch["name"] = json!(name);
        }
        if let Some(replicas) = self.replicas {
            patch["replicas"] = json!(replicas);
        }
        let removed = self.removed.iter().map(|name| (name.clone(), Value::Null));
        let set = self.labels.iter().map(|(name, value)| (name.clone(), json!(value)));
        let labels: Map<String, Value> = removed.chain(set).collect();
        if !labels.is_empty() {
            patch["labels"] = labels.into();
        }
        patch
    }
}

fn one(gateway: &Value) -> String {
    let manifest = match &gateway["manifest"] {
        Value::Null => "-".to_owned(),
        manifest => output::clean(&manifest.to_string()),
    };
    let lines = [
        ("id", cell(&gateway["id"])),
        ("name", cell(&gateway["name"])),
        ("labels", labels(&gateway["labels"])),
        ("registered", time(&gateway["createdAt"])),
        ("status", verdict(gateway)),
        ("connections", cell(&gateway["connections"])),
        ("replicas", cell(&gateway["replicas"])),
        ("head", cell(&gateway["head"])),
        ("confirmed", cell(&gateway["confirmed"])),
        ("lag", lag(gateway)),
        ("last refusal", refusal(&gateway["lastRefusal"])),
        ("epoch", cell(&gateway["epoch"])),
        ("manifest", manifest),
    ];
    lines.map(|(name, value)| format!("{name:<12} {value}")).join("\n")
}

fn refusal(refusal: &Value) -> String {
    match refusal {
        Value::Null => "-".to_owned(),
        refusal => format!(
            "{}, from {}, {}",
            cell(&refusal["code"]),
            cell(&refusal["address"]),
            time(&refusal["at"])
        ),
    }
}

/// The verdict's state. A service of an earlier version gives none.
fn status(gateway: &Value) -> &str {
    match gateway["verdict"]["state"].as_str() {
        Some(state) => state,
        None if gateway["disabled"] == true => "disabled",
        None if gateway["connected"] == true => "connected",
        None => "away",
    }
}

/// The verdict with its reason and its beginning.
fn verdict(gateway: &Value) -> String {
    let verdict = &gateway["verdict"];
    let reason = verdict["reason"].as_str().map(|reason| format!(": {}", output::clean(reason)));
    let failures = verdict["failures"].as_i64().filter(|failures| *failures > 1);
    let failures = failures.map(|failures| format!(", {failures} times in a row"));
    let since = &verdict["since"];
    let since = (!since.is_null()).then(|| format!(", since {}", time(since)));
    let parts = [reason, failures, since].into_iter().flatten();
    parts.fold(status(gateway).to_owned(), |text, part| text + &part)
}

fn lag(gateway: &Value) -> String {
    match gateway["lag"]["events"].as_i64() {
        None | Some(0) => "-".to_owned(),
        Some(1) => format!("1 event, {} s", cell(&gateway["lag"]["seconds"])),
        Some(events) => format!("{events} events, {} s", cell(&gateway["lag"]["seconds"])),
    }
}

/// Labels as the API takes them.
pub(crate) fn to_json(labels: Vec<(String, String)>) -> Map<String, Value> {
    labels.into_iter().map(|(name, value)| (name, value.into())).collect()
}

/// Reads `name=value`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a label is written name=value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_name_and_a_value() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_label("a="), Ok(("a".to_owned(), String::new())));
        for bad in ["=b", "a", ""] {
            assert!(parse_label(bad).is_err(), "{bad}");
        }
    }
}
