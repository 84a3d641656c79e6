//! `event republish`: publish an event again, as a new one.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgGroup, Args};
use gateway_events::api::{EventWithDeliveries, Labels, NewEvent};
use gateway_events::client::api::Api;
use gateway_events::cloud_event::Attributes;
use gateway_events::event::{CollapseKey, CorrelationId, EventId, EventType};
use gateway_events::trace_context::TraceParent;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::super::access::ClientOptions;
use super::super::gateway::parse_label;
use super::super::reference::{GatewayRef, event_id};
use super::super::time::parse_ttl;
use super::Selected;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["gateways", "all", "labels"]))]
pub(crate) struct Republish {
    /// The event's id, or the beginning of it
    id: EventId,
    /// Publish it for this gateway, by its name or id; may be repeated
    #[arg(long = "gateway", value_name = "GATEWAY")]
    gateways: Vec<GatewayRef>,
    /// Publish it for every gateway
    #[arg(long)]
    all: bool,
    /// Publish it for every gateway with this label; if repeated, all labels must match
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Time after which the new event expires, such as 15m or 7d; by default the time that the old one
    /// had
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl)]
    ttl: Option<u64>,
}

pub(crate) async fn run(
    republish: Republish,
    api: &Api,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    let Republish { id, gateways, all, labels, ttl } = republish;
    let id = event_id(&id, api).await?;
    let old = api.event(&id).await?;
    let mut event = copy(&old)?;
    event.ttl_seconds = ttl.or(event.ttl_seconds);
    Selected { gateways, all, labels }.select(&mut event, api).await?;
    let accepted = match &old.attributes {
        Some(attributes) => api.publish_cloud_event(&CloudEvent::new(&event, attributes)?).await?,
        None => api.publish(&event).await?,
    };
    super::finish_publish(&accepted, api, client).await
}

/// A new event with the content of an old one, and with its correlation id, by which a gateway that
/// had the old one recognises it.
fn copy(old: &EventWithDeliveries) -> anyhow::Result<NewEvent> {
    if let Some(purged) = &old.purged {
        anyhow::bail!("its payload was purged at {}; there is nothing to publish", purged.at);
    }
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

/// A CloudEvent in the JSON format, with the attributes of an old one.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: EventId,
    #[serde(rename = "type")]
    event_type: &'a EventType,
    #[serde(flatten)]
    kept: &'a Attributes,
    #[serde(skip_serializing_if = "Option::is_none")]
    gatewayids: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    targetlabels: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    targetall: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlationid: Option<&'a CorrelationId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    userid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a TraceParent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    collapsekey: Option<&'a CollapseKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttlseconds: Option<u64>,
    data: &'a RawValue,
}

impl<'a> CloudEvent<'a> {
    fn new(event: &'a NewEvent, kept: &'a Attributes) -> anyhow::Result<Self> {
        let target = event.target.as_ref();
        let labels = target.and_then(|target| target.labels.as_ref()).map(labels).transpose()?;
        let gateways = event
            .gateway_ids
            .as_ref()
            .map(|ids| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
        Ok(Self {
            specversion: "1.0",
            id: EventId::new(Uuid::now_v7().to_string())?,
            event_type: &event.event_type,
            kept,
            gatewayids: gateways,
            targetlabels: labels,
            targetall: target.and_then(|target| target.all),
            correlationid: event.correlation_id.as_ref(),
            userid: event.user_id.as_deref(),
            traceparent: event.traceparent.as_ref(),
            collapsekey: event.collapse_key.as_ref(),
            ttlseconds: event.ttl_seconds,
            data: &event.payload,
        })
    }
}

/// Labels as an attribute, which has no way to write a comma in a value.
fn labels(labels: &Labels) -> anyhow::Result<String> {
    let comma = labels.iter().find(|(_, value)| value.contains(','));
    if let Some((name, _)) = comma {
        anyhow::bail!(
            "the label {name} has a comma in its value, which a CloudEvent can't name; use --gateway"
        );
    }
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(pairs.join(","))
}
