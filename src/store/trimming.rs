//! What retention calls too old when the database's clock is set.

use std::time::{Duration, Instant};

use super::{RetentionLimits, TrimMark};
use crate::clock::Timestamp;

impl RetentionLimits {
    /// Nothing is too old or too much.
    pub const KEEP_ALL: Self = Self {
        max_age: Duration::MAX,
        max_events: i64::MAX,
        hard_max_age: Duration::MAX,
        hard_max_events: i64::MAX,
        left_behind: Duration::MAX,
        batch: 1,
    };
}

impl TrimMark {
    /// By which a batch measures ages, given what the clock shows.
    pub(crate) fn measure_by(&mut self, now: Timestamp) -> Timestamp {
        let at = Instant::now();
        if let Some(jump) = self.clock.read(now, at) {
            tracing::warn!(%jump, "the clock was set; retention goes by its old course for an hour");
        }
        self.clock.cautious(now, at)
    }
}
