//! Reading a gateway's log, in pages that are bounded in rows and bytes.

use std::sync::Arc;

use super::dialect::{self, Connection, query};
use futures_util::TryStreamExt as _;
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::event::{CorrelationId, Event, EventId, EventType, GatewayKey, Sequence};
use crate::store::{
    DeploymentKey, OutboxPage, OutboxRow, Result, StoreError, performed_at, storable,
};

/// A row of a log, before anybody has looked at its payload.
pub(crate) struct Row {
    pub(crate) sequence: Sequence,
    pub(crate) id: EventId,
    pub(crate) event_type: EventType,
    pub(crate) payload: String,
    pub(crate) correlation_id: CorrelationId,
    pub(crate) user_id: Option<String>,
    pub(crate) occurred_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
}

/// Reads what follows `after`: at least one row if there is any, then more
/// until one of the bounds is met.
pub(super) async fn read(
    connection: &mut Connection,
    gateway: GatewayKey,
    after: Sequence,
    limit: usize,
    max_bytes: usize,
) -> Result<OutboxPage> {
    let stream = query!(
        r#"select head as "head!: Sequence", floor as "floor!: Sequence" from streams where gateway = $1"#,
        gateway.0
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(StoreError::NotFound("gateway"))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut found = dialect::outbox_rows(connection, gateway, after, limit, max_bytes);
    let mut rows = Vec::new();
    let mut bytes = 0_usize;
    while let Some(row) = found.try_next().await? {
        bytes = bytes.saturating_add(row.payload.len());
        if bytes > max_bytes && !rows.is_empty() {
            break;
        }
        let payload = RawValue::from_string(row.payload)
            .map_err(|error| StoreError::Corrupt(format!("the payload of {}: {error}", row.id)))?;
        rows.push(OutboxRow {
            sequence: row.sequence,
            event: Arc::new(Event {
                id: row.id,
                event_type: row.event_type,
                payload,
                correlation_id: row.correlation_id,
                user_id: row.user_id,
                occurred_at: row.occurred_at,
                expires_at: row.expires_at,
            }),
        });
    }
    Ok(OutboxPage { rows, head: stream.head, floor: stream.floor })
}

/// The newest event of a gateway that a `deployment.ack` can mean. Postgres
/// finds it by the id's beginning, because its indexes hold no long value.
pub(super) async fn find_deployment(
    connection: &mut Connection,
    gateway: GatewayKey,
    key: &DeploymentKey,
) -> Result<Option<(Sequence, Option<Timestamp>)>> {
    let (deployment_id, artifact_id) = (storable(&key.deployment_id), storable(&key.artifact_id));
    let row = query!(
        r#"
        select o.sequence as "sequence!: Sequence", e.payload as "payload!: String"
        from events e join outbox o on o.event = e.event and o.gateway = $1
        where substr(e.deployment_id, 1, 512) = substr($2, 1, 512)
            and e.deployment_id = $2 and e.artifact_id = $3 and e.type like '%.' || $4
        order by o.sequence desc limit 1
        "#,
        gateway.0,
        deployment_id.as_ref(),
        artifact_id.as_ref(),
        key.suffix
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.sequence, performed_at(&row.payload))))
}
