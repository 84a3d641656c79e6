//! Rollouts.

use crate::store::Result;
use crate::store::rollout::RolloutRow;

/// Rollouts.
pub(crate) trait RolloutStatements {
    /// The deliveries of these events, by event, gateway's name and sequence; at most `limit`.
    async fn rollout_rows(&mut self, events: &[i64], limit: i64) -> Result<Vec<RolloutRow>>;
}
