//! Publishes an event over HTTP.
//!
//! ```sh
//! export GATEWAY_EVENTS_CA_FILE=data/certificate.pem GATEWAY_EVENTS_TOKEN=gwa_…
//! cargo run --example publish -- https://localhost:8443
//! ```
#![expect(clippy::print_stdout, reason = "the program's output")]

use std::{env, error::Error};

use gateway_events::api::{NewEvent, Target};
use gateway_events::client::{api::Api, tls::Trust};
use serde_json::{json, value::to_raw_value};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::args().nth(1).unwrap_or_else(|| "https://localhost:8443".to_owned());
    let token = env::var("GATEWAY_EVENTS_TOKEN")?;
    // Without a file: the certificates that the operating system trusts.
    let trust = env::var_os("GATEWAY_EVENTS_CA_FILE")
        .map_or(Trust::Platform, |file| Trust::CaFile(file.into()));
    let api = Api::new(&url, Some(token.into()), &trust)?;

    let payload = to_raw_value(&json!({ "configType": "cache", "action": "update" }))?;
    let event = NewEvent {
        // With an id of the publisher's own, it is safe to send the event again when no
        // answer came: it is stored once.
        id: Some(uuid::Uuid::now_v7().to_string().parse()?),
        target: Some(Target { all: Some(true), ..Target::default() }),
        ..NewEvent::new("gateway.config.updated".parse()?, payload)
    };
    // The event is on disk when the answer comes.
    let accepted = api.publish(&event).await?;
    for delivery in accepted.deliveries {
        println!(
            "{} is number {} for gateway {}",
            accepted.id, delivery.sequence, delivery.gateway_id
        );
    }
    for warning in accepted.warnings {
        println!("warning: {}", warning.message);
    }
    Ok(())
}
