//! `event`: publish one, and ask where it is.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use gateway_events::client::api::Api;
use gateway_events::event::{CorrelationId, EventId, EventType, GatewayId};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::access::ClientOptions;
use super::gateway::{parse_label, to_json};
use super::output::{answer, cell, elements, remark, time};
use super::reference::{GatewayRef, resolve_all};
use super::table::table;

/// The exit code of `event publish` if no gateway matches the target.
const NO_GATEWAY_MATCHED: u8 = 3;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish an event; exits with 3 if it is stored but no gateway matches its target
    Publish(Publish),
    /// Show an event and its state at every gateway
    Show {
        /// Which
        id: EventId,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["gateways", "all", "labels"]))]
pub(crate) struct Publish {
    /// Its type, such as api.deployed
    event_type: EventType,
    /// Its payload, a JSON object: the text itself, @FILE, or - for standard input
    payload: String,
    /// For this gateway, by its name or id; may be repeated
    #[arg(long = "gateway", value_name = "GATEWAY")]
    gateways: Vec<GatewayRef>,
    /// For every gateway
    #[arg(long)]
    all: bool,
    /// For every gateway with this label; several must all fit
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Its id: publishing the same one again does nothing
    #[arg(long)]
    id: Option<EventId>,
    /// What gateways use as its key; the event's id if left out
    #[arg(long)]
    correlation_id: Option<CorrelationId>,
}

/// The body: the payload stays as it was written, byte for byte.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    #[serde(rename = "type")]
    event_type: EventType,
    payload: Box<RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gateway_ids: Vec<GatewayId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<CorrelationId>,
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let api = client.api()?;
    match command {
        Command::Publish(publish) => {
            let accepted = api.post("/events", &publish.body(&api).await?).await?;
            answer(client.json, &accepted, |accepted| {
                let rows = elements(&accepted["deliveries"])
                    .iter()
                    .map(|delivery| [cell(&delivery["gatewayId"]), cell(&delivery["sequence"])]);
                let rows = table(["gateway", "sequence"], rows, "no deliveries");
                format!("event {} is stored\n\n{rows}", cell(&accepted["id"]))
            })?;
            let warnings = elements(&accepted["warnings"]);
            for warning in warnings {
                remark(format_args!("warning: {}", cell(&warning["message"])));
            }
            let is_unmatched = warnings.iter().any(|it| it["code"] == "no_gateways_matched");
            Ok(if is_unmatched { ExitCode::from(NO_GATEWAY_MATCHED) } else { ExitCode::SUCCESS })
        }
        Command::Show { id } => {
            let event = api.get(&format!("/events/{}", encoded(id.as_str()))).await?;
            answer(client.json, &event, shown)
        }
    }
}

impl Publish {
    async fn body(self, api: &Api) -> anyhow::Result<Body> {
        let target = if self.all {
            Some(json!({ "all": true }))
        } else if self.labels.is_empty() {
            None
        } else {
            Some(json!({ "labels": to_json(self.labels) }))
        };
        Ok(Body {
            event_type: self.event_type,
            payload: payload(&self.payload)?,
            gateway_ids: resolve_all(&self.gateways, api).await?,
            target,
            id: self.id,
            correlation_id: self.correlation_id,
        })
    }
}

fn payload(argument: &str) -> anyhow::Result<Box<RawValue>> {
    let text = match argument.strip_prefix('@') {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("{path} can't be read"))?
        }
        None if argument == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input can't be read")?;
            text
        }
        None => argument.to_owned(),
    };
    serde_json::from_str(text.trim()).context("the payload is no JSON")
}

/// An id as a part of a path.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn shown(event: &Value) -> String {
    let rows = elements(&event["deliveries"]).iter().map(|delivery| {
        [
            cell(&delivery["gatewayName"]),
            cell(&delivery["sequence"]),
            state(delivery),
            cell(&delivery["failures"]),
            cell(&delivery["reason"]),
            attempts(&delivery["attempts"]),
        ]
    });
    let deliveries = table(
        ["gateway", "sequence", "state", "failures", "last reason", "attempts"],
        rows,
        "it was for no gateway",
    );
    format!(
        "event        {}\ntype         {}\ncorrelation  {}\nstored       {}\npayload      {}\n\n{deliveries}",
        cell(&event["id"]),
        cell(&event["type"]),
        cell(&event["correlationId"]),
        time(&event["appendedAt"]),
        cell(&event["payload"]),
    )
}

/// Where a delivery stands, and whether retention has trimmed it from the log.
fn state(delivery: &Value) -> String {
    let state = cell(&delivery["state"]);
    if delivery["trimmed"] == true { format!("{state}, trimmed") } else { state }
}

/// Attempts, oldest first, in a word each.
fn attempts(attempts: &Value) -> String {
    let shown: Vec<String> = elements(attempts)
        .iter()
        .map(|attempt| match attempt["reason"].as_str() {
            Some(reason) => format!("{} ({reason})", cell(&attempt["outcome"])),
            None => cell(&attempt["outcome"]),
        })
        .collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_can_stand_in_a_path() {
        assert_eq!(encoded("a/b?c%d"), "a%2Fb%3Fc%25d");
    }

    #[test]
    fn a_payload_keeps_its_bytes() {
        let kept = payload(" {\"b\":1.10, \"a\":1} ").map(|payload| payload.get().to_owned());
        assert_eq!(kept.ok().as_deref(), Some("{\"b\":1.10, \"a\":1}"));
        assert!(payload("{").is_err());
    }
}
