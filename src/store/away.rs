//! What is recorded of deliveries to gateways that are away, or were deleted.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::event::GatewayKey;

use super::Missed;

/// What a sweep recorded, and what it left for later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Recorded as `not_connected`.
    pub missed: Vec<Missed>,
    /// Gateways with events that may still come back in time, and when to sweep them.
    pub postponed: Vec<(GatewayKey, Duration)>,
}

impl Swept {
    /// How much of `grace` a gateway still has whose last connection ended at
    /// `left_at`. None if that instant lies in a future that a clock which was
    /// set back has made.
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
    /// Its inside key.
    pub key: GatewayKey,
    /// What it had not received; recorded as `gateway_deleted`.
    pub undelivered: Vec<Missed>,
}

/// What one bounded search for expired events gave up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expiries {
    /// Recorded as `expired`.
    pub expired: Vec<Missed>,
    /// There may be more that have expired.
    pub more: bool,
}
