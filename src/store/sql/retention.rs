//! Retention: one bounded batch of what is too old or too much. What is not
//! confirmed is kept until the hard limits, and then recorded as lost.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Chore;
use super::dialect::{self, Connection, query};
use super::inbox::rejected::forget_rejected;
use super::ledger::{self, Ended, How};
use super::positions;
use crate::clock::Timestamp;
use crate::event::{GatewayKey, NodeId, Reason, Sequence};
use crate::store::{Range, Result, RetentionLimits, Trimmed};

/// How long a repeated request is recognised.
const REPEATS: Duration = Duration::from_hours(24);

/// A stream with rows.
struct Stream {
    gateway: GatewayKey,
    head: i64,
    /// The lowest position that anybody may come back to.
    lowest: i64,
    confirmed: Sequence,
}

/// Removes one batch.
pub(super) async fn trim(
    connection: &mut Connection,
    now: Timestamp,
    node: NodeId,
    limits: &RetentionLimits,
) -> Result<Trimmed> {
    let mut trimmed = Trimmed::default();
    let mut budget = limits.batch.max(1);
    if !dialect::only_one(connection, Chore::Retention).await? {
        return Ok(trimmed);
    }
    let mut streams = overfull(connection, now, limits).await?;
    let keys: BTreeSet<GatewayKey> = streams.iter().map(|stream| stream.gateway).collect();
    if dialect::lock_streams(connection, &keys).await? {
        streams = overfull(connection, now, limits).await?;
        streams.retain(|stream| keys.contains(&stream.gateway));
    }
    for stream in streams {
        if budget <= 0 {
            trimmed.more = true;
            break;
        }
        let rows = cut_off(connection, now, node, limits, &stream, budget, &mut trimmed).await?;
        trimmed.more |= rows >= budget;
        budget -= rows;
    }
    dialect::forget_positions(connection, now.minus(limits.left_behind)).await?;
    let batch = limits.batch.max(1);
    let full = |rows: u64| rows >= u64::try_from(batch).unwrap_or(u64::MAX);
    let events = dialect::forget_events(connection, now.minus(limits.max_age), batch).await?;
    trimmed.events += events;
    trimmed.attempts = forget_attempts(connection, now.minus(limits.max_age), batch).await?;
    let keys = forget_keys(connection, now.minus(REPEATS), batch).await?;
    let closed = forget_connections(connection, now.minus(limits.max_age), batch).await?;
    // Like unconfirmed events: what was not delivered is kept longer than what was.
    let rejected = forget_rejected(connection, now.minus(limits.hard_max_age), batch).await?;
    trimmed.more |= full(events) || full(trimmed.attempts) || full(keys) || full(closed);
    trimmed.more |= full(rejected);
    Ok(trimmed)
}

/// Streams whose oldest row is too old or which have too many.
async fn overfull(
    connection: &mut Connection,
    now: Timestamp,
    limits: &RetentionLimits,
) -> Result<Vec<Stream>> {
    let oldest = now.minus(limits.max_age.min(limits.hard_max_age));
    let most = limits.max_events.min(limits.hard_max_events);
    let rows = query!(
        r#"
        select s.gateway as "gateway!: GatewayKey", s.head as "head!: i64",
            coalesce(own.received, 0) as "confirmed!: Sequence",
            coalesce((select min(u.received) from cursors u where u.gateway = s.gateway), 0)
                as "lowest!: i64"
        from streams s left join cursors own on own.gateway = s.gateway and own.instance = ''
        where s.head > s.floor and (
            s.head - s.floor > $2
            or (
                select e.appended_at from outbox o join events e using (event)
                where o.gateway = s.gateway order by o.sequence limit 1
            ) < $1
        )
        "#,
        oldest as _,
        most
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Stream {
            gateway: row.gateway,
            head: row.head,
            lowest: row.lowest.min(row.confirmed.0),
            confirmed: row.confirmed,
        })
        .collect())
}

/// Removes a stream's oldest rows, as many as the limits say and the budget
/// allows; returns how many.
async fn cut_off(
    connection: &mut Connection,
    now: Timestamp,
    node: NodeId,
    limits: &RetentionLimits,
    stream: &Stream,
    budget: i64,
    trimmed: &mut Trimmed,
) -> Result<i64> {
    let rows = query!(
        r#"
        select o.sequence as "sequence!: i64", o.event as "event!: i64",
            e.appended_at as "appended_at!: Timestamp"
        from outbox o join events e using (event)
        where o.gateway = $1 order by o.sequence limit $2
        "#,
        stream.gateway.0,
        budget
    )
    .fetch_all(&mut *connection)
    .await?;
    let soft = (now.minus(limits.max_age), stream.head - limits.max_events);
    let hard = (now.minus(limits.hard_max_age), stream.head - limits.hard_max_events);
    let gone: Vec<_> = rows
        .iter()
        .take_while(|row| {
            let beyond =
                |(oldest, last): (Timestamp, i64)| row.appended_at < oldest || row.sequence <= last;
            beyond(hard) || row.sequence <= stream.lowest && beyond(soft)
        })
        .collect();
    let (Some(first), Some(last)) = (gone.first(), gone.last()) else {
        return Ok(0);
    };
    let range = Range { first: Sequence(first.sequence), last: Sequence(last.sequence) };
    if let Some(open) = positions::above(range, stream.confirmed) {
        trimmed.lost += lose(connection, now, node, stream.gateway, open).await?;
    }
    // Every row up to the new floor is answered for, so the sweep passes it.
    query!(
        "update streams set floor = $2, missed = case when missed < $2 then $2 else missed end where gateway = $1",
        stream.gateway.0,
        range.last.0
    )
    .execute(&mut *connection)
    .await?;
    query!(
        "delete from outbox where gateway = $1 and sequence <= $2",
        stream.gateway.0,
        range.last.0
    )
    .execute(&mut *connection)
    .await?;
    // Younger ones stay until they are old enough, so that a repeat is recognised.
    let events: Vec<i64> = gone.iter().map(|row| row.event).collect();
    let before = now.minus(REPEATS);
    trimmed.events += dialect::forget_trimmed_events(connection, &events, before).await?;
    let count = i64::try_from(gone.len()).unwrap_or(i64::MAX);
    trimmed.deliveries += gone.len() as u64;
    Ok(count)
}

/// Records what is removed unconfirmed; what is dead already is on record.
async fn lose(
    connection: &mut Connection,
    now: Timestamp,
    node: NodeId,
    gateway: GatewayKey,
    range: Range,
) -> Result<u64> {
    let mut lost = 0;
    for part in ledger::not_dead(connection, gateway, range).await? {
        let ended = Ended {
            gateway,
            connection: None,
            range: part,
            how: How::Failed(Reason::Retention, ""),
            started_at: now,
            finished_at: now,
        };
        ledger::write(connection, node, &ended).await?;
        lost += u64::try_from(part.last.0 - part.first.0 + 1).unwrap_or(0);
    }
    ledger::bury(connection, gateway, range, Reason::Retention, now).await?;
    Ok(lost)
}

/// Old attempts, and dead letters whose deliveries are gone from the log and
/// behind every position: until then they say that these were not delivered,
/// and keep a connection that comes late from recording them as lost again.
async fn forget_attempts(
    connection: &mut Connection,
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
    .execute(&mut *connection)
    .await?;
    query!(
        r#"
        delete from dead_letters where (gateway, first_sequence) in (
            select d.gateway, d.first_sequence
            from dead_letters d left join streams s using (gateway)
            where d.dead_at < $1 and d.last_sequence <= coalesce(s.floor, d.last_sequence)
                and d.last_sequence <= coalesce(
                    (select min(u.received) from cursors u where u.gateway = d.gateway),
                    (select d.last_sequence from gateways g where g.gateway = d.gateway and g.deleted_at is not null),
                    0
                )
            limit $2
        )
        "#,
        before as _,
        batch
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

async fn forget_keys(connection: &mut Connection, before: Timestamp, batch: i64) -> Result<u64> {
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
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

async fn forget_connections(
    connection: &mut Connection,
    before: Timestamp,
    batch: i64,
) -> Result<u64> {
    let done = query!(
        r#"
        delete from connections where id in (
            select id from connections where closed_at < $1 limit $2
        )
        "#,
        before as _,
        batch
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
