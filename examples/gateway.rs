//! A gateway in reliable mode, with the client library: it applies events in order, confirms what it
//! has applied, and resumes after its stored position when it is started again.
//!
//! ```sh
//! export GATEWAY_EVENTS_CA_FILE=data/certificate.pem GATEWAY_EVENTS_KEY=gwk_…
//! cargo run --example gateway -- https://localhost:8443 berlin-1 berlin-1.position
//! ```
#![expect(clippy::print_stdout, reason = "the program's output")]

use std::{env, error::Error, time::Duration};

use async_trait::async_trait;
use gateway_events::client::reliable::{
    Client, DeliveryGap, EventFrame, FilePosition, Handler, NackCode, Notice, Options, Outcome,
    SnapshotError, WebSocket,
};
use gateway_events::client::{CancellationToken, Endpoint, tls::Trust};

struct Gateway;

#[async_trait]
impl Handler for Gateway {
    /// Applies an event. It may come more than once: applying it again must succeed, too.
    async fn handle(&self, event: EventFrame) -> Outcome {
        let payload: serde_json::Value = match serde_json::from_str(event.payload.get()) {
            Ok(payload) => payload,
            Err(error) => {
                let detail = Some(error.to_string());
                return Outcome::Reject { code: NackCode::Invalid, detail };
            }
        };
        // The configuration of this gateway is being changed by something else.
        if payload["action"] == "retry" && event.attempt == 1 {
            let after = Duration::from_millis(100);
            return Outcome::RetryAfter { after, code: NackCode::Conflict, detail: None };
        }
        println!("applied {} {} {}", event.sequence, event.event_type, payload);
        Outcome::Applied
    }

    /// Reads everything anew, because events are missing.
    async fn read_snapshot(&self, gap: &DeliveryGap) -> Result<(), SnapshotError> {
        println!("read a snapshot; events {} to {} are missing", gap.from, gap.to);
        Ok(())
    }

    async fn notice(&self, notice: Notice) {
        println!("{notice:?}");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "https://localhost:8443".to_owned());
    let instance = arguments.next().unwrap_or_else(|| "berlin-1".to_owned());
    let position = arguments.next().unwrap_or_else(|| format!("{instance}.position"));
    let trust = env::var_os("GATEWAY_EVENTS_CA_FILE")
        .map_or(Trust::Platform, |file| Trust::CaFile(file.into()));

    let service = Endpoint { base: url.parse()?, tls: trust.client_config()?, source: None };
    let transport = WebSocket::new(service, env::var("GATEWAY_EVENTS_KEY")?.into());
    let options = Options { instance: Some(instance), ..Options::default() };
    let client = Client::new(transport, FilePosition::new(position), Gateway, options);

    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move { tokio::signal::ctrl_c().await.map(|()| stop.cancel()) }
    });
    Ok(client.run(stop).await?)
}
