//! Removing what is too old or too much, in bounded batches. Nothing above an
//! unconfirmed position goes before its hard limit, and what then goes is
//! recorded as failed.

use sqlx::sqlite::SqliteConnection;

use super::record::Ledger;
use crate::clock::Timestamp;
use crate::event::{GatewayKey, NodeId, Reason, Sequence};
use crate::store::{Range, Result, RetentionLimits, Trimmed};

/// See [`crate::store::Store::trim`].
pub(super) async fn trim(
    connection: &mut SqliteConnection,
    now: Timestamp,
    node: NodeId,
    limits: RetentionLimits,
) -> Result<Trimmed> {
    let mut trimmed = Trimmed::default();
    forget_positions(connection, now, &limits).await?;
    let old = now.minus(limits.max_age).micros();
    let hard_old = now.minus(limits.hard_max_age).micros();
    let streams = sqlx::query!(
        r#"select s.gateway, s.head, s.floor,
                  coalesce((select min(c.received) from cursors c where c.gateway = s.gateway
                            and (c.instance <> '' or not exists (select 1 from cursors d
                                 where d.gateway = s.gateway and d.instance <> ''))), 0) as "confirmed!: i64",
                  coalesce((select max(o.sequence) from outbox o join events e on e.event = o.event
                            where o.gateway = s.gateway and o.sequence <= s.floor + $3
                              and e.appended_at < $1), 0) as "old!: i64",
                  coalesce((select max(o.sequence) from outbox o join events e on e.event = o.event
                            where o.gateway = s.gateway and o.sequence <= s.floor + $3
                              and e.appended_at < $2), 0) as "hard_old!: i64"
           from streams s where s.head > s.floor"#,
        old,
        hard_old,
        limits.batch
    )
    .fetch_all(&mut *connection)
    .await?;
    for stream in streams {
        let budget = limits.batch - i64::try_from(trimmed.deliveries).unwrap_or(i64::MAX);
        if budget <= 0 {
            trimmed.more = true;
            break;
        }
        let soft = stream.old.max(stream.head - limits.max_events).min(stream.confirmed);
        let hard = stream.hard_old.max(stream.head - limits.hard_max_events);
        let wanted = soft.max(hard);
        let upto = wanted.min(stream.floor + budget);
        if upto <= stream.floor {
            continue;
        }
        trimmed.more |= upto < wanted;
        trim_stream(
            &mut Ledger { connection: &mut *connection, now, node: node.to_string() },
            GatewayKey(stream.gateway),
            Range { first: Sequence(stream.floor + 1), last: Sequence(upto) },
            &mut trimmed,
        )
        .await?;
    }
    trim_events(connection, old, limits.batch, &mut trimmed).await?;
    trim_history(connection, now, old, limits.batch, &mut trimmed).await?;
    Ok(trimmed)
}

/// Positions that ended connections left behind count only for a while.
async fn forget_positions(
    connection: &mut SqliteConnection,
    now: Timestamp,
    limits: &RetentionLimits,
) -> Result<()> {
    let left_before = now.minus(limits.left_behind).micros();
    sqlx::query!("delete from cursors where left_at < $1", left_before).execute(connection).await?;
    Ok(())
}

async fn trim_stream(
    ledger: &mut Ledger<'_>,
    gateway: GatewayKey,
    range: Range,
    trimmed: &mut Trimmed,
) -> Result<()> {
    let confirmed = sqlx::query_scalar!(
        "select received from cursors where gateway = $1 and instance = ''",
        gateway.0
    )
    .fetch_optional(&mut *ledger.connection)
    .await?
    .unwrap_or(0);
    if range.last.0 > confirmed {
        let lost = Range { first: range.first.max(Sequence(confirmed + 1)), last: range.last };
        ledger.give_up(gateway, lost, Reason::Retention).await?;
        let now = ledger.now;
        ledger
            .fail(
                gateway,
                lost,
                Reason::Retention,
                Some("removed by the retention's hard limit"),
                None,
                now,
                now,
            )
            .await?;
        trimmed.lost += u64::try_from(lost.last.0 - lost.first.0 + 1).unwrap_or(0);
        let now = now.micros();
        // Nothing below the floor can be confirmed any more: the position passes it.
        sqlx::query!(
            "insert into cursors (gateway, instance, received, updated_at) values ($1, '', $2, $3)
             on conflict (gateway, instance) do update set received = max(received, excluded.received)",
            gateway.0,
            lost.last.0,
            now
        )
        .execute(&mut *ledger.connection)
        .await?;
    }
    trimmed.deliveries += sqlx::query!(
        "delete from outbox where gateway = $1 and sequence <= $2",
        gateway.0,
        range.last.0
    )
    .execute(&mut *ledger.connection)
    .await?
    .rows_affected();
    sqlx::query!(
        "update streams set floor = $2, missed = max(missed, $2) where gateway = $1",
        gateway.0,
        range.last.0
    )
    .execute(&mut *ledger.connection)
    .await?;
    Ok(())
}

/// Events that no log names any more. Only old ones are looked at, so that the
/// search is bounded by what retention left.
async fn trim_events(
    connection: &mut SqliteConnection,
    old: i64,
    batch: i64,
    trimmed: &mut Trimmed,
) -> Result<()> {
    trimmed.events = sqlx::query!(
        "delete from events where event in
             (select e.event from events e
              where e.appended_at < $1
                and not exists (select 1 from outbox o where o.event = e.event) limit $2)",
        old,
        batch
    )
    .execute(connection)
    .await?
    .rows_affected();
    trimmed.more |= i64::try_from(trimmed.events).unwrap_or(i64::MAX) == batch;
    Ok(())
}

async fn trim_history(
    connection: &mut SqliteConnection,
    now: Timestamp,
    old: i64,
    batch: i64,
    trimmed: &mut Trimmed,
) -> Result<()> {
    trimmed.attempts = sqlx::query!(
        "delete from attempts where attempt in
             (select attempt from attempts where finished_at < $1 limit $2)",
        old,
        batch
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    trimmed.more |= i64::try_from(trimmed.attempts).unwrap_or(i64::MAX) == batch;
    sqlx::query!(
        "delete from connections where id in
             (select id from connections where closed_at < $1 limit $2)",
        old,
        batch
    )
    .execute(&mut *connection)
    .await?;
    let day_ago = now.minus(std::time::Duration::from_hours(24)).micros();
    sqlx::query!(
        "delete from idempotency_keys where (organisation, key) in
             (select organisation, key from idempotency_keys where created_at < $1 limit $2)",
        day_ago,
        batch
    )
    .execute(connection)
    .await?;
    Ok(())
}
