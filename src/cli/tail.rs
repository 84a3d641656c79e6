//! `tail`: prints what happens, as it happens, on all nodes.

use std::process::ExitCode;

use clap::ValueEnum;
use gateway_events::api::{
    ConnectionChange, FeedAttempt, FeedConnection, FeedGap, FeedGapReason, FeedKind, FeedMessage,
    FeedPublished, FeedQuery, Outcome,
};
use gateway_events::client::feed::{FeedFollower, FeedItem};
use gateway_events::event::EventType;
use serde_json::json;

use super::access::ClientOptions;
use super::colour;
use super::formats::escaped;
use super::listen::until_interrupted;
use super::output::{clean, note, say, say_prose, time};
use super::reference::{GatewayRef, resolve_all};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these kinds of messages; may be repeated
    #[arg(long = "kind", value_enum, value_name = "KIND")]
    kinds: Vec<Kind>,
    /// Only about this event type; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<EventType>,
    /// Only about this gateway, by its name or id; may be repeated
    #[arg(long = "gateway", value_name = "GATEWAY")]
    gateways: Vec<GatewayRef>,
    /// Only attempts with this outcome; may be repeated
    #[arg(long = "outcome", value_enum, value_name = "OUTCOME")]
    outcomes: Vec<OutcomeName>,
    /// Only failed attempts
    #[arg(long, conflicts_with = "outcomes")]
    failed: bool,
    /// Continue after the message with this id, which --json shows
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// Events that are published
    Published,
    /// Attempts to deliver, with their outcomes
    Attempt,
    /// Connections that are opened and closed
    Connection,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OutcomeName {
    Received,
    Applied,
    Failed,
    Filtered,
    Snapshot,
    Superseded,
    Unknown,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let as_json = args.client.prints_json()?;
    let api = args.client.api()?;
    let gateways = resolve_all(&args.gateways, &api).await?;
    let outcomes = args.outcomes.iter().map(|outcome| match outcome {
        OutcomeName::Received => Outcome::Received,
        OutcomeName::Applied => Outcome::Applied,
        OutcomeName::Failed => Outcome::Failed,
        OutcomeName::Filtered => Outcome::Filtered,
        OutcomeName::Snapshot => Outcome::Snapshot,
        OutcomeName::Superseded => Outcome::Superseded,
        OutcomeName::Unknown => Outcome::Unknown,
    });
    let kinds = args.kinds.iter().map(|kind| match kind {
        Kind::Published => FeedKind::Published,
        Kind::Attempt => FeedKind::Attempt,
        Kind::Connection => FeedKind::Connection,
    });
    let query = FeedQuery {
        types: kinds.collect(),
        gateway_id: gateways,
        event_type: args.types,
        outcome: if args.failed { vec![Outcome::Failed] } else { outcomes.collect() },
    };
    let stop = until_interrupted();
    let mut follower = FeedFollower::new(api, query, args.after);
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
            next = follower.next() => next?,
        };
        match next {
            FeedItem::Connected => note("following the feed; Ctrl-C ends it"),
            FeedItem::Message { id, message } if as_json => {
                let mut shown = serde_json::to_value(&message)?;
                shown["id"] = json!(id);
                say(escaped(&shown.to_string()))?;
                if let FeedMessage::Gap(gap) = &*message {
                    note(missing(gap));
                }
            }
            FeedItem::Message { message, .. } => match *message {
                FeedMessage::Published(event) => say_prose(published(&event))?,
                FeedMessage::Attempt(it) => say_prose(attempt(&it))?,
                FeedMessage::Connection(change) => say_prose(connection(&change))?,
                FeedMessage::Gap(gap) => note(missing(&gap)),
                FeedMessage::End(_) => {}
            },
            FeedItem::Disconnected { why, wait } => note(format_args!(
                "{}; connecting again in {:.1} s",
                clean(&why.lines().map(str::trim).collect::<Vec<_>>().join("; ")),
                wait.as_secs_f64()
            )),
        }
    }
}

fn published(event: &FeedPublished) -> String {
    let gateways = match event.gateway_count {
        1 => "1 gateway".to_owned(),
        count => format!("{count} gateways"),
    };
    let user = event.user_id.as_ref().map(|user| format!("  by {user}")).unwrap_or_default();
    format!(
        "{}  {}  {}",
        time(event.at),
        colour::state("published"),
        clean(&format!(
            "{}  {}  for {gateways}  correlation {}{user}",
            event.event_type, event.event_id, event.correlation_id
        ))
    )
}

fn attempt(attempt: &FeedAttempt) -> String {
    let sequences = if attempt.first_sequence == attempt.last_sequence {
        format!("#{}", attempt.first_sequence)
    } else {
        format!("#{} to #{}", attempt.first_sequence, attempt.last_sequence)
    };
    let more = [
        attempt.reason.map(|reason| reason.to_string()),
        attempt.detail.as_ref().map(|detail| format!("({detail})")),
        attempt.event_type.as_ref().map(ToString::to_string),
        attempt.event_id.as_ref().map(ToString::to_string),
    ];
    let more: Vec<String> = more.into_iter().flatten().collect();
    let outcome = attempt.outcome.as_str();
    format!(
        "{}  {}{}  {}",
        time(attempt.at),
        colour::state(outcome),
        " ".repeat("published".len().saturating_sub(outcome.len())),
        clean(format!("{}  {sequences}  {}", attempt.gateway_name, more.join("  ")).trim_end())
    )
}

fn connection(change: &FeedConnection) -> String {
    let word = match change.change {
        ConnectionChange::Opened => "opened",
        ConnectionChange::Closed => "closed",
    };
    let more = [
        change.reason.map(|reason| reason.to_string()),
        change.transport.clone(),
        change.remote_address.as_ref().map(|address| format!("from {address}")),
        Some(format!("connection {}", change.connection_id)),
    ];
    let more: Vec<String> = more.into_iter().flatten().collect();
    format!(
        "{}  {}     {}",
        time(change.at),
        colour::state(word),
        clean(&format!("{}  {}", change.gateway_name, more.join("  ")))
    )
}

/// What is missing, and how to list it.
fn missing(gap: &FeedGap) -> String {
    let why = match gap.reason {
        FeedGapReason::Lagged => "messages arrived faster than they were read",
        FeedGapReason::TooFarBehind => "too much has happened since the last message",
        FeedGapReason::UnknownId => "the last message is not one of this service's feed",
    };
    let from = gap.from.map(|from| format!(" from {}", time(from))).unwrap_or_default();
    let window = gap.from.map(|from| format!(" --from {from}")).unwrap_or_default();
    let window = format!("{window} --to {}", gap.to);
    format!(
        "gap: {why}; messages{from} until {} are missing; list them with:\n  gateway-events event list{window}\n  gateway-events delivery failed{window}\n  gateway-events gateway connections --all",
        time(gap.to),
    )
}
