//! `listen`: shows a gateway's events as they arrive. By default it only reads the log; with
//! `--as-gateway` it connects in place of the gateway.

use gateway_events::command::number::whole;
use std::process::ExitCode;

use gateway_events::client::CancellationToken;

use super::access::ClientOptions;
use super::formats::escaped;
use super::interrupt;
use super::output::clean;
use super::reference::GatewayRef;

pub(super) mod gateway;
mod watch;

/// The maximum number of characters of a payload on a line.
const SHOWN_PAYLOAD: usize = 96;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The gateway to watch, by its name or id: shows its events as they are appended to its log,
    /// without confirming anything
    #[arg(required_unless_present = "as_gateway", conflicts_with = "as_gateway")]
    gateway: Option<GatewayRef>,
    /// Start after this sequence of the log instead of at its current end
    #[arg(
        long,
        value_name = "SEQUENCE",
        conflicts_with = "as_gateway",
        value_parser = whole(0_i64..=9_007_199_254_740_991)
    )]
    after: Option<i64>,
    #[command(flatten)]
    connection: gateway::AsGatewayArgs,
    #[command(flatten)]
    client: ClientOptions,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = &args.client;
    match args.gateway {
        Some(gateway) if !args.connection.as_gateway => {
            watch::run(&gateway, args.after, client).await
        }
        _ => gateway::run(args.connection, client).await,
    }
}

/// Cancelled by SIGINT, SIGTERM or SIGHUP.
pub(super) fn until_interrupted() -> CancellationToken {
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    tokio::spawn(async move {
        interrupt::interrupted().await;
        interrupted.cancel();
    });
    stop
}

/// An event as a line of text.
struct Line<'a> {
    at: String,
    event_type: &'a str,
    sequence: i64,
    correlation_id: &'a str,
    traceparent: Option<String>,
    payload: &'a str,
}

impl Line<'_> {
    fn text(&self) -> String {
        let payload: String = self.payload.chars().take(SHOWN_PAYLOAD).collect();
        let rest = if payload.len() < self.payload.len() { "…" } else { "" };
        let trace =
            self.traceparent.as_ref().map(|it| format!("traceparent {it}  ")).unwrap_or_default();
        clean(&format!(
            "{}  {}  #{}  {}  {trace}{payload}{rest}",
            self.at, self.event_type, self.sequence, self.correlation_id
        ))
    }
}

/// Replaces line breaks between the tokens of JSON by spaces: its strings contain none. Control and
/// format characters in strings are escaped.
fn on_one_line(json: &str) -> String {
    escaped(&json.replace(['\n', '\r', '\t'], " "))
}
