//! Rows that retention removes by age: events, attempts, idempotency keys and connections.

use super::super::dialect::{Connection, RetentionStatements, query};

use super::SpentEvents;
use crate::clock::Timestamp;
use crate::store::{Result, TimedKey, TrimMark, Trimmed};

/// Deletes old events that no log refers to. Those that a log still refers to are not examined
/// again: they are deleted with their last log row, or with the dead letter that they are kept for.
/// Those that another transaction has locked are examined again by the next pass.
pub(super) async fn events(
    conn: &mut Connection,
    spent: SpentEvents,
    batch: i64,
    mark: &mut TrimMark,
    trimmed: &mut Trimmed,
) -> Result<u64> {
    let rows = query!(
        r#"
        select event as "event!: i64", appended_at as "appended_at!: Timestamp" from events
        where (appended_at, event) > ($1, $2) and appended_at < $3
        order by appended_at, event limit $4
        "#,
        mark.event.at as _,
        mark.event.key,
        spent.before as _,
        batch
    )
    .fetch_all(&mut *conn)
    .await?;
    if let Some(last) = rows.last() {
        mark.event = TimedKey { at: last.appended_at, key: last.event };
        let keys: Vec<i64> = rows.iter().map(|row| row.event).collect();
        trimmed.events = conn.delete_spent_events(&keys, spent, mark).await?;
    }
    let found = rows.len() as u64;
    if found < batch.unsigned_abs() {
        mark.return_to_locked();
    }
    Ok(found)
}

/// Deletes old attempts, except failed ones of dead letters that are kept. Those are not examined
/// again: they are deleted when they are too old in any case.
pub(super) async fn attempts(
    conn: &mut Connection,
    before: Timestamp,
    most_events: i64,
    batch: i64,
    mark: &mut TrimMark,
    trimmed: &mut Trimmed,
) -> Result<u64> {
    let rows = query!(
        r#"
        select attempt as "attempt!: i64", finished_at as "finished_at!: Timestamp" from attempts
        where (finished_at, attempt) > ($1, $2) and finished_at < $3
        order by finished_at, attempt limit $4
        "#,
        mark.attempt.at as _,
        mark.attempt.key,
        before as _,
        batch
    )
    .fetch_all(&mut *conn)
    .await?;
    let Some(last) = rows.last() else { return Ok(0) };
    let gone = query!(
        r#"
        delete from attempts
        where (finished_at, attempt) > ($1, $2) and (finished_at, attempt) <= ($3, $4)
            and not (outcome = 'failed' and exists (
                select 1 from dead_letters d
                join streams s on s.gateway = d.gateway join gateways g on g.gateway = d.gateway
                where d.gateway = attempts.gateway
                    and d.first_sequence between attempts.first_sequence - 999 and attempts.last_sequence
                    and d.last_sequence >= attempts.first_sequence
                    and d.redriven_at is null and d.reason <> 'retention'
                    and d.last_sequence > s.head - $5 and g.deleted_at is null
            ))
        "#,
        mark.attempt.at as _,
        mark.attempt.key,
        last.finished_at as _,
        last.attempt,
        most_events
    )
    .execute(&mut *conn)
    .await?;
    mark.attempt = TimedKey { at: last.finished_at, key: last.attempt };
    trimmed.attempts = gone.rows_affected();
    Ok(rows.len() as u64)
}

pub(super) async fn forget_attempts(
    conn: &mut Connection,
    before: Timestamp,
    batch: i64,
) -> Result<u64> {
    let done = query!(
        r#"
        delete from attempts where attempt in (
            select attempt from attempts where finished_at < $1 order by finished_at limit $2
        )
        "#,
        before as _,
        batch
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

pub(super) async fn forget_keys(
    conn: &mut Connection,
    before: Timestamp,
    batch: i64,
) -> Result<u64> {
    let done = query!(
        r#"
        delete from idempotency_keys where (organisation, key) in (
            select organisation, key from idempotency_keys
            where created_at < $1 order by created_at limit $2
        )
        "#,
        before as _,
        batch
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Removes the oldest changes of connections, which are numbered about in the order of their times.
pub(super) async fn forget_changes(
    conn: &mut Connection,
    before: Timestamp,
    batch: i64,
) -> Result<u64> {
    let done = query!(
        r#"
        delete from connection_changes
        where at < $1 and change in (select change from connection_changes order by change limit $2)
        "#,
        before as _,
        batch
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

pub(super) async fn forget_connections(
    conn: &mut Connection,
    before: Timestamp,
    batch: i64,
) -> Result<u64> {
    let done = query!(
        r#"
        delete from connections where id in (
            select id from connections where closed_at < $1 order by closed_at limit $2
        )
        "#,
        before as _,
        batch
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
