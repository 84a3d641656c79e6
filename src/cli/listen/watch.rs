//! Watches a gateway's log over the API, with an access token. Watching does not affect deliveries.

use std::process::ExitCode;

use gateway_events::api::LogEntry;
use gateway_events::client::follow::{Followed, Follower};
use gateway_events::event::Sequence;

use super::super::access::ClientOptions;
use super::super::output::{clean, note, say, say_prose, time};
use super::super::reference::GatewayRef;
use super::{Line, on_one_line, until_interrupted};

pub(super) async fn run(
    gateway: &GatewayRef,
    after: Option<i64>,
    client: &ClientOptions,
) -> anyhow::Result<ExitCode> {
    let as_json = client.prints_json()?;
    let api = client.api()?;
    let id = gateway.resolve(&api).await?;
    let stop = until_interrupted();
    let (mut follower, log) = Follower::start(api, id, after.map(Sequence)).await?;
    note(format_args!(
        "watching gateway {} ({id}) after #{}; nothing is confirmed",
        clean(&log.gateway_name),
        after.unwrap_or(log.head.0)
    ));
    if let Some(after) = after.map(Sequence).filter(|after| *after > log.head) {
        note(format_args!("the log ends at #{}; waiting for #{}", log.head, after.next()));
    }
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
            next = follower.next() => next?,
        };
        match next {
            Followed::Entry(entry) if as_json => {
                say(on_one_line(&serde_json::to_string(&entry)?))?;
            }
            Followed::Entry(entry) => say_prose(line(&entry))?,
            Followed::Removed { first, last } => {
                note(format_args!("#{first} to #{last} were removed by retention"));
            }
            Followed::Restarted => {
                note("the log was reset or restored; showing it from its beginning");
            }
            Followed::Unreachable { error, wait } => note(format_args!(
                "{}; retrying in {:.1} s",
                clean(&error.to_string().replace('\n', ";")),
                wait.as_secs_f64()
            )),
        }
    }
}

fn line(entry: &LogEntry) -> String {
    let line = Line {
        at: time(entry.occurred_at),
        event_type: entry.event_type.as_str(),
        sequence: entry.sequence.0,
        correlation_id: entry.correlation_id.as_str(),
        traceparent: entry.traceparent.as_ref().map(ToString::to_string),
        payload: entry.payload.get(),
    };
    line.text()
}
