//! Deliveries that failed without an attempt on a connection, as they are logged.

use super::Range;
use crate::event::{EventId, EventType, GatewayId, Sequence};

/// A range of deliveries that failed because the gateway had no live connection or was deleted, or
/// because their event expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The failed sequences.
    pub range: Range,
    /// The first events of the range, for the log.
    pub events: Vec<LoggedEvent>,
}

/// An event as it appears in log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedEvent {
    /// Its sequence in the gateway's log.
    pub sequence: Sequence,
    /// Its id.
    pub id: EventId,
    /// Its type.
    pub event_type: EventType,
}
