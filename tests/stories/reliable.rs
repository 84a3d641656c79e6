//! Reliable mode over WebSocket: the subprotocol `gateway-events.v1`. `transports` has what every
//! transport must do.

use serde_json::{Value, json};

use crate::both_databases::Backend;
use crate::support::{Service, deployed};

mod closing;
mod given_up;
mod handshake;
mod instances;
mod nacks;
pub(crate) mod peer;
mod resync;
mod unknown_frames;

/// A service, a gateway and its key, with this many events.
async fn with_events(backend: &Backend, count: i64) -> (Service, String, String) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, count).await;
    (service, id, key)
}

/// Publishes events with these numbers.
pub(crate) async fn publish(service: &Service, id: &str, first: i64, last: i64) {
    let batch: Vec<Value> =
        (first..=last).map(|number| deployed(&[id], &format!("d-{number}"))).collect();
    service.api().post("/events", &json!(batch)).await.expect("accepted");
}
