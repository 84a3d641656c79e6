//! A gateway's log with delivery states.

use std::collections::HashMap;

use super::super::deliveries::details;
use super::super::dialect::Connection;
use super::super::gateways::live;
use super::read;
use crate::event::{GatewayId, OrganisationKey, Reason};
use crate::store::browse::Progress;
use crate::store::{DeliveryKey, LogPage, LogRow, LogSpan, OutboxRow, Result};

pub(crate) async fn gateway_log(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: GatewayId,
    span: LogSpan,
) -> Result<Option<LogPage>> {
    let Some(gateway) = live::gateway(conn, organisation, id).await? else {
        return Ok(None);
    };
    let mut rows: Vec<OutboxRow> = Vec::new();
    let mut progress = Progress::new(span);
    while progress.next.limit > 0 {
        let LogSpan { after, limit, max_bytes } = progress.next;
        let page = read::read(conn, gateway.key, after, limit, max_bytes).await?;
        let bytes = page.rows.iter().map(|row| row.event.payload.get().len()).sum();
        let (read, last) = (page.rows.len(), page.rows.last().map(|row| row.sequence));
        rows.extend(page.rows);
        progress.advance(last, read, bytes, span.limit - rows.len());
    }
    let key = |sequence| DeliveryKey { gateway: gateway.key, sequence };
    let keys: Vec<DeliveryKey> = rows.iter().map(|row| key(row.sequence)).collect();
    let mut standings: HashMap<DeliveryKey, _> = details::standings(conn, &keys)
        .await?
        .into_iter()
        .map(|standing| (standing.key, standing.delivery))
        .collect();
    // Both reads are in one snapshot, so each row has a state.
    let rows = rows.into_iter().filter_map(|OutboxRow { sequence, event, withheld }| {
        let delivery = standings.remove(&key(sequence))?;
        let appended_at = delivery.appended_at?;
        let (state, is_purged) = (delivery.state, withheld == Some(Reason::Purged));
        Some(LogRow { sequence, event, appended_at, state, is_purged })
    });
    let rows = rows.collect();
    Ok(Some(LogPage { gateway, rows }))
}
