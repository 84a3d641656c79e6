//! Reading a gateway's log, in pages that are bounded in rows and bytes.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use serde_json::value::RawValue;
use sqlx::SqliteConnection;

use super::gateways::parsed;
use crate::clock::Timestamp;
use crate::event::{Event, GatewayKey, Sequence};
use crate::store::{DeploymentKey, OutboxPage, OutboxRow, Result, StoreError};

/// Reads what follows `after`: at least one row if there is any, then more
/// until one of the bounds is met.
pub(super) async fn read(
    connection: &mut SqliteConnection,
    gateway: GatewayKey,
    after: Sequence,
    limit: usize,
    max_bytes: usize,
) -> Result<OutboxPage> {
    let stream = sqlx::query!(
        r#"select head as "head!: i64", floor as "floor!: i64" from streams where gateway = $1"#,
        gateway.0
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(StoreError::NotFound("gateway"))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut found = sqlx::query!(
        r#"
        select o.sequence as "sequence!: i64", e.id as "id!: String", e.type as "event_type!: String",
            e.payload as "payload!: String", e.correlation_id as "correlation_id!: String",
            e.user_id as "user_id?: String", e.occurred_at as "occurred_at!: i64",
            e.expires_at as "expires_at?: i64"
        from outbox o join events e using (event)
        where o.gateway = $1 and o.sequence > $2
        order by o.sequence limit $3
        "#,
        gateway.0,
        after.0,
        limit
    )
    .fetch(connection);
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
            sequence: Sequence(row.sequence),
            event: Arc::new(Event {
                id: parsed("event id", &row.id)?,
                event_type: parsed("event type", &row.event_type)?,
                payload,
                correlation_id: parsed("correlation id", &row.correlation_id)?,
                user_id: row.user_id,
                occurred_at: Timestamp::from_micros(row.occurred_at),
                expires_at: row.expires_at.map(Timestamp::from_micros),
            }),
        });
    }
    Ok(OutboxPage { rows, head: Sequence(stream.head), floor: Sequence(stream.floor) })
}

/// The newest event of a gateway that a `deployment.ack` can mean.
pub(super) async fn find_deployment(
    connection: &mut SqliteConnection,
    gateway: GatewayKey,
    key: &DeploymentKey,
) -> Result<Option<(Sequence, Option<Timestamp>)>> {
    let row = sqlx::query!(
        r#"
        select o.sequence as "sequence!: i64",
            case json_type(e.payload, '$.performedAt')
                when 'text' then e.payload ->> '$.performedAt'
            end as "performed_at?: String"
        from events e join outbox o on o.event = e.event and o.gateway = $1
        where e.deployment_id = $2 and e.artifact_id = $3 and e.type like '%.' || $4
        order by o.sequence desc limit 1
        "#,
        gateway.0,
        key.deployment_id,
        key.artifact_id,
        key.suffix
    )
    .fetch_optional(connection)
    .await?;
    // A time that can't be read can't be compared either.
    Ok(row.map(|row| {
        let performed_at = row.performed_at.and_then(|text| Timestamp::parse(&text).ok());
        (Sequence(row.sequence), performed_at)
    }))
}
