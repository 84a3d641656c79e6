//! Reads a gateway's log, in pages that are bounded in rows and bytes.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use serde_json::value::RawValue;

use super::super::dialect::log::{Extras, LogEntry};
use super::super::dialect::{Connection, LogStatements, query};
use crate::clock::Timestamp;
use crate::cloud_event::Attributes;
use crate::event::{Event, GatewayKey, Sequence};
use crate::store::deployments::{Candidate, choose, performed_at};
use crate::store::limits::MAX_RANGE_LENGTH;
use crate::store::{
    DeploymentKey, DeploymentMatch, OutboxPage, OutboxRow, Result, StoreError, storable,
};

/// Candidates for a report that one statement reads: most reports have one.
const CANDIDATES_PAGE: i64 = 64;

impl LogEntry {
    /// The size of what may be large.
    fn bytes(&self) -> usize {
        [&self.payload, &self.extras].into_iter().flatten().map(String::len).sum()
    }

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
        let extras: Option<Extras> =
            self.extras
                .as_deref()
                .map(serde_json::from_str)
                .transpose()
                .map_err(|error| StoreError::Corrupt(format!("the row of {id}: {error}")))?;
        let Extras { expires_at, traceparent, attributes: text, withheld } =
            extras.unwrap_or_default();
        let attributes = attributes(text.as_deref())
            .map_err(|error| StoreError::Corrupt(format!("the attributes of {id}: {error}")))?;
        let event = Event {
            id,
            event_type,
            payload,
            correlation_id,
            user_id: self.user_id,
            occurred_at,
            expires_at: expires_at.map(Timestamp::from_micros),
            traceparent,
            attributes,
        };
        Ok(Some(OutboxRow { sequence, event: Arc::new(event), withheld }))
    }
}

/// The attributes of an event that was published as a CloudEvent.
pub(crate) fn attributes(text: Option<&str>) -> serde_json::Result<Option<Box<Attributes>>> {
    text.map(serde_json::from_str).transpose()
}

fn incomplete(sequence: Sequence) -> StoreError {
    StoreError::Corrupt(format!("the event of delivery {sequence} is missing"))
}

/// Ends a page before a row that can't be read.
fn end_at_unreadable(page: &mut OutboxPage, after: Sequence, error: &StoreError) {
    if page.rows.is_empty() {
        let sequence = after.max(page.floor).next();
        tracing::error!(sequence = sequence.0, %error, "an event in a log can't be read");
        page.unreadable = Some(sequence);
    }
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
    loop {
        let row = match found.try_next().await {
            Ok(Some(row)) => row,
            Ok(None) => break,
            // A value of a row is invalid.
            Err(error @ (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))) => {
                drop(found);
                let bounds = bounds(conn, gateway, after).await?;
                end_at_unreadable(page.get_or_insert(bounds), after, &error.into());
                break;
            }
            Err(error) => return Err(error.into()),
        };
        let (head, floor) = (row.head, row.floor);
        let page = page.get_or_insert_with(|| OutboxPage {
            rows: Vec::new(),
            head,
            floor,
            unreadable: None,
        });
        bytes = bytes.saturating_add(row.bytes());
        if bytes > max_bytes && !page.rows.is_empty() {
            break;
        }
        match row.outbox_row() {
            Ok(row) => page.rows.extend(row),
            Err(error) => {
                end_at_unreadable(page, after, &error);
                break;
            }
        }
    }
    page.ok_or(StoreError::NotFound("gateway"))
}

/// A page without rows.
async fn bounds(conn: &mut Connection, gateway: GatewayKey, after: Sequence) -> Result<OutboxPage> {
    let row = conn.outbox_rows(gateway, after, 0, 0).try_next().await?;
    let row = row.ok_or(StoreError::NotFound("gateway"))?;
    Ok(OutboxPage { rows: Vec::new(), head: row.head, floor: row.floor, unreadable: None })
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
        let ids = (&*deployment_id, &*artifact_id);
        let page = deployment_candidates(conn, gateway, ids, key.suffix, up_to).await?;
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

/// The newest events up to `sent` with these ids, of a deployment and an artifact, newest first, with the
/// `performedAt` of their payloads. Excludes events that expired or were trimmed before they were sent.
async fn deployment_candidates(
    conn: &mut Connection,
    gateway: GatewayKey,
    (deployment_id, artifact_id): (&str, &str),
    suffix: &str,
    sent: Sequence,
) -> Result<Vec<Candidate>> {
    let rows = query!(
        r#"
        select o.sequence as "sequence!: Sequence", e.payload as "payload!: String"
        from events e join outbox o on o.event = e.event and o.gateway = $1
        where substr(e.deployment_id, 1, 512) = substr($2, 1, 512)
            and e.deployment_id = $2 and e.artifact_id = $3 and e.type like '%.' || $4
            and o.sequence <= $5
            and not exists (
                select 1 from dead_letters d
                where d.gateway = $1 and d.reason in ('expired', 'retention')
                    and d.first_sequence between o.sequence - $6 and o.sequence
                    and d.last_sequence >= o.sequence
                    and not exists (
                        select 1 from attempts a
                        where a.gateway = $1 and a.connection is not null
                            and a.first_sequence between o.sequence - $6 and o.sequence
                            and a.last_sequence >= o.sequence
                            and (a.reason is null or a.reason not in ('expired', 'retention'))
                    )
            )
        order by o.sequence desc limit $7
        "#,
        gateway.0,
        deployment_id,
        artifact_id,
        suffix,
        sent.0,
        MAX_RANGE_LENGTH,
        CANDIDATES_PAGE
    )
    .fetch(conn);
    // One payload at a time: each may be large.
    Ok(rows.map_ok(|row| (row.sequence, performed_at(&row.payload))).try_collect().await?)
}
