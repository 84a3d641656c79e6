//! Rejected rows: listed for operators, put back into the inbox on request, and removed by
//! retention.

use super::super::dialect::{Connection, InboxStatements, query};
use super::super::log::{append, targets};
use crate::clock::Timestamp;
use crate::event::OrganisationKey;
use crate::store::audit::entries;
use crate::store::limits::RETRIED;
use crate::store::{
    Audited, Conflict, NewEvent, Publish, RejectedFilter, RejectedRow, Rejection, Result, Retried,
    RetrySelection, Retryable, StoreError,
};

pub(super) const MISSING: StoreError = StoreError::NotFound("rejected row");

/// A page of rejected rows, newest first.
pub(super) async fn list(
    conn: &mut Connection,
    organisation: OrganisationKey,
    filter: &RejectedFilter,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<RejectedRow>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    conn.rejected_rows(organisation, None, filter, before, limit).await
}

/// One row, whether it was put back or not.
pub(super) async fn one(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: i64,
) -> Result<Option<RejectedRow>> {
    let any = RejectedFilter { retried: true, ..RejectedFilter::default() };
    Ok(conn.rejected_rows(organisation, Some(id), &any, None, 1).await?.pop())
}

/// One row, with the beginning of its payload.
pub(super) async fn show(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: i64,
    max_chars: usize,
) -> Result<Option<(RejectedRow, String)>> {
    let Some(row) = one(conn, organisation, id).await? else {
        return Ok(None);
    };
    let max_chars = i32::try_from(max_chars).unwrap_or(i32::MAX);
    Ok(Some((row, conn.rejected_payload(id, max_chars).await?)))
}

/// Puts rows back at the end of the inbox, oldest first.
pub(super) async fn retry(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    selection: RetrySelection,
) -> Result<Audited<Retried>> {
    let Retryable { ids, more } = retryable(conn, organisation, selection).await?;
    let retried = conn.retry_rejected_rows(now, &ids).await?;
    Ok(Audited::new(Retried { retried, more }, entries::rejected_retried(&ids)))
}

/// The rows that a retry puts back, locked.
pub(super) async fn retryable(
    conn: &mut Connection,
    organisation: OrganisationKey,
    selection: RetrySelection,
) -> Result<Retryable> {
    let (one, filter) = match selection {
        RetrySelection::One(id) => (Some(id), RejectedFilter::default()),
        RetrySelection::Filter(filter) => (None, filter),
    };
    let mut ids = conn.retryable_rows(organisation, one, &filter, RETRIED + 1).await?;
    if let (Some(id), true) = (one, ids.is_empty()) {
        return Err(match show(conn, organisation, id, 0).await? {
            Some(_) => Conflict::PutBack(id).into(),
            None => MISSING,
        });
    }
    let more = ids.len() > usize::try_from(RETRIED).unwrap_or(usize::MAX);
    if more {
        ids.pop();
    }
    Ok(Retryable { ids, more })
}

/// The number of gateways that an event would be appended for, or why it would be rejected.
pub(super) async fn would_publish(
    conn: &mut Connection,
    organisation: OrganisationKey,
    event: NewEvent,
) -> Result<std::result::Result<usize, Rejection>> {
    let publish = Publish { organisation, events: vec![Ok(event)], idempotency: None };
    let targets = targets::resolve(conn, &[&publish]).await?;
    let checked = append::check(conn, &publish, &targets).await?;
    Ok(checked.map(|(_, gateways)| gateways.len()).map_err(Into::into))
}

/// Deletes one row.
pub(super) async fn delete(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: i64,
) -> Result<Audited<()>> {
    let row = one(conn, organisation, id).await?.ok_or(MISSING)?;
    let done = query!(
        r#"
        delete from inbox_rejected
        where id = $2 and organisation = (select name from organisations where organisation = $1)
        "#,
        organisation.0,
        id
    )
    .execute(conn)
    .await?;
    if done.rows_affected() == 0 {
        // Another node deleted it meanwhile.
        return Err(MISSING);
    }
    Ok(Audited::new((), [entries::rejected_deleted(&row)]))
}

/// Deletes a batch of rows that were rejected before this; returns how many.
pub(crate) async fn forget_rejected(
    conn: &mut Connection,
    before: Timestamp,
    batch: i64,
) -> Result<u64> {
    let done = query!(
        r#"
        delete from inbox_rejected where id in (
            select id from inbox_rejected where rejected_at < $1 order by rejected_at limit $2
        )
        "#,
        before as _,
        batch
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
