//! Deliveries that failed without an attempt on a connection: their gateway was not connected or was
//! deleted, or their event expired.

use std::time::Duration;

use super::Range;
use crate::clock::Timestamp;
use crate::event::{EventId, EventType, GatewayId, GatewayKey, Sequence};

/// A range of deliveries that failed because the gateway had no live connection or was deleted, or
/// because their event expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndeliveredRange {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The failed sequences.
    pub range: Range,
    /// The first events of the range, for the log.
    pub events: Vec<LoggedEvent>,
    /// The number of its deliveries by event type, for metrics. Deliveries beyond a
    /// [limit](super::limits::COUNTED_TYPES), and those whose events were removed, are missing.
    pub types: Vec<(EventType, u64)>,
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

/// What a sweep recorded, and which gateways it postponed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepResult {
    /// Deliveries recorded as `not_connected`.
    pub recorded: Vec<UndeliveredRange>,
    /// Gateways with undelivered events that are within their grace period, and how long to wait
    /// before the next sweep.
    pub postponed: Vec<(GatewayKey, Duration)>,
}

impl SweepResult {
    /// The rest of the grace period of a gateway whose last connection ended at `left_at`, or
    /// `None` if it is over. Also `None` if `left_at` is more than `grace` in the future, because
    /// the clock was set back.
    pub fn grace_left(
        left_at: Option<Timestamp>,
        now: Timestamp,
        grace: Duration,
    ) -> Option<Duration> {
        let left_at = left_at.filter(|at| *at < now.plus(grace))?;
        let until = left_at.plus(grace);
        (now < until).then(|| until.since(now).min(grace))
    }
}

/// A gateway that was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The key by which the store refers to it.
    pub key: GatewayKey,
    /// Deliveries that it had not confirmed, recorded as `gateway_deleted`.
    pub undelivered: Vec<UndeliveredRange>,
}

/// Result of one call of the search for expired events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expiries {
    /// Deliveries recorded as `expired`.
    pub expired: Vec<UndeliveredRange>,
    /// Whether more events may have expired.
    pub more: bool,
}
