//! What the log says of deliveries that failed.

use crate::event::{EventId, EventType, GatewayId, Sequence};

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

/// The same of an event that no connection was there for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissedEvent {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// Its name.
    pub gateway_name: String,
    /// The event.
    pub event: LoggedEvent,
}
