//! Reads a gateway's log, in pages that are bounded in rows and bytes.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use serde_json::value::RawValue;

use super::super::dialect::log::LogEntry;
use super::super::dialect::{Connection, LogStatements};
use crate::event::{Event, GatewayKey, Sequence};
use crate::store::deployments::choose;
use crate::store::{
    DeploymentKey, DeploymentMatch, OutboxPage, OutboxRow, Result, StoreError, storable,
};

/// Candidates for a report that one statement reads: most reports have one.
const CANDIDATES_PAGE: i64 = 64;

impl LogEntry {
    fn outbox_row(self) -> Result<Option<OutboxRow>> {
        let Some(sequence) = self.sequence else { return Ok(None) };
        let (Some(id), Some(event_type)) = (self.id, self.event_type) else {
            return Err(incomplete(sequence));
        };
        let (Some(payload), Some(correlation_id), Some(occurred_at)) =
            (self.payload, self.correlation_id, self.occurred_at)
        else {
            return Err(incomplete(sequence));
        };
        let payload = RawValue::from_string(payload)
            .map_err(|error| StoreError::Corrupt(format!("the payload of {id}: {error}")))?;
        let event = Event {
            id,
            event_type,
            payload,
            correlation_id,
            user_id: self.user_id,
            occurred_at,
            expires_at: self.expires_at,
            traceparent: self.traceparent,
        };
        Ok(Some(OutboxRow { sequence, event: Arc::new(event), withheld: self.withheld }))
    }
}

fn incomplete(sequence: Sequence) -> StoreError {
    StoreError::Corrupt(format!("the event of delivery {sequence} is missing"))
}

/// Reads what follows `after`: at least one row if there is any, then more until one of the bounds
/// is reached.
pub(crate) async fn read(
    conn: &mut Connection,
    gateway: GatewayKey,
    after: Sequence,
    limit: usize,
    max_bytes: usize,
) -> Result<OutboxPage> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut found = conn.outbox_rows(gateway, after, limit, max_bytes);
    let mut page: Option<OutboxPage> = None;
    let mut bytes = 0_usize;
    while let Some(row) = found.try_next().await? {
        let (head, floor) = (row.head, row.floor);
        let page = page.get_or_insert_with(|| OutboxPage { rows: Vec::new(), head, floor });
        bytes = bytes.saturating_add(row.payload.as_ref().map_or(0, String::len));
        if bytes > max_bytes && !page.rows.is_empty() {
            break;
        }
        page.rows.extend(row.outbox_row()?);
    }
    page.ok_or(StoreError::NotFound("gateway"))
}

/// The event that a `deployment.ack` reports on. Postgres searches by the id's beginning, because
/// its index entries have a limited size.
pub(crate) async fn find_deployment(
    conn: &mut Connection,
    gateway: GatewayKey,
    key: &DeploymentKey,
    most: usize,
) -> Result<Option<DeploymentMatch>> {
    let (deployment_id, artifact_id) = (storable(&key.deployment_id), storable(&key.artifact_id));
    let (mut candidates, mut up_to) = (Vec::new(), key.sent);
    loop {
        let page = conn
            .deployment_candidates(
                gateway,
                &deployment_id,
                &artifact_id,
                key.suffix,
                up_to,
                CANDIDATES_PAGE,
            )
            .await?;
        let is_last = i64::try_from(page.len()).is_ok_and(|count| count < CANDIDATES_PAGE);
        candidates.extend(page);
        match candidates.last() {
            Some((oldest, _)) if !is_last && candidates.len() < most => {
                up_to = Sequence(oldest.0 - 1);
            }
            _ => break,
        }
    }
    Ok(choose(&candidates, key.performed_at, most))
}
