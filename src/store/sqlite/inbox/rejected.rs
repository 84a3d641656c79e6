//! Rows that could not be published: shown to those who can put things right,
//! put back when they have, and forgotten when nobody did.

use sqlx::SqliteConnection;

use super::super::gateways::parsed;
use crate::clock::Timestamp;
use crate::event::OrganisationKey;
use crate::store::{RejectedFilter, RejectedRow, Result, Retried, RetrySelection, StoreError};

/// Rows per retry at the most: it is one transaction, and others wait for it.
const MOST: i64 = 1_000;

const MISSING: StoreError = StoreError::NotFound("rejected row");

/// A page, newest first.
pub(super) async fn list(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    filter: &RejectedFilter,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<RejectedRow>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    select(connection, organisation, None, filter, before, limit).await
}

/// One, with the beginning of its payload.
pub(super) async fn show(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    id: i64,
    max_chars: usize,
) -> Result<Option<(RejectedRow, String)>> {
    let any = RejectedFilter { retried: true, ..RejectedFilter::default() };
    let found = select(&mut *connection, organisation, Some(id), &any, None, 1).await?.pop();
    let Some(row) = found else {
        return Ok(None);
    };
    let max_chars = i64::try_from(max_chars).unwrap_or(i64::MAX);
    let payload = sqlx::query_scalar!(
        r#"
        select cast(substr(payload, 1, $2) as blob) as "payload!: Vec<u8>"
        from inbox_rejected where id = $1
        "#,
        id,
        max_chars
    )
    .fetch_one(connection)
    .await?;
    Ok(Some((row, lossy(&payload))))
}

/// Columns are cut for the page: a hostile row must not fill the memory.
async fn select(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    id: Option<i64>,
    filter: &RejectedFilter,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<RejectedRow>> {
    let (reason, from, to) = bounds(filter);
    let rows = sqlx::query!(
        r#"
        select r.id as "id!: i64", r.inbox_id as "inbox_id!: i64", r.reason as "reason!: String",
            r.detail as "detail!: String", r.rejected_at as "rejected_at!: i64",
            r.retried_at as "retried_at?: i64", r.inserted_at as "inserted_at!: i64",
            cast(substr(r.type, 1, 4096) as blob) as "event_type!: Vec<u8>",
            cast(substr(r.gateway_id, 1, 4096) as blob) as "gateway_id?: Vec<u8>",
            cast(substr(r.target, 1, 4096) as blob) as "target?: Vec<u8>",
            cast(substr(r.event_id, 1, 4096) as blob) as "event_id?: Vec<u8>",
            cast(substr(r.correlation_id, 1, 4096) as blob) as "correlation_id?: Vec<u8>",
            cast(substr(r.user_id, 1, 4096) as blob) as "user_id?: Vec<u8>",
            cast(substr(r.expires_at, 1, 4096) as blob) as "expires_at?: Vec<u8>",
            octet_length(r.payload) as "payload_bytes!: i64"
        from inbox_rejected r join organisations o on o.name = r.organisation
        where o.organisation = $1 and ($2 is null or r.id = $2) and ($3 is null or r.id < $3)
            and ($4 is null or r.reason = $4) and ($5 is null or r.rejected_at >= $5)
            and ($6 is null or r.rejected_at < $6) and ($7 or r.retried_at is null)
        order by r.id desc limit $8
        "#,
        organisation.0,
        id,
        before,
        reason,
        from,
        to,
        filter.retried,
        limit
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(RejectedRow {
                id: row.id,
                inbox_id: row.inbox_id,
                reason: parsed("reason", &row.reason)?,
                detail: row.detail,
                rejected_at: Timestamp::from_micros(row.rejected_at),
                retried_at: row.retried_at.map(Timestamp::from_micros),
                inserted_at: Timestamp::from_micros(row.inserted_at),
                event_type: lossy(&row.event_type),
                gateway_id: row.gateway_id.as_deref().map(lossy),
                target: row.target.as_deref().map(lossy),
                event_id: row.event_id.as_deref().map(lossy),
                correlation_id: row.correlation_id.as_deref().map(lossy),
                user_id: row.user_id.as_deref().map(lossy),
                expires_at: row.expires_at.as_deref().map(lossy),
                payload_bytes: row.payload_bytes,
            })
        })
        .collect()
}

/// Puts rows back at the end of the inbox, in the order of their rejection.
pub(super) async fn retry(
    connection: &mut SqliteConnection,
    now: Timestamp,
    organisation: OrganisationKey,
    selection: RetrySelection,
) -> Result<Retried> {
    let (one, filter) = match selection {
        RetrySelection::One(id) => (Some(id), RejectedFilter::default()),
        RetrySelection::Filter(filter) => (None, filter),
    };
    let (reason, from, to) = bounds(&filter);
    let limit = MOST + 1;
    let mut chosen = sqlx::query_scalar!(
        r#"
        select r.id as "id!: i64"
        from inbox_rejected r join organisations o on o.name = r.organisation
        where o.organisation = $1 and r.retried_at is null and ($2 is null or r.id = $2)
            and ($3 is null or r.reason = $3) and ($4 is null or r.rejected_at >= $4)
            and ($5 is null or r.rejected_at < $5)
        order by r.id limit $6
        "#,
        organisation.0,
        one,
        reason,
        from,
        to,
        limit
    )
    .fetch_all(&mut *connection)
    .await?;
    if let (Some(id), true) = (one, chosen.is_empty()) {
        return Err(match show(connection, organisation, id, 0).await? {
            Some(_) => StoreError::Conflict(format!(
                "The rejected row {id} has been put back into the inbox already."
            )),
            None => MISSING,
        });
    }
    let more = chosen.len() > usize::try_from(MOST).unwrap_or(usize::MAX);
    if more {
        chosen.pop();
    }
    let retried = put_back(connection, now, &chosen).await?;
    Ok(Retried { retried, more })
}

async fn put_back(connection: &mut SqliteConnection, now: Timestamp, ids: &[i64]) -> Result<u64> {
    let (ids, now) = (super::super::json(ids)?, now.micros());
    sqlx::query!(
        r#"
        insert into inbox (organisation, type, payload, gateway_id, target, event_id,
            correlation_id, user_id, expires_at, inserted_at)
        select r.organisation, r.type, r.payload, r.gateway_id, r.target, r.event_id,
            r.correlation_id, r.user_id, r.expires_at, r.inserted_at
        from json_each($1) as chosen join inbox_rejected r on r.id = chosen.value
        order by r.id
        "#,
        ids
    )
    .execute(&mut *connection)
    .await?;
    let done = sqlx::query!(
        r#"
        update inbox_rejected set retried_at = $2
        where id in (select value from json_each($1))
        "#,
        ids,
        now
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Removes one for good.
pub(super) async fn delete(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    id: i64,
) -> Result<()> {
    let done = sqlx::query!(
        r#"
        delete from inbox_rejected
        where id = $2 and organisation = (select name from organisations where organisation = $1)
        "#,
        organisation.0,
        id
    )
    .execute(connection)
    .await?;
    if done.rows_affected() == 0 { Err(MISSING) } else { Ok(()) }
}

/// Removes a batch of those that were rejected long ago; returns how many.
pub(in super::super) async fn forget_rejected(
    connection: &mut SqliteConnection,
    before: Timestamp,
    batch: i64,
) -> Result<u64> {
    let before = before.micros();
    let done = sqlx::query!(
        r#"
        delete from inbox_rejected where id in (
            select id from inbox_rejected where rejected_at < $1 order by rejected_at limit $2
        )
        "#,
        before,
        batch
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

type Bounds = (Option<&'static str>, Option<i64>, Option<i64>);

fn bounds(filter: &RejectedFilter) -> Bounds {
    let reason = filter.reason.map(crate::store::RejectionReason::as_str);
    (reason, filter.from.map(Timestamp::micros), filter.to.map(Timestamp::micros))
}

/// What others wrote may be no text; it is shown as far as it is.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
