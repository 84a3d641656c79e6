//! `event`: publish an event, list events, show one with its deliveries, resend it, or purge its
//! payload.

use std::fmt::Write as _;
use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use gateway_events::api::{
    Accepted, Attempt, Delivery, DeliveryState, EventWithDeliveries, NewEvent, Purge, PurgeRequest,
    PurgeResponse, RolloutQuery, Target, Warning,
};
use gateway_events::client::api::Api;
use gateway_events::event::{CollapseKey, CorrelationId, EventId, EventType};
use serde_json::value::RawValue;

use super::access::ClientOptions;
use super::confirm::Confirmation;
use super::delivery;
use super::gateway::{parse_label, unique_labels};
use super::output::{answer, cell, clean, note, optional, time};
use super::reference::{GatewayRef, Names, event_id, resolve_all};
use super::rollout::{self, WaitOptions};
use super::table::table;
use super::time::parse_ttl;

mod list;
mod republish;
mod resend;
mod summary;

pub(crate) use list::target;

/// The exit code of `event publish` if no gateway matches the target.
const NO_GATEWAY_MATCHED: u8 = 3;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Publish an event; exits with 3 if it is stored but no gateway matches its target, and with 1
    /// if the quorum of --wait is not reached
    Publish(Publish),
    /// List events, newest first (by default of the last 24 hours)
    List(list::List),
    /// Count published events over time
    Summary(summary::Count),
    /// Deliver existing events to more gateways, with the same ids and new sequences
    Resend(resend::Resend),
    /// Publish an event again as a new event with another id, for example if the first one has expired
    Republish(republish::Republish),
    /// Show an event and its state at every gateway
    Show {
        /// The event's id, or the beginning of it
        id: EventId,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Remove an event's payload permanently; the event and its deliveries stay on record
    Purge {
        /// The event's id, or the beginning of it
        id: EventId,
        /// The reason; recorded with the event
        #[arg(long)]
        reason: String,
        /// Validate the request without changing anything
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        confirmation: Confirmation,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["gateways", "all", "labels"]))]
pub(crate) struct Publish {
    /// The event type, such as api.deployed
    event_type: EventType,
    /// The payload, a JSON object: the text itself, @FILE, or - for standard input
    payload: String,
    /// Publish it for this gateway, by its name or id; may be repeated
    #[arg(long = "gateway", value_name = "GATEWAY")]
    gateways: Vec<GatewayRef>,
    /// Publish it for every gateway
    #[arg(long)]
    all: bool,
    /// Publish it for every gateway with this label; if repeated, all labels must match
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// The event's id; publishing the same event with the same id again does nothing
    #[arg(long)]
    id: Option<EventId>,
    /// The correlation id, by which gateways recognise repeats; by default the event's id
    #[arg(long)]
    correlation_id: Option<CorrelationId>,
    /// The user on whose behalf it is published
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Time after which it expires, and is not delivered any more, such as 15m or 7d; by default
    /// that of its type
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl)]
    ttl: Option<u64>,
    /// The collapse key: a gateway that was disconnected receives only the newest of the events with the
    /// same type and key
    #[arg(long, value_name = "KEY")]
    collapse_key: Option<CollapseKey>,
    #[command(flatten)]
    wait: WaitOptions,
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let api = client.api()?;
    match command {
        Command::Publish(publish) => {
            let wait = publish.wait;
            let event = publish.event(&api).await?;
            rollout::check(wait, &event, &api).await?;
            let accepted = api.publish(&event).await?;
            if wait.level().is_some() && !accepted.deliveries.is_empty() {
                if !client.json {
                    note(format_args!("event {} is stored", accepted.id));
                }
                let query = RolloutQuery { event_id: Some(accepted.id), ..Default::default() };
                let rollout = rollout::waited(&api, &query, wait).await?;
                return rollout::conclude(&rollout, wait, client.json);
            }
            finish_publish(&accepted, &api, client).await
        }
        Command::Republish(republish) => republish::run(republish, &api, client).await,
        Command::List(list) => list::run(list, &api, client).await,
        Command::Summary(count) => summary::run(count, &api, client).await,
        Command::Resend(resend) => resend::run(resend, &api, client).await,
        Command::Show { id, wait } if wait.level().is_some() => {
            let id = event_id(&id, &api).await?;
            let query = RolloutQuery { event_id: Some(id.clone()), ..Default::default() };
            let rollout = rollout::waited(&api, &query, wait).await?;
            let mut event = api.event(&id).await?;
            event.rollout = Some(rollout.rollout.clone());
            answer(client.json, &event, shown)?;
            Ok(rollout::exit_code(&rollout))
        }
        Command::Show { id, wait: _ } => {
            let id = event_id(&id, &api).await?;
            answer(client.json, &api.event(&id).await?, shown)
        }
        Command::Purge { id, reason, dry_run, confirmation } => {
            let id = event_id(&id, &api).await?;
            if !dry_run {
                confirmation.require(
                    format_args!(
                        "The payload of event {id} will be removed permanently, and gateways that have not received it never will."
                    ),
                    "Purge it?",
                )?;
            }
            let done = api.purge_payload(&id, &PurgeRequest { reason, dry_run }).await?;
            answer(client.json, &done, purged)
        }
    }
}

/// Prints what was accepted.
async fn finish_publish(
    accepted: &Accepted,
    api: &Api,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    let ids = accepted.deliveries.iter().map(|delivery| delivery.gateway_id);
    let names = Names::of(ids.filter(|_| !client.json), api).await;
    answer(client.json, accepted, |accepted| {
        let rows = accepted
            .deliveries
            .iter()
            .map(|delivery| [names.cell(delivery.gateway_id), cell(delivery.sequence)]);
        let rows = table(["gateway", "sequence"], rows, "no deliveries");
        format!("event {} is stored\n\n{rows}", accepted.id)
    })?;
    for warning in &accepted.warnings {
        note(format_args!("warning: {}", clean(&warning.message)));
    }
    let mut warnings = accepted.warnings.iter();
    let is_unmatched = warnings.any(|it| it.code == Warning::NO_GATEWAYS_MATCHED);
    Ok(if is_unmatched { ExitCode::from(NO_GATEWAY_MATCHED) } else { ExitCode::SUCCESS })
}

/// The gateways that a new event is for, as the options name them.
struct Selected {
    gateways: Vec<GatewayRef>,
    all: bool,
    labels: Vec<(String, String)>,
}

impl Selected {
    async fn select(self, event: &mut NewEvent, api: &Api) -> anyhow::Result<()> {
        event.gateway_ids =
            Some(resolve_all(&self.gateways, api).await?).filter(|ids| !ids.is_empty());
        if self.all {
            event.target = Some(Target { all: Some(true), ..Target::default() });
        } else if !self.labels.is_empty() {
            let labels = Some(unique_labels(self.labels)?);
            event.target = Some(Target { labels, ..Target::default() });
        }
        Ok(())
    }
}

impl Publish {
    async fn event(self, api: &Api) -> anyhow::Result<NewEvent> {
        let payload = payload(&self.payload)?;
        let mut event = NewEvent::new(self.event_type, payload);
        let Self { gateways, all, labels, .. } = self;
        Selected { gateways, all, labels }.select(&mut event, api).await?;
        let (id, correlation_id, user_id) = (self.id, self.correlation_id, self.user);
        Ok(NewEvent {
            id,
            correlation_id,
            user_id,
            ttl_seconds: self.ttl,
            collapse_key: self.collapse_key,
            ..event
        })
    }
}

fn payload(argument: &str) -> anyhow::Result<Box<RawValue>> {
    let text = payload_text(argument)?;
    serde_json::from_str(text.trim()).context("the payload is not JSON")
}

/// The text of a payload: the argument itself, of the file after `@`, or of standard input.
pub(crate) fn payload_text(argument: &str) -> anyhow::Result<String> {
    Ok(match argument.strip_prefix('@') {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("failed to read {path}"))?
        }
        None if argument == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("failed to read standard input")?;
            text
        }
        None => argument.to_owned(),
    })
}

/// What `event purge` prints.
fn purged(done: &PurgeResponse) -> String {
    let id = &done.event_id;
    let deliveries = match done.given_up {
        0 => "no delivery is pending".to_owned(),
        1 => "1 pending delivery is given up".to_owned(),
        count => format!("{count} pending deliveries are given up"),
    };
    match (done.changed, done.dry_run) {
        (true, true) => format!("the payload of event {id} would be purged; {deliveries}"),
        (true, false) => format!("the payload of event {id} is purged; {deliveries}"),
        (false, _) => format!("the payload of event {id} was {}", purge(&done.purged)),
    }
}

fn purge(purge: &Purge) -> String {
    let (by, reason) = (cell(&purge.by), cell(&purge.reason));
    format!("purged by {by} at {}: {reason}", time(purge.at))
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
        "event        {}\nstatus       {}\ntype         {}\ncorrelation  {}\nuser         {}\nstored       {}\nfor          {}\n",
        event.id,
        clean(&event.verdict.summary),
        event.event_type,
        event.correlation_id,
        optional(event.user_id.as_ref()),
        time(event.appended_at),
        list::target(event.target.as_ref(), event.gateway_count, |id| {
            let of = event.deliveries.iter().find(|delivery| delivery.gateway_id == id);
            of.map_or_else(|| cell(id), |delivery| cell(&delivery.gateway_name))
        }),
    );
    if let Some(key) = &event.collapse_key {
        _ = writeln!(text, "collapse key {}", cell(key));
    }
    if let Some(traceparent) = &event.traceparent {
        _ = writeln!(text, "traceparent  {traceparent}");
    }
    let payload = event.purged.as_ref().map_or_else(|| cell(&event.payload), purge);
    _ = write!(text, "payload      {payload}\n\n{deliveries}");
    text
}

/// The state of a delivery, and whether retention has trimmed it from the log.
fn state(delivery: &Delivery) -> String {
    let mut state = delivery.state.as_str().to_owned();
    if let Some(newer) = delivery.superseded_by
        && delivery.state == DeliveryState::Superseded
    {
        _ = write!(state, " by {newer}");
    }
    if delivery.trimmed {
        state.push_str(", trimmed");
    }
    state
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
