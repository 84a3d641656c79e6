//! `listen --as-gateway --reliable`: confirms events as applied, and resumes from a position.

use std::path::PathBuf;
use std::process::ExitCode;

use async_trait::async_trait;
use gateway_events::client::reliable::{
    Client, ClientError, DeliveryGap, EventFrame, FilePosition, Handler, MemoryPosition, Notice,
    Options, Outcome, SnapshotError, parse_instance,
};
use gateway_events::client::{CancellationToken, Endpoint};
use secrecy::SecretString;

use super::super::super::output::{clean, note, time};
use super::super::super::transport::TransportKind;
use super::super::{Line, on_one_line};
use super::{Printer, refused};

#[derive(Debug, clap::Args)]
pub(super) struct Mode {
    /// Use reliable mode (gateway-events.v1): confirm events as applied instead of answering pings
    #[arg(long, requires = "as_gateway", conflicts_with = "gateway")]
    reliable: bool,
    /// The name of this replica of the gateway; the service stores a position for it
    #[arg(long, value_name = "NAME", value_parser = parse_instance, requires = "reliable")]
    instance: Option<String>,
    /// File that stores the position from which to resume; otherwise the service's is used
    #[arg(long, value_name = "FILE", requires = "reliable")]
    position: Option<PathBuf>,
    /// How to connect
    #[arg(long, value_name = "TRANSPORT", value_enum, default_value_t, requires = "reliable")]
    transport: TransportKind,
}

impl Mode {
    pub(super) const fn is_chosen(&self) -> bool {
        self.reliable
    }
}

pub(super) async fn run(
    mode: Mode,
    endpoint: Endpoint,
    key: SecretString,
    printer: Printer,
    stop: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let options = Options { instance: mode.instance, ..Options::default() };
    let address = printer.address.clone();
    let transport = mode.transport.transport(endpoint, key)?;
    let client = match mode.position {
        Some(file) => Client::new(transport, FilePosition::new(file), printer, options),
        None => Client::new(transport, MemoryPosition::default(), printer, options),
    };
    match client.run(stop).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(ClientError::Refused(status)) => Err(refused(&address, status)),
        Err(error) => Err(error.into()),
    }
}

#[async_trait]
impl Handler for Printer {
    async fn handle(&self, event: EventFrame) -> Outcome {
        let line = match serde_json::to_string(&event) {
            Ok(json) if self.as_json => on_one_line(&json),
            _ => line(&event),
        };
        self.print(line).await;
        Outcome::Applied
    }

    async fn read_snapshot(&self, gap: &DeliveryGap) -> Result<(), SnapshotError> {
        note(format_args!(
            "#{} to #{} can't be delivered ({}); continuing after #{}",
            gap.from,
            gap.to,
            gap.reason.as_str(),
            gap.resume_at
        ));
        Ok(())
    }

    async fn notice(&self, notice: Notice) {
        match notice {
            Notice::Connected(ack) => note(format_args!(
                "connected as gateway {} (connection {})",
                ack.gateway_id, ack.connection_id
            )),
            Notice::Resumed(resumed) => note(format_args!(
                "resumed after #{}; {} events are pending",
                resumed.from, resumed.pending
            )),
            Notice::SnapshotFailed { why, wait } => {
                note(format_args!("{}; retrying in {:.1} s", clean(&why), wait.as_secs_f64()));
            }
            Notice::Disconnected { why, wait, .. } => note(format_args!(
                "disconnected ({}), reconnecting in {:.1} s",
                clean(&why),
                wait.as_secs_f64()
            )),
            Notice::Failed { why, wait } => self.note_failed(&why, wait),
        }
    }
}

fn line(event: &EventFrame) -> String {
    let line = Line {
        at: time(event.timestamp),
        event_type: event.event_type.as_str(),
        sequence: event.sequence.0,
        correlation_id: event.correlation_id.as_str(),
        traceparent: event.traceparent.as_ref().map(ToString::to_string),
        payload: event.payload.get(),
    };
    line.text()
}
