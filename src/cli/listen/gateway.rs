//! Connects in place of a gateway, with its key: like deployed gateways, or in reliable mode. Confirmed
//! events count as delivered.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use gateway_events::client::api::Api;
use gateway_events::client::gateway::{
    AckPolicy, Exit, Gateway, GatewayOptions, Handler, Notice, ReceivedEvent,
};
use gateway_events::client::tls;
use gateway_events::client::{CancellationToken, Endpoint};
use gateway_events::clock::Timestamp;
use gateway_events::token::Kind;

use super::super::access::{ClientOptions, secret};
use super::super::confirm::Confirmation;
use super::super::output::{clean, note, say, say_prose, time};
use super::super::time::parse_duration;
use super::{Line, on_one_line, until_interrupted};

mod reliable;

pub(crate) const KEY_VARIABLE: &str = "GATEWAY_EVENTS_KEY";

#[derive(Debug, clap::Args)]
pub(crate) struct AsGatewayArgs {
    /// Connect as a gateway, with its key, and confirm each event: the real gateway will not
    /// receive these events any more
    #[arg(long, conflicts_with = "token_file")]
    pub(super) as_gateway: bool,
    /// File with the gateway's key, `-` for standard input; otherwise GATEWAY_EVENTS_KEY is used
    #[arg(long, value_name = "FILE", requires = "as_gateway", conflicts_with = "gateway")]
    key_file: Option<PathBuf>,
    /// Report deployments as applied (deployment.ack, success)
    #[arg(long, conflicts_with_all = ["fail", "gateway", "reliable"], requires = "as_gateway")]
    ack: bool,
    /// Report deployments as failed with this code, such as GATEWAY_PROCESSING_ERROR
    #[arg(
        long,
        value_name = "CODE",
        requires = "as_gateway",
        conflicts_with_all = ["gateway", "reliable"]
    )]
    fail: Option<String>,
    /// Wait this long before confirming each event
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = parse_duration,
        requires = "as_gateway",
        conflicts_with = "gateway"
    )]
    slow: Option<Duration>,
    #[command(flatten)]
    reliable: reliable::Mode,
    #[command(flatten)]
    confirmation: Confirmation,
}

pub(super) async fn run(args: AsGatewayArgs, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    args.confirmation.require(
        "`listen --as-gateway` connects as the gateway that its key belongs\n\
         to, and confirms every event that it receives. Confirmed events are on record as\n\
         delivered: if the real gateway is away, it never receives them.\n\
         To watch only: gateway-events listen GATEWAY",
        "Connect as the gateway?",
    )?;
    let key =
        secret(Kind::Gateway, args.key_file.as_deref(), KEY_VARIABLE)?.with_context(|| {
            format!("a gateway's key is required: set {KEY_VARIABLE}, or pass a file by --key-file")
        })?;
    let trust = client.trust()?;
    let url = Api::new(&client.address()?, None, &trust)?.base().clone();
    let address = url.origin().ascii_serialization();
    let stop = until_interrupted();
    let printer = Printer {
        address: address.clone(),
        as_json: client.prints_json()?,
        slow: args.slow,
        stop: stop.clone(),
    };
    if args.reliable.is_chosen() {
        let endpoint = Endpoint { base: url, tls: trust.client_config()?, source: None };
        return reliable::run(args.reliable, endpoint, key, printer, stop).await;
    }
    let mut options = GatewayOptions::new(url, key, trust.client_config()?, Arc::new(printer));
    options.ack = match args.fail {
        Some(code) => AckPolicy::Fail(code),
        None if args.ack => AckPolicy::Success,
        None => AckPolicy::Silent,
    };
    match Gateway::new(options).run(stop).await {
        Exit::Cancelled => Ok(ExitCode::SUCCESS),
        Exit::Refused(status) => Err(refused(&address, status)),
    }
}

/// The error after a status after which gateways do not reconnect, from the service at this address.
pub(crate) fn refused(address: &str, status: u16) -> anyhow::Error {
    match status {
        401 => anyhow::anyhow!(
            "{address} refused the connection: the key is not valid, because it is unknown, expired or revoked; create a new one: gateway-events token create --gateway GATEWAY"
        ),
        403 => anyhow::anyhow!(
            "{address} refused the connection: the gateway is disabled; enable it: gateway-events gateway enable GATEWAY"
        ),
        status => anyhow::anyhow!(
            "{address} refused the connection with status {status}, after which gateways do not reconnect; check whether it is the service's address"
        ),
    }
}

/// Prints what the gateway receives.
struct Printer {
    /// The service's address.
    address: String,
    as_json: bool,
    slow: Option<Duration>,
    /// Cancelled when standard output is closed.
    stop: CancellationToken,
}

impl Printer {
    /// Prints an event, and takes as long as the options say.
    async fn print(&self, line: String) {
        let said = if self.as_json { say(line) } else { say_prose(line) };
        if said.is_err() {
            self.stop.cancel();
        }
        if let Some(slow) = self.slow {
            tokio::time::sleep(slow).await;
        }
    }

    fn note_failed(&self, why: &str, wait: Duration) {
        let advice = tls::advice(why).map(|advice| format!("; {advice}"));
        note(format_args!(
            "not connected to {}: {}{}; retrying in {:.1} s",
            self.address,
            clean(why),
            advice.unwrap_or_default(),
            wait.as_secs_f64()
        ));
    }
}

#[async_trait]
impl Handler for Printer {
    async fn handle(&self, event: ReceivedEvent) {
        self.print(if self.as_json { on_one_line(&event.raw) } else { line(&event) }).await;
    }

    async fn notice(&self, notice: Notice) {
        match notice {
            Notice::Connected { connection_id, gateway_id } => note(format_args!(
                "connected as gateway {} (connection {})",
                clean(&gateway_id),
                clean(&connection_id)
            )),
            Notice::Disconnected { why } => {
                note(format_args!("disconnected ({}), reconnecting at once", clean(&why)));
            }
            Notice::Failed { why, wait } => self.note_failed(&why, wait),
            Notice::Refused { status } => note(format_args!("refused with status {status}")),
            Notice::Unreadable { why } => {
                note(format_args!("a frame was not a valid event: {}", clean(&why)));
            }
        }
    }
}

fn line(event: &ReceivedEvent) -> String {
    let line = Line {
        at: Timestamp::parse(&event.timestamp).map_or_else(|_| clean(&event.timestamp), time),
        event_type: &event.event_type,
        sequence: event.sequence,
        correlation_id: &event.correlation_id,
        traceparent: event.traceparent.clone(),
        payload: event.payload.get(),
    };
    line.text()
}
