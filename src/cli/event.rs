//! `event`: publish an event, list events, or show one with its deliveries.

use std::fmt::Write as _;
use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use gateway_events::api::{Attempt, Delivery, EventWithDeliveries, NewEvent, Target, Warning};
use gateway_events::client::api::Api;
use gateway_events::event::{CorrelationId, EventId, EventType};
use serde_json::value::RawValue;

use super::access::ClientOptions;
use super::delivery;
use super::gateway::{parse_label, unique_labels};
use super::output::{answer, cell, clean, optional, remark, time};
use super::reference::{GatewayRef, Names, resolve_all};
use super::table::table;

mod list;

/// The exit code of `event publish` if no gateway matches the target.
const NO_GATEWAY_MATCHED: u8 = 3;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish an event; exits with 3 if it is stored but no gateway matches its target
    Publish(Publish),
    /// List events, newest first (by default of the last 24 hours)
    List(list::List),
    /// Show an event and its state at every gateway
    Show {
        /// The event's id
        id: EventId,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["gateways", "all", "labels"]))]
pub(crate) struct Publish {
    /// The event type, such as api.deployed
    event_type: EventType,
    /// The payload, a JSON object: the text itself, @FILE, or - for standard input
    payload: String,
    /// For this gateway, by its name or id; may be repeated
    #[arg(long = "gateway", value_name = "GATEWAY")]
    gateways: Vec<GatewayRef>,
    /// For every gateway
    #[arg(long)]
    all: bool,
    /// For every gateway with this label; may be repeated, and then all must match
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// The event's id; publishing the same event with the same id again does nothing
    #[arg(long)]
    id: Option<EventId>,
    /// The correlation id, by which gateways recognise repeats; by default the event's id
    #[arg(long)]
    correlation_id: Option<CorrelationId>,
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let api = client.api()?;
    match command {
        Command::Publish(publish) => {
            let accepted = api.publish(&publish.event(&api).await?).await?;
            let ids = accepted.deliveries.iter().map(|delivery| delivery.gateway_id);
            let names = Names::of(ids.filter(|_| !client.json), &api).await;
            answer(client.json, &accepted, |accepted| {
                let rows = accepted
                    .deliveries
                    .iter()
                    .map(|delivery| [names.cell(delivery.gateway_id), cell(delivery.sequence)]);
                let rows = table(["gateway", "sequence"], rows, "no deliveries");
                format!("event {} is stored\n\n{rows}", accepted.id)
            })?;
            for warning in &accepted.warnings {
                remark(format_args!("warning: {}", clean(&warning.message)));
            }
            let mut warnings = accepted.warnings.iter();
            let is_unmatched = warnings.any(|it| it.code == Warning::NO_GATEWAYS_MATCHED);
            Ok(if is_unmatched { ExitCode::from(NO_GATEWAY_MATCHED) } else { ExitCode::SUCCESS })
        }
        Command::List(list) => list::run(list, &api, client).await,
        Command::Show { id } => answer(client.json, &api.event(&id).await?, shown),
    }
}

impl Publish {
    async fn event(self, api: &Api) -> anyhow::Result<NewEvent> {
        let payload = payload(&self.payload)?;
        let mut event = NewEvent::new(self.event_type, payload);
        event.gateway_ids =
            Some(resolve_all(&self.gateways, api).await?).filter(|ids| !ids.is_empty());
        if self.all {
            event.target = Some(Target { all: Some(true), ..Target::default() });
        } else if !self.labels.is_empty() {
            let labels = Some(unique_labels(self.labels)?);
            event.target = Some(Target { labels, ..Target::default() });
        }
        Ok(NewEvent { id: self.id, correlation_id: self.correlation_id, ..event })
    }
}

fn payload(argument: &str) -> anyhow::Result<Box<RawValue>> {
    let text = match argument.strip_prefix('@') {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("failed to read {path}"))?
        }
        None if argument == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("failed to read standard input")?;
            text
        }
        None => argument.to_owned(),
    };
    serde_json::from_str(text.trim()).context("the payload is not JSON")
}

fn shown(event: &EventWithDeliveries) -> String {
    let rows = event.deliveries.iter().map(|delivery| {
        [
            cell(&delivery.gateway_name),
            cell(delivery.sequence),
            state(delivery),
            cell(delivery.failures),
            delivery::reason(delivery),
            attempts(&delivery.attempts),
        ]
    });
    let deliveries = table(
        ["gateway", "sequence", "state", "failures", "last reason", "attempts"],
        rows,
        "the event was for no gateway",
    );
    let mut text = format!(
        "event        {}\ntype         {}\ncorrelation  {}\nuser         {}\nstored       {}\nfor          {}\n",
        event.id,
        event.event_type,
        event.correlation_id,
        optional(event.user_id.as_ref()),
        time(event.appended_at),
        list::target(event.target.as_ref(), event.gateway_count, |id| {
            let of = event.deliveries.iter().find(|delivery| delivery.gateway_id == id);
            of.map_or_else(|| cell(id), |delivery| cell(&delivery.gateway_name))
        }),
    );
    if let Some(traceparent) = &event.traceparent {
        _ = writeln!(text, "traceparent  {traceparent}");
    }
    _ = write!(text, "payload      {}\n\n{deliveries}", cell(&event.payload));
    text
}

/// The state of a delivery, and whether retention has trimmed it from the log.
fn state(delivery: &Delivery) -> String {
    let state = delivery.state.as_str();
    if delivery.trimmed { format!("{state}, trimmed") } else { state.to_owned() }
}

/// The outcomes of the attempts, oldest first.
fn attempts(attempts: &[Attempt]) -> String {
    let shown: Vec<String> = attempts
        .iter()
        .map(|attempt| match delivery::attempt_reason(attempt) {
            Some(reason) => format!("{}: {reason}", attempt.outcome.as_str()),
            None => attempt.outcome.as_str().to_owned(),
        })
        .collect();
    cell(shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_keeps_its_bytes() {
        let kept = payload(" {\"b\":1.10, \"a\":1} ").map(|payload| payload.get().to_owned());
        assert_eq!(kept.ok().as_deref(), Some("{\"b\":1.10, \"a\":1}"));
        assert!(payload("{").is_err());
    }
}
