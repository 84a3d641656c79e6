//! `inbox edit`: correct a rejected row, and publish it.

use gateway_events::command::number::whole;
use std::process::ExitCode;

use clap::Args;
use gateway_events::api::{EditedRow, RejectedRowChange, Target};
use gateway_events::client::api::Api;
use gateway_events::clock::Timestamp;

use super::super::access::ClientOptions;
use super::super::event::payload_text;
use super::super::gateway::{parse_label, unique_labels};
use super::super::output::{answer, cell, optional};
use super::super::reference::{GatewayRef, Names};
use super::super::time::parse_instant;

/// The exit code if the row is still rejected.
const STILL_REJECTED: u8 = 1;
/// Gateways that a dry run names, at most.
const SHOWN: usize = 10;

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").args(["gateway", "all", "labels"]))]
pub(crate) struct Edit {
    /// The row's id
    #[arg(value_parser = whole::<i64>(..))]
    id: i64,
    /// The version that was read; by default the current one
    #[arg(long, value_name = "VERSION", value_parser = whole::<i64>(..))]
    of_version: Option<i64>,
    /// The event type, such as api.deployed
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// The payload, a JSON object: the text itself, @FILE, or - for standard input
    #[arg(long)]
    payload: Option<String>,
    /// For this gateway, by its name or id
    #[arg(long)]
    gateway: Option<GatewayRef>,
    /// Publish it for every gateway
    #[arg(long)]
    all: bool,
    /// Publish it for every gateway with this label; if repeated, all labels must match
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// The event's id
    #[arg(long)]
    event_id: Option<String>,
    /// The correlation id
    #[arg(long)]
    correlation_id: Option<String>,
    /// The user on whose behalf it is published
    #[arg(long)]
    user: Option<String>,
    /// The collapse key
    #[arg(long, value_name = "KEY")]
    collapse_key: Option<String>,
    /// When it expires: RFC 3339
    #[arg(long, value_parser = parse_instant)]
    expires_at: Option<Timestamp>,
    /// Remove the expiry
    #[arg(long, conflicts_with = "expires_at")]
    no_expiry: bool,
    /// Validate the row without changing anything
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(edit: Edit, api: &Api, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let id = edit.id;
    let edited = api.edit_rejected_row(id, &edit.change(api).await?).await?;
    let gateways = edited.gateway_ids.iter().copied();
    let names = Names::of(gateways.filter(|_| edited.dry_run && !client.json), api).await;
    answer(client.json, &edited, |edited| shown(id, edited, &names))?;
    Ok(if edited.published { ExitCode::SUCCESS } else { ExitCode::from(STILL_REJECTED) })
}

impl Edit {
    async fn change(self, api: &Api) -> anyhow::Result<RejectedRowChange> {
        let version = match self.of_version {
            Some(version) => version,
            None => api.rejected_row(self.id).await?.row.version,
        };
        let gateway = match &self.gateway {
            Some(gateway) => Some(gateway.resolve(api).await?),
            None => None,
        };
        let labels = unique_labels(self.labels)?;
        let target = match (self.all, labels.is_empty()) {
            (true, _) => Some(Target { all: Some(true), ..Target::default() }),
            (false, false) => Some(Target { labels: Some(labels), ..Target::default() }),
            (false, true) => None,
        };
        let target = target.map(|target| serde_json::to_string(&target)).transpose()?;
        // A row has either a gateway or another target.
        let (gateway_id, target) = match (gateway, target) {
            (Some(id), _) => (Some(Some(id)), Some(None)),
            (None, Some(target)) => (Some(None), Some(Some(target))),
            (None, None) => (None, None),
        };
        Ok(RejectedRowChange {
            version,
            event_type: self.event_type,
            payload: self.payload.as_deref().map(payload_text).transpose()?,
            gateway_id,
            target,
            event_id: self.event_id.map(Some),
            correlation_id: self.correlation_id.map(Some),
            user_id: self.user.map(Some),
            expires_at: if self.no_expiry { Some(None) } else { self.expires_at.map(Some) },
            traceparent: None,
            collapse_key: self.collapse_key.map(Some),
            dry_run: self.dry_run,
        })
    }
}

fn shown(id: i64, edited: &EditedRow, names: &Names) -> String {
    let event = optional(edited.event_id.as_ref());
    match (edited.published, edited.dry_run) {
        (true, false) => format!("row {id} is published as event {event}"),
        (true, true) => {
            let gateways: Vec<String> =
                edited.gateway_ids.iter().take(SHOWN).map(|id| names.cell(*id)).collect();
            let more = edited.gateway_ids.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let gateways = if gateways.is_empty() {
                "no gateway: none matches its target".to_owned()
            } else {
                format!("{}{more}", gateways.join(", "))
            };
            format!("row {id} would be published as event {event}, for {gateways}")
        }
        (false, is_dry) => {
            let is = if is_dry { "would still be" } else { "is still" };
            let reason = edited.reason.map_or("", |reason| reason.as_str());
            format!(
                "row {id} {is} rejected: {reason}: {}",
                optional(edited.detail.as_ref().map(cell))
            )
        }
    }
}
