//! `event republish`: publish an event again, as a new one.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgGroup, Args};
use gateway_events::api::{EventWithDeliveries, NewEvent};
use gateway_events::client::api::Api;
use gateway_events::event::EventId;

use super::super::access::ClientOptions;
use super::super::gateway::parse_label;
use super::super::reference::{GatewayRef, event_id};
use super::super::time::parse_seconds;
use super::Selected;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["gateways", "all", "labels"]))]
pub(crate) struct Republish {
    /// The event's id, or the beginning of it
    id: EventId,
    /// For this gateway, by its name or id; may be repeated
    #[arg(long = "gateway", value_name = "GATEWAY")]
    gateways: Vec<GatewayRef>,
    /// For every gateway
    #[arg(long)]
    all: bool,
    /// For every gateway with this label; may be repeated, and then all must match
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Time after which the new event expires, such as 15m or 7d; by default as long as the old one
    /// had
    #[arg(long, value_name = "DURATION", value_parser = parse_seconds)]
    ttl: Option<u64>,
}

pub(crate) async fn run(
    republish: Republish,
    api: &Api,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    let Republish { id, gateways, all, labels, ttl } = republish;
    let id = event_id(&id, api).await?;
    let mut event = copy(&api.event(&id).await?)?;
    event.ttl_seconds = ttl.or(event.ttl_seconds);
    Selected { gateways, all, labels }.select(&mut event, api).await?;
    super::finish_publish(&api.publish(&event).await?, api, client).await
}

/// A new event with the content of an old one, and with its correlation id, by which a gateway that
/// had the old one recognises it.
fn copy(old: &EventWithDeliveries) -> anyhow::Result<NewEvent> {
    if let Some(purged) = &old.purged {
        anyhow::bail!("its payload was purged at {}; there is nothing to publish", purged.at);
    }
    anyhow::ensure!(
        old.attributes.is_none(),
        "it has attributes of a CloudEvent, which this command would lose; publish it again as a CloudEvent (see docs/CLOUDEVENTS.md)"
    );
    let mut event = NewEvent::new(old.event_type.clone(), old.payload.clone());
    event.correlation_id = Some(old.correlation_id.clone());
    event.user_id.clone_from(&old.user_id);
    event.traceparent.clone_from(&old.traceparent);
    if let Some(key) = &old.collapse_key {
        event.collapse_key = Some(key.parse().context("its collapse key can't be used again")?);
    }
    let ttl = old.expires_at.map(|at| at.since(old.appended_at).as_secs());
    event.ttl_seconds = ttl.map(|secs| secs.max(1));
    Ok(event)
}
