//! Failed deliveries that no connection attempted, as the log names them.

use super::Range;
use crate::event::{EventId, EventType, GatewayId, Sequence};

/// Deliveries to a gateway that had no live connection, or was deleted.
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
