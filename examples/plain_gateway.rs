//! A gateway in plain mode, without the client library: connects, handles events in order, reports
//! deployments, and connects again when the connection ends.
//!
//! ```sh
//! export GATEWAY_EVENTS_CA_FILE=data/certificate.pem GATEWAY_EVENTS_KEY=gwk_…
//! cargo run --example plain_gateway -- https://localhost:8443
//! ```
#![expect(clippy::print_stdout, reason = "the program's output")]

use std::{env, error::Error, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use gateway_events::client::{DialError, Endpoint, Socket, tls::Trust};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// The service sends a ping every 10 seconds by default.
const SILENCE: Duration = Duration::from_secs(35);
const FIRST_BACKOFF: Duration = Duration::from_secs(2);
const MAX_BACKOFF: Duration = Duration::from_mins(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::args().nth(1).unwrap_or_else(|| "https://localhost:8443".to_owned());
    let key = env::var("GATEWAY_EVENTS_KEY")?.into();
    let trust = env::var_os("GATEWAY_EVENTS_CA_FILE")
        .map_or(Trust::Platform, |file| Trust::CaFile(file.into()));
    let service = Endpoint { base: url.parse()?, tls: trust.client_config()?, source: None };

    let mut backoff = FIRST_BACKOFF;
    loop {
        match service.dial(&key).await {
            Ok(socket) => {
                backoff = FIRST_BACKOFF;
                match receive(socket).await {
                    Ok(()) => println!("disconnected"),
                    Err(error) => println!("disconnected: {error}"),
                }
            }
            // A key that is not accepted now is not accepted later either.
            Err(error @ DialError::Refused(401 | 403)) => return Err(error.into()),
            Err(error) => println!("can't connect: {error}"),
        }
        // Jitter spreads the gateways that lost their connections at the same time.
        tokio::time::sleep(backoff.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Handles one frame after the other. The pong to a ping is sent after the events before
/// the ping were handled, and thereby confirms them.
async fn receive(mut socket: Socket) -> Result<(), Box<dyn Error>> {
    while let Some(message) = tokio::time::timeout(SILENCE, socket.next()).await? {
        match message? {
            Message::Text(text) => {
                if let Some(report) = handle(&serde_json::from_str(&text)?) {
                    socket.send(Message::text(report.to_string())).await?;
                }
            }
            // The library has queued the pong; this sends it.
            Message::Ping(_) => socket.flush().await?,
            _ => {}
        }
    }
    Ok(())
}

/// Applies an event, and returns the report on a deployment. An event may come more than
/// once: applying it again must succeed, too.
fn handle(event: &Value) -> Option<Value> {
    println!("{} {} {}", event["type"], event["sequence"], event["payload"]);
    let (resource, action) = match event["type"].as_str()?.split_once('.')? {
        (resource, "deployed") => (resource, "deploy"),
        (resource, "undeployed") => (resource, "undeploy"),
        _ => return None,
    };
    let payload = &event["payload"];
    let artifact = ["apiId", "providerId", "proxyId"].iter().find_map(|id| payload.get(*id))?;
    Some(json!({ "type": "deployment.ack", "payload": {
        "deploymentId": payload["deploymentId"], "artifactId": artifact, "resourceType": resource,
        "action": action, "status": "success", "performedAt": payload["performedAt"],
    }}))
}
