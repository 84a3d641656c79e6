//! `gateway`: register, list, show, update, disable, enable, pause, resume, replay, delete; skip one
//! of its events; its connections, its instances and its log.

use gateway_events::command::number::whole;
use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use gateway_events::api::{
    self, ConnectionsQuery, ConnectionsStatus, Gateway, GatewayChange, LabelChange, Lag,
    LastRefusal, NewGateway, Page, PauseRequest, ResumeRequest, ResyncRequest, SkipRequest,
};
use gateway_events::client::api::Api;
use gateway_events::event::{GatewayId, Sequence};

use super::access::ClientOptions;
use super::colour;
use super::confirm::Confirmation;
use super::output::{self, age, answer, cell, labels, optional, time};
use super::reference::GatewayRef;
use super::table::{self, table};

mod actions;
mod instances;
mod log;
mod replay;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register a gateway
    Register {
        /// The gateway's name, unique in the organisation
        name: String,
        /// The gateway's id, a UUID; generated if omitted
        #[arg(long)]
        id: Option<GatewayId>,
        /// A label, `name=value`; may be repeated
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
        labels: Vec<(String, String)>,
        /// How many replicas of it connect at the same time; 1 if omitted. If there are fewer, a
        /// reconnect can repeat up to an hour of confirmed events
        #[arg(long, value_name = "N", value_parser = whole(1_u32..=1000))]
        replicas: Option<u32>,
    },
    /// List all gateways with their confirmed positions
    List,
    /// Show one gateway
    Show {
        /// The gateway's name or id
        gateway: GatewayRef,
    },
    /// Change a gateway's name, labels, number of replicas or confirmation
    Update(Update),
    /// Keep a gateway from connecting, and close its connections; its events are kept for it
    Disable {
        /// The gateway's name or id
        gateway: GatewayRef,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Allow a gateway to connect again
    Enable {
        /// The gateway's name or id
        gateway: GatewayRef,
    },
    /// Pause the delivery to a gateway; it stays connected, and its events are kept for it
    Pause {
        /// The gateway's name or id
        gateway: GatewayRef,
        /// The reason; shown with the gateway
        #[arg(long)]
        reason: Option<String>,
        /// Validate the request without changing anything
        #[arg(long)]
        dry_run: bool,
    },
    /// Resume the delivery to a paused gateway
    Resume {
        /// The gateway's name or id
        gateway: GatewayRef,
        /// Validate the request without changing anything
        #[arg(long)]
        dry_run: bool,
    },
    /// Skip a pending event that holds up a gateway; it can be redriven later
    Skip {
        /// The gateway's name or id
        gateway: GatewayRef,
        /// The event's sequence in the gateway's log
        #[arg(value_parser = whole(1_i64..))]
        sequence: i64,
        /// The reason; recorded with the failed delivery
        #[arg(long)]
        reason: String,
        /// Validate the request without changing anything
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Have the instances of a gateway read a snapshot, now or when they connect next; gateways that
    /// have only used plain mode can't
    Resync {
        /// The gateway's name or id
        gateway: GatewayRef,
        /// Request it only of the instance with this name
        #[arg(long)]
        instance: Option<String>,
        /// The reason; recorded with the request
        #[arg(long)]
        reason: Option<String>,
        /// Validate the request without changing anything
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// List connections, newest first: live ones, or past ones too
    Connections {
        /// Only of this gateway, by its name or id
        gateway: Option<GatewayRef>,
        /// Include past connections, with the reason for their end
        #[arg(long)]
        all: bool,
        /// Maximum number of connections to list
        #[arg(long, default_value_t = 100, value_parser = whole(1_u32..))]
        limit: u32,
    },
    /// List a gateway's named instances with their positions, and those that have expired
    Instances {
        /// The gateway's name or id
        gateway: GatewayRef,
    },
    /// Remove a named instance that no longer exists, and its position
    ForgetInstance {
        /// The gateway's name or id
        gateway: GatewayRef,
        /// The instance's name
        instance: String,
        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Show a gateway's log: its sequences with the states of their deliveries
    Log(log::Log),
    /// Append part of a gateway's log again, delivered events included: for a gateway that was rebuilt
    Replay(replay::Replay),
    /// Delete a gateway; its undelivered events are recorded as failed
    Delete {
        /// The gateway's name or id
        gateway: GatewayRef,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true).args(
    ["name", "replicas", "confirmed_by", "labels", "removed"],
))]
pub(crate) struct Update {
    /// The gateway's name or id
    gateway: GatewayRef,
    /// The new name, unique in the organisation
    #[arg(long)]
    name: Option<String>,
    /// How many replicas of it connect at the same time. If there are fewer, a reconnect can
    /// repeat up to an hour of confirmed events
    #[arg(long, value_name = "N", value_parser = whole(1_u32..=1000))]
    replicas: Option<u32>,
    /// Which of its named instances must have confirmed a delivery before it counts as delivered
    #[arg(long = "confirmation", value_name = "WHICH")]
    confirmed_by: Option<ConfirmedBy>,
    /// Set a label, `name=value`, and keep the others; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Remove a label; may be repeated
    #[arg(long = "remove-label", value_name = "NAME")]
    removed: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ConfirmedBy {
    /// One of them
    Any,
    /// All of them
    All,
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let api = client.api()?;
    let shown = match command {
        Command::Register { name, id, labels, replicas } => {
            let labels = unique_labels(labels)?;
            let replicas = replicas.map(i64::from);
            api.register_gateway(&NewGateway { name, id, labels, replicas }).await?
        }
        Command::Instances { gateway } => return instances::list(&gateway, &api, client).await,
        Command::ForgetInstance { gateway, instance, confirmation } => {
            return instances::forget(&gateway, &instance, confirmation, &api, client).await;
        }
        Command::Log(log) => return log::run(log, &api, client).await,
        Command::Replay(replay) => return replay::run(replay, &api, client).await,
        Command::List => return list(&api, client).await,
        Command::Show { gateway } => api.gateway(gateway.resolve(&api).await?).await?,
        Command::Connections { gateway, all, limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let id = match gateway {
                Some(gateway) => Some(gateway.resolve(&api).await?),
                None => None,
            };
            return connections(&api, client, id, all, limit).await;
        }
        Command::Update(update) => {
            let gateway = update.gateway.clone();
            let change = update.change()?;
            let id = gateway.resolve(&api).await?;
            api.change_gateway(id, &change).await?
        }
        Command::Disable { gateway, confirmation } => {
            actions::disable(gateway.resolve(&api).await?, confirmation, &api).await?
        }
        Command::Enable { gateway } => {
            let change = GatewayChange { disabled: Some(false), ..GatewayChange::default() };
            api.change_gateway(gateway.resolve(&api).await?, &change).await?
        }
        Command::Pause { gateway, reason, dry_run } => {
            let id = gateway.resolve(&api).await?;
            let done = api.pause_gateway(id, &PauseRequest { reason, dry_run }).await?;
            return answer(client.json, &done, actions::paused);
        }
        Command::Resume { gateway, dry_run } => {
            let id = gateway.resolve(&api).await?;
            let done = api.resume_gateway(id, &ResumeRequest { dry_run }).await?;
            return answer(client.json, &done, actions::resumed);
        }
        Command::Skip { gateway, sequence, reason, dry_run, confirmation } => {
            let id = gateway.resolve(&api).await?;
            if !dry_run {
                confirmation.require(
                    format_args!("Delivery {sequence} will be given up unless it is redriven."),
                    "Skip it?",
                )?;
            }
            let request = SkipRequest { sequence: Sequence(sequence), reason, dry_run };
            let done = api.skip_delivery(id, &request).await?;
            return answer(client.json, &done, actions::skipped);
        }
        Command::Resync { gateway, instance, reason, dry_run, confirmation } => {
            let id = gateway.resolve(&api).await?;
            let request = ResyncRequest { instance, reason, dry_run };
            let done = actions::request_resync(id, request, confirmation, &api).await?;
            return answer(client.json, &done, actions::resync);
        }
        Command::Delete { gateway, confirmation } => {
            let id = gateway.resolve(&api).await?;
            confirmation.require(consequences(&api.gateway(id).await?), "Delete it?")?;
            api.delete_gateway(id).await?;
            return answer(client.json, &(), |()| format!("gateway {id} is deleted"));
        }
    };
    answer(client.json, &shown, one)
}

/// The consequences of deleting a gateway.
fn consequences(gateway: &Gateway) -> String {
    let name = output::clean(&gateway.name);
    let connected = if gateway.connected { ", which is connected," } else { "" };
    let undelivered = match gateway.lag.events {
        0 => "no event for it is undelivered".to_owned(),
        1 => "1 undelivered event will be recorded as failed".to_owned(),
        events => format!("{events} undelivered events will be recorded as failed"),
    };
    format!("Gateway {name}{connected} will be deleted permanently; {undelivered}.")
}

async fn list(api: &Api, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let page = Page::whole(api.gateways().await?);
    answer(client.json, &page, |page| {
        let rows = page.list.iter().map(|gateway| {
            [
                cell(&gateway.name),
                cell(gateway.connections),
                cell(gateway.head),
                cell(gateway.confirmed),
                lag(&gateway.lag),
                labels(&gateway.labels),
                cell(&gateway.verdict.summary),
                cell(gateway.id),
            ]
        });
        table::list(
            ["name", "connections", "head", "confirmed", "lag", "labels", "status", "id"],
            rows,
            &["id", "labels", "head", "confirmed", "connections", "lag"],
            "no gateways; register one: gateway-events gateway register NAME",
        )
    })
}

async fn connections(
    api: &Api,
    client: &ClientOptions,
    id: Option<GatewayId>,
    all: bool,
    limit: usize,
) -> anyhow::Result<ExitCode> {
    let status = if all { ConnectionsStatus::All } else { ConnectionsStatus::Connected };
    let query = ConnectionsQuery { status: Some(status) };
    let page = api.connections(id, &query, limit).await?;
    answer(client.json, &page, |page| {
        let rows = page.list.iter().map(|one| {
            [
                cell(&one.gateway_name),
                cell(one.status.as_str()),
                age(one.connected_at),
                age(one.last_heartbeat),
                cell(one.confirmed),
                cell(&one.remote_address),
                optional(one.close_reason),
                cell(one.connection_id),
            ]
        });
        let header =
            ["gateway", "status", "since", "last sign", "confirmed", "from", "ended by", "id"];
        let mut text = table(header, rows, "no connections");
        if page.pagination.next.is_some() {
            text.push_str("\n\nThere are more; raise --limit.");
        }
        text
    })
}

impl Update {
    fn change(self) -> anyhow::Result<GatewayChange> {
        let set = unique_labels(self.labels)?;
        if let Some(name) = self.removed.iter().find(|name| set.contains_key(*name)) {
            anyhow::bail!("the label {name:?} is both set and removed");
        }
        let removed = self.removed.into_iter().map(|name| (name, None));
        let set = set.into_iter().map(|(name, value)| (name, Some(value)));
        let labels: BTreeMap<String, Option<String>> = removed.chain(set).collect();
        Ok(GatewayChange {
            name: self.name,
            labels: (!labels.is_empty()).then_some(LabelChange::Merge(labels)),
            replicas: self.replicas.map(i64::from),
            confirmation: self.confirmed_by.map(|which| match which {
                ConfirmedBy::Any => api::Confirmation::Any,
                ConfirmedBy::All => api::Confirmation::All,
            }),
            disabled: None,
        })
    }
}

fn one(gateway: &Gateway) -> String {
    let lines = [
        ("id", cell(gateway.id)),
        ("name", cell(&gateway.name)),
        ("labels", labels(&gateway.labels)),
        ("registered", time(gateway.created_at)),
        ("status", colour::state(&cell(&gateway.verdict.summary))),
        ("connections", cell(gateway.connections)),
        ("replicas", cell(gateway.replicas)),
        ("confirmation", cell(gateway.confirmation.as_str())),
        ("head", cell(gateway.head)),
        ("confirmed", cell(gateway.confirmed)),
        ("lag", lag(&gateway.lag)),
        ("last refusal", gateway.last_refusal.as_ref().map_or_else(|| "-".to_owned(), refusal)),
        ("epoch", cell(gateway.epoch)),
        ("manifest", optional(gateway.manifest.as_ref())),
    ];
    lines.map(|(name, value)| format!("{name:<12} {value}")).join("\n")
}

fn refusal(refusal: &LastRefusal) -> String {
    let cause = refusal.cause.as_deref().unwrap_or(&refusal.code);
    format!("{}, from {}, {}", cell(cause), cell(&refusal.address), time(refusal.at))
}

fn lag(lag: &Lag) -> String {
    match lag.events {
        0 => "-".to_owned(),
        1 => format!("1 event, {} s", lag.seconds),
        events => format!("{events} events, {} s", lag.seconds),
    }
}

/// Reads `name=value`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a label is written name=value".to_owned()),
    }
}

/// The labels of repeated options. Each name may be given once.
pub(crate) fn unique_labels(
    labels: Vec<(String, String)>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut unique = BTreeMap::new();
    for (name, value) in labels {
        if let Some(other) = unique.insert(name.clone(), value.clone()) {
            anyhow::bail!("the label {name:?} is given twice, as {other:?} and as {value:?}");
        }
    }
    Ok(unique)
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
