//! A gateway's log with delivery states.

use gateway_events::clock::Timestamp;
use gateway_events::event::{GatewayId, OrganisationKey};
use gateway_events::store::Progress;
use gateway_events::store::{LogPage, LogRow, LogSpan, OutboxRow, Result};

use super::tables::Tables;

impl Tables {
    pub(super) fn gateway_log(
        &self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: GatewayId,
        span: LogSpan,
    ) -> Result<Option<LogPage>> {
        let Some(gateway) = self.gateway(now, organisation, id)? else { return Ok(None) };
        let mut rows = Vec::new();
        let mut progress = Progress::new(span);
        while progress.next.limit > 0 {
            let LogSpan { after, limit, max_bytes } = progress.next;
            let page = self.page(gateway.key, after, limit, max_bytes)?;
            let bytes = page.rows.iter().map(|row| row.event.payload.get().len()).sum();
            let (read, last) = (page.rows.len(), page.rows.last().map(|row| row.sequence));
            for OutboxRow { sequence, event } in page.rows {
                let delivery = self.standing((gateway.key, sequence.0))?;
                let Some(appended_at) = delivery.appended_at else { continue };
                rows.push(LogRow { sequence, event, appended_at, state: delivery.state });
            }
            progress.advance(last, read, bytes, span.limit.saturating_sub(rows.len()));
        }
        Ok(Some(LogPage { gateway, rows }))
    }
}
