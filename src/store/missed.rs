//! What a sweep found: deliveries to gateways without a live connection.

use super::Range;
use crate::event::{EventId, EventType, GatewayId, Sequence};

/// Deliveries to a gateway without a live connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// Its name.
    pub gateway_name: String,
    /// Which.
    pub range: Range,
    /// The first of their events, for the log.
    pub events: Vec<LoggedEvent>,
}

/// What the log says of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedEvent {
    /// Its number in the gateway's log.
    pub sequence: Sequence,
    /// Its id.
    pub id: EventId,
    /// Its type.
    pub event_type: EventType,
}
