//! The sweep, expiry and retention.

use std::time::Duration;

use async_trait::async_trait;
use gateway_events::event::GatewayKey;
use gateway_events::store::{
    Expiries, ExpiryMark, Maintenance, Result, RetentionLimits, SweepResult, TrimMark, Trimmed,
};

use super::MemoryStore;

#[async_trait]
impl Maintenance for MemoryStore {
    async fn sweep_not_connected(
        &self,
        gateways: Option<&[GatewayKey]>,
        grace: Duration,
    ) -> Result<SweepResult> {
        self.write(|tables, now| tables.sweep(now, gateways, grace)).await
    }

    async fn expire(&self, mark: &mut ExpiryMark) -> Result<Expiries> {
        let mut next = *mark;
        let expired = self.write(|tables, now| tables.expire(now, &mut next)).await?;
        *mark = next;
        Ok(expired)
    }

    async fn trim(&self, limits: &RetentionLimits, mark: &mut TrimMark) -> Result<Trimmed> {
        let mut next = *mark;
        let trimmed = self.write(|tables, now| tables.trim(now, limits, &mut next)).await?;
        *mark = next;
        Ok(trimmed)
    }
}
