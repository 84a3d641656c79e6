//! `listen`: a gateway for people. It behaves as the ones in the field do,
//! so that what is seen here is what they see.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use gateway_events::client::CancellationToken;
use gateway_events::client::api::Api;
use gateway_events::client::gateway::{
    AckPolicy, Exit, Gateway, GatewayOptions, Handler, Notice, ReceivedEvent,
};
use gateway_events::client::tls;

use super::access::{ClientOptions, secret};
use super::interrupt;
use super::output::{clean, remark, say, time};
use super::time::parse_duration;

const KEY_VARIABLE: &str = "GATEWAY_EVENTS_KEY";
/// More of a payload doesn't help on a line.
const SHOWN_PAYLOAD: usize = 96;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File with the gateway's key, `-` for standard input; otherwise GATEWAY_EVENTS_KEY is used
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Report deployments as applied (deployment.ack, success)
    #[arg(long, conflicts_with = "fail")]
    ack: bool,
    /// Report deployments as failed with this code, such as GATEWAY_PROCESSING_ERROR
    #[arg(long, value_name = "CODE")]
    fail: Option<String>,
    /// Take so long over each event
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    slow: Option<Duration>,
}

pub(crate) async fn run(args: Args, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let key = secret(args.key_file.as_deref(), KEY_VARIABLE)?.with_context(|| {
        format!("a gateway's key is needed: set {KEY_VARIABLE}, or name a file by --key-file")
    })?;
    let trust = client.trust();
    let url = Api::new(&client.address()?, None, &trust)?.base().clone();
    let stop = CancellationToken::new();
    let printer = Arc::new(Printer { as_json: client.json, slow: args.slow, stop: stop.clone() });
    let mut options = GatewayOptions::new(url, key, trust.client_config()?, printer);
    options.ack = match args.fail {
        Some(code) => AckPolicy::Fail(code),
        None if args.ack => AckPolicy::Success,
        None => AckPolicy::Silent,
    };
    let interrupted = stop.clone();
    tokio::spawn(async move {
        interrupt::interrupted().await;
        interrupted.cancel();
    });
    match Gateway::new(options).run(stop).await {
        Exit::Cancelled => Ok(ExitCode::SUCCESS),
        Exit::Refused(401) => anyhow::bail!(
            "the key is not valid: it is unknown, expired or revoked; make a new one: gateway-events token create --gateway ID"
        ),
        Exit::Refused(403) => {
            anyhow::bail!("the gateway is disabled; enable it: gateway-events gateway enable ID")
        }
        Exit::Refused(status) => {
            anyhow::bail!("the service refused with status {status}, at which gateways give up")
        }
    }
}

/// Prints what comes.
struct Printer {
    as_json: bool,
    slow: Option<Duration>,
    /// Cancelled when nobody reads any more.
    stop: CancellationToken,
}

#[async_trait]
impl Handler for Printer {
    async fn handle(&self, event: ReceivedEvent) {
        let said = if self.as_json { say(&event.raw) } else { say(line(&event)) };
        if said.is_err() {
            self.stop.cancel();
        }
        if let Some(slow) = self.slow {
            tokio::time::sleep(slow).await;
        }
    }

    async fn notice(&self, notice: Notice) {
        match notice {
            Notice::Connected { connection_id, gateway_id } => remark(format_args!(
                "connected as gateway {} (connection {})",
                clean(&gateway_id),
                clean(&connection_id)
            )),
            Notice::Disconnected { why } => {
                remark(format_args!("disconnected ({}), coming back at once", clean(&why)));
            }
            Notice::Failed { why, wait } => {
                let advice = tls::advice(&why).map(|advice| format!("; {advice}"));
                remark(format_args!(
                    "not connected: {}{}; next try in {:.1} s",
                    clean(&why),
                    advice.unwrap_or_default(),
                    wait.as_secs_f64()
                ));
            }
            Notice::Refused { status } => remark(format_args!("refused with status {status}")),
            Notice::Unreadable { why } => {
                remark(format_args!("a frame was no event: {}", clean(&why)));
            }
        }
    }
}

fn line(event: &ReceivedEvent) -> String {
    let payload: String = event.payload.get().chars().take(SHOWN_PAYLOAD).collect();
    let rest = if payload.len() < event.payload.get().len() { "…" } else { "" };
    clean(&format!(
        "{}  {}  #{}  {}  {payload}{rest}",
        time(&event.timestamp.as_str().into()),
        event.event_type,
        event.sequence,
        event.correlation_id,
    ))
}
