//! `gateway replay`: append part of a gateway's log again.

use gateway_events::command::number::whole;
use std::process::ExitCode;

use clap::{ArgGroup, Args};
use gateway_events::api::{ReplayRequest, Replayed};
use gateway_events::client::api::Api;
use gateway_events::clock::Timestamp;
use gateway_events::event::Sequence;

use super::super::access::ClientOptions;
use super::super::confirm::Confirmation;
use super::super::job::{self, Wait};
use super::super::output::{answer, clean};
use super::super::reference::GatewayRef;
use super::super::time::parse_instant;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("start").required(true).args(["from_sequence", "from"]))]
pub(crate) struct Replay {
    /// The gateway's name or id
    gateway: GatewayRef,
    /// From this sequence on
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole::<i64>(..))]
    from_sequence: Option<i64>,
    /// Up to this sequence; by default the head of the log
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole::<i64>(..), conflicts_with = "from")]
    to_sequence: Option<i64>,
    /// Appended from this time on: RFC 3339, or how long ago, like 2h or "15m ago"
    #[arg(long, visible_alias = "since", allow_hyphen_values = true, value_parser = parse_instant)]
    from: Option<Timestamp>,
    /// Appended before this time; by default now
    #[arg(long, allow_hyphen_values = true, value_parser = parse_instant, conflicts_with = "from_sequence")]
    to: Option<Timestamp>,
    /// Only report what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(crate) async fn run(
    replay: Replay,
    api: &Api,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    let gateway = api.gateway(replay.gateway.resolve(api).await?).await?;
    let request = ReplayRequest {
        from_sequence: replay.from_sequence.map(Sequence),
        to_sequence: replay.to_sequence.map(Sequence),
        from: replay.from,
        to: replay.to,
        dry_run: true,
    };
    let would = api.replay(gateway.id, &request).await?;
    if replay.dry_run {
        return answer(client.json, &would, |would| {
            format!("{}\nThis was a dry run: nothing was changed.", shown(would, "would be"))
        });
    }
    let (Some(first), Some(last)) = (would.from_sequence, would.to_sequence) else {
        return answer(client.json, &would, |would| shown(would, "were"));
    };
    if would.replayed > 0 {
        let consequences = format!(
            "Gateway {} gets {} events again, those that it has received included.",
            clean(&gateway.name),
            would.replayed
        );
        replay.confirmation.require(consequences, "Replay them?")?;
    }
    // What was confirmed, whatever has been appended since.
    let request = ReplayRequest {
        from_sequence: Some(first),
        to_sequence: Some(last),
        ..ReplayRequest::default()
    };
    let mut done = api.replay(gateway.id, &request).await?;
    match done.job.take() {
        Some(started) => job::answer(started, replay.wait, api, client).await,
        None => answer(client.json, &done, |done| shown(done, "were")),
    }
}

fn shown(replayed: &Replayed, verb: &str) -> String {
    let (Some(first), Some(last)) = (replayed.from_sequence, replayed.to_sequence) else {
        return "the log has nothing in this window".to_owned();
    };
    let mut lines = vec![format!(
        "{} of the sequences {first} to {last} {verb} appended again",
        replayed.replayed
    )];
    if let (Some(first), Some(last)) = (replayed.first_new_sequence, replayed.last_new_sequence) {
        lines.push(format!("their new sequences are {first} to {last}"));
    }
    for (count, why) in [
        (replayed.repeated, "the event occurs again later in the range"),
        (replayed.event_removed, "removed by retention; publish them again"),
        (replayed.payload_purged, "their payloads were purged"),
        (replayed.expired, "expired; publish them again if they are still valid"),
    ] {
        if count > 0 {
            lines.push(format!("{count} skipped: {why}"));
        }
    }
    lines.join("\n")
}
