//! Operations of background jobs.

use std::time::Duration;

use async_trait::async_trait;

use super::Backend;
use super::access::{Access as _, run};
use super::{expiry, not_connected, retention};
use crate::event::GatewayKey;
use crate::store::expiry_mark::{BatchEnd, Search};
use crate::store::{
    Expiries, ExpiryMark, Maintenance, Result, RetentionLimits, SweepResult, TimedKey, TrimMark,
    Trimmed, UndeliveredRange,
};

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
        let mut all = Expiries::default();
        for search in [Search::New, Search::Again] {
            let (batch, Some(after)) = (mark.batch(), mark.begin(search)) else { break };
            let Some((expired, end)) =
                self.expire_after(after, batch).await.inspect_err(|_| mark.failed())?
            else {
                // Another node is doing it.
                break;
            };
            mark.end(search, end);
            all.expired.extend(expired);
            if !end.is_last {
                all.more = true;
                break;
            }
        }
        Ok(all)
    }

    async fn trim(&self, limits: &RetentionLimits, mark: &mut TrimMark) -> Result<Trimmed> {
        let (node, limits, from) = (self.node, *limits, *mark);
        let (trimmed, next) =
            run!(self.write_tx, |conn, now| retention::trim(conn, now, node, &limits, from))?;
        *mark = next;
        Ok(trimmed)
    }
}

impl Backend {
    /// Records expired deliveries of the events after this one as failed. `None` if another node is
    /// doing it.
    async fn expire_after(
        &self,
        after: TimedKey,
        batch: i64,
    ) -> Result<Option<(Vec<UndeliveredRange>, BatchEnd)>> {
        let node = self.node;
        let due = run!(self.snapshot, |conn| expiry::due(conn, after, batch))?;
        let (next, now, is_last) = (due.next, due.now, due.is_last);
        let expired = if due.is_nothing() {
            Some(Vec::new())
        } else {
            run!(self.write_tx, |conn, now| expiry::expire(conn, now, node, due))?
        };
        let end = |is_idle| BatchEnd { next, now, is_last, is_idle };
        Ok(expired.map(|expired| {
            let is_idle = expired.is_empty();
            (expired, end(is_idle))
        }))
    }
}
