//! `gateway`: register, update, list, show, label, disable, enable, delete.

use std::process::ExitCode;

use clap::Subcommand;
use gateway_events::client::api::Api;
use gateway_events::event::GatewayId;
use serde_json::{Map, Value, json};

use super::access::ClientOptions;
use super::output::{self, answer, cell, elements, labels, table, time};

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
    /// Change a gateway's name, or its number of replicas
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
    Update {
        /// Which gateway
        id: GatewayId,
        /// Its new name
        #[arg(long, group = "change")]
        name: Option<String>,
        /// How many replicas of it connect at the same time
        #[arg(long, value_name = "N", group = "change", value_parser = clap::value_parser!(u32).range(1..=1000))]
        replicas: Option<u32>,
    },
    /// List all gateways, with what they have confirmed
    List,
    /// Show one gateway
    Show {
        /// Which
        id: GatewayId,
    },
    /// Set labels (`name=value`) or remove them (`name-`)
    Label {
        /// Which gateway
        id: GatewayId,
        /// The changes
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = parse_label_change)]
        changes: Vec<(String, Option<String>)>,
    },
    /// Keep a gateway from connecting; events for it wait
    Disable {
        /// Which
        id: GatewayId,
    },
    /// Let a gateway connect again
    Enable {
        /// Which
        id: GatewayId,
    },
    /// List connections, newest first: the live ones, or past ones too
    Connections {
        /// Of this gateway only
        id: Option<GatewayId>,
        /// Past ones too, with the reason why they ended
        #[arg(long)]
        all: bool,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Delete a gateway and its log
    Delete {
        /// Which
        id: GatewayId,
    },
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let api = client.api()?;
    let path = |id: &GatewayId| format!("/gateways/{id}");
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
        Command::Update { id, name, replicas } => {
            let mut change = Map::new();
            change.extend(name.map(|name| ("name".to_owned(), json!(name))));
            change.extend(replicas.map(|replicas| ("replicas".to_owned(), json!(replicas))));
            api.patch(&path(&id), &Value::Object(change)).await?
        }
        Command::List => return list(&api, client).await,
        Command::Show { id } => api.get(&path(&id)).await?,
        Command::Connections { id, all, limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            return connections(&api, client, id.as_ref(), all, limit).await;
        }
        Command::Label { id, changes } => label(&api, &path(&id), changes).await?,
        Command::Disable { id } => api.patch(&path(&id), &json!({ "disabled": true })).await?,
        Command::Enable { id } => api.patch(&path(&id), &json!({ "disabled": false })).await?,
        Command::Delete { id } => {
            let nothing = api.delete(&path(&id)).await?;
            return answer(client.json, &nothing, |_| format!("gateway {id} is deleted"));
        }
    };
    answer(client.json, &shown, one)
}

async fn list(api: &Api, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let list = api.list("/gateways", &[]).await?;
    let page = json!({ "count": list.len(), "list": list });
    answer(client.json, &page, |page| {
        let rows = elements(&page["list"]).iter().map(|gateway| {
            [
                cell(&gateway["id"]),
                cell(&gateway["name"]),
                status(gateway).to_owned(),
                cell(&gateway["connections"]),
                cell(&gateway["head"]),
                cell(&gateway["confirmed"]),
                lag(gateway),
                labels(&gateway["labels"]),
            ]
        });
        table(
            ["id", "name", "status", "connections", "head", "confirmed", "lag", "labels"],
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

async fn label(
    api: &Api,
    path: &str,
    changes: Vec<(String, Option<String>)>,
) -> anyhow::Result<Value> {
    let gateway = api.get(path).await?;
    let mut labels = gateway["labels"].as_object().cloned().unwrap_or_default();
    for (name, value) in changes {
        match value {
            Some(value) => labels.insert(name, value.into()),
            None => labels.remove(&name),
        };
    }
    Ok(api.patch(path, &json!({ "labels": labels })).await?)
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
        ("status", status(gateway).to_owned()),
        ("connections", cell(&gateway["connections"])),
        ("replicas", cell(&gateway["replicas"])),
        ("head", cell(&gateway["head"])),
        ("confirmed", cell(&gateway["confirmed"])),
        ("lag", lag(gateway)),
        ("epoch", cell(&gateway["epoch"])),
        ("manifest", manifest),
    ];
    lines.map(|(name, value)| format!("{name:<12} {value}")).join("\n")
}

fn status(gateway: &Value) -> &'static str {
    if gateway["disabled"] == true {
        "disabled"
    } else if gateway["connected"] == true {
        "connected"
    } else {
        "away"
    }
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

fn parse_label_change(text: &str) -> Result<(String, Option<String>), String> {
    match text.strip_suffix('-') {
        Some(name) if !name.is_empty() && !name.contains('=') => Ok((name.to_owned(), None)),
        _ => parse_label(text).map(|(name, value)| (name, Some(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_removed() {
        let set = |name: &str, value: &str| Ok((name.to_owned(), Some(value.to_owned())));
        assert_eq!(parse_label_change("a=b=c"), set("a", "b=c"));
        assert_eq!(parse_label_change("a=x-"), set("a", "x-"));
        assert_eq!(parse_label_change("a-"), Ok(("a".to_owned(), None)));
        assert!(parse_label_change("=b").is_err());
        assert!(parse_label_change("a").is_err());
    }
}
