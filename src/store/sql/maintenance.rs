//! Operations of background jobs.

use std::time::Duration;

use super::Backend;
use super::access::{Access as _, run};
use super::{expiry, not_connected, retention};
use crate::event::GatewayKey;
use crate::store::{
    Expiries, ExpiryMark, Maintenance, Result, RetentionLimits, SweepResult, TrimMark, Trimmed,
};
use async_trait::async_trait;

#[async_trait]
impl Maintenance for Backend {
    async fn sweep_not_connected(
        &self,
        gateways: Option<&[GatewayKey]>,
        grace: Duration,
    ) -> Result<SweepResult> {
        let (node, gateways) = (self.node, gateways.map(<[GatewayKey]>::to_vec));
        run!(self.write_tx, |conn, now| not_connected::sweep_not_connected(
            conn,
            now,
            node,
            gateways.as_deref(),
            grace
        ))
    }

    async fn expire(&self, mark: &mut ExpiryMark) -> Result<Expiries> {
        let (node, from) = (self.node, *mark);
        let due = run!(self.snapshot, |conn| expiry::due(conn, from))?;
        let next = due.next;
        let answer = if due.is_nothing() {
            Expiries { expired: Vec::new(), more: due.more }
        } else {
            run!(self.write_tx, |conn, now| expiry::expire(conn, now, node, due))?
        };
        *mark = next;
        Ok(answer)
    }

    async fn trim(&self, limits: &RetentionLimits, mark: &mut TrimMark) -> Result<Trimmed> {
        let (node, limits, from) = (self.node, *limits, *mark);
        let (trimmed, next) =
            run!(self.write_tx, |conn, now| retention::trim(conn, now, node, &limits, from))?;
        *mark = next;
        Ok(trimmed)
    }
}
