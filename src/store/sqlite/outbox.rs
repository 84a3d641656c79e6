//! Reading a gateway's log in pages, and finding the event that a gateway's
//! `deployment.ack` means.

use sqlx::sqlite::SqliteConnection;

use super::rows::{EventColumns, corrupt};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, Sequence};
use crate::store::{DeploymentKey, OutboxPage, OutboxRow, Result};

/// Rows fetched at once while the byte limit is not reached.
const CHUNK: i64 = 64;

/// See [`crate::store::Store::read`].
pub(super) async fn read(
    connection: &mut SqliteConnection,
    gateway: GatewayKey,
    after: Sequence,
    limit: usize,
    max_bytes: usize,
) -> Result<OutboxPage> {
    let stream = sqlx::query!("select head, floor from streams where gateway = $1", gateway.0)
        .fetch_one(&mut *connection)
        .await?;
    let mut rows: Vec<OutboxRow> = Vec::new();
    let mut bytes = 0;
    let mut after = after.max(Sequence(stream.floor));
    while rows.len() < limit && bytes < max_bytes && after.0 < stream.head {
        let chunk = CHUNK.min(i64::try_from(limit - rows.len()).unwrap_or(CHUNK));
        let found = sqlx::query!(
            r#"select o.sequence, e.id, e.type as event_type, e.payload, e.correlation_id,
                      e.user_id, e.occurred_at, e.expires_at
               from outbox o join events e on e.event = o.event
               where o.gateway = $1 and o.sequence > $2
               order by o.sequence limit $3"#,
            gateway.0,
            after.0,
            chunk
        )
        .fetch_all(&mut *connection)
        .await?;
        if found.is_empty() {
            break;
        }
        for row in found {
            if !rows.is_empty() && bytes >= max_bytes {
                break;
            }
            let expected = after.next();
            if row.sequence != expected.0 {
                return Err(corrupt(format!(
                    "the log of gateway {} has a hole: {} follows {after}",
                    gateway.0, row.sequence
                )));
            }
            bytes += row.payload.len();
            after = expected;
            let columns = EventColumns {
                id: row.id,
                event_type: row.event_type,
                payload: row.payload,
                correlation_id: row.correlation_id,
                user_id: row.user_id,
                occurred_at: row.occurred_at,
                expires_at: row.expires_at,
            };
            rows.push(OutboxRow { sequence: expected, event: columns.into_event()? });
        }
    }
    Ok(OutboxPage { rows, head: Sequence(stream.head), floor: Sequence(stream.floor) })
}

/// See [`crate::store::Store::find_deployment`].
pub(super) async fn find_deployment(
    connection: &mut SqliteConnection,
    gateway: GatewayKey,
    key: &DeploymentKey,
) -> Result<Option<(Sequence, Option<Timestamp>)>> {
    let pattern = format!("%.{}", key.suffix);
    let row = sqlx::query!(
        r#"select o.sequence, e.payload ->> '$.performedAt' as "performed_at: String"
           from events e join outbox o on o.event = e.event
           where e.deployment_id = $1 and e.artifact_id = $2 and o.gateway = $3 and e.type like $4
           order by o.sequence desc limit 1"#,
        key.deployment_id,
        key.artifact_id,
        gateway.0,
        pattern
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| {
        let performed_at = row.performed_at.and_then(|text| Timestamp::parse(&text).ok());
        (Sequence(row.sequence), performed_at)
    }))
}
