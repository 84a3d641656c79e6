//! Periodic work, in bounded batches. Each operation runs on one node at a time.

use std::time::Duration;

use async_trait::async_trait;

use super::{Expiries, ExpiryMark, Result, RetentionLimits, SweepResult, TrimMark, Trimmed};
use crate::event::GatewayKey;

/// Operations of background jobs: the sweep, expiry and retention. Each call is one bounded batch.
#[async_trait]
pub trait Maintenance: Send + Sync + 'static {
    /// Records a failed attempt (`not_connected`) for each event that was appended to a gateway
    /// with no live connection, for all gateways or for these. Postpones gateways whose last
    /// connection ended less than `grace` ago.
    async fn sweep_not_connected(
        &self,
        gateways: Option<&[GatewayKey]>,
        grace: Duration,
    ) -> Result<SweepResult>;
    /// Records deliveries of expired events to gateways with no live connection as failed: one
    /// batch of each search, starting at `mark`, which it moves. Newly expired events come first.
    async fn expire(&self, mark: &mut ExpiryMark) -> Result<Expiries>;
    /// Removes what exceeds the limits: one batch, starting at `mark`, which it moves. After the
    /// last batch of a pass, `mark` is at the beginning of the next pass.
    async fn trim(&self, limits: &RetentionLimits, mark: &mut TrimMark) -> Result<Trimmed>;
}
