//! Retention: removes one bounded batch of what exceeds the limits. Unconfirmed events are kept
//! until the hard limits, and then recorded as failed. Each batch reads one kind of row along an
//! index, and a mark says where the next batch continues, so that no row is read twice.

use std::collections::BTreeSet;

use super::dialect::nodes::ExclusiveTask;
use super::dialect::retention::SpentEvents;
use super::dialect::{Connection, NodeStatements, RetentionStatements, query, query_as};
use super::gateways::history;
use super::inbox::rejected::forget_rejected;
use super::ledger::{self, Ended, How};
use super::log::counts;
use super::supersession::not_superseded;
use super::{alerts, audit, bulk, console_sessions, cursors, instances};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, NodeId, Reason, Sequence};
use crate::store::limits::{IDEMPOTENCY_WINDOW, TRIMMED_STREAMS};
use crate::store::{Range, Result, RetentionLimits, TrimMark, TrimStep, Trimmed};

mod dead_letters;
mod rows;
mod trimmed;

/// A stream, and when the oldest row of its log was appended.
struct Stream {
    gateway: GatewayKey,
    head: i64,
    floor: i64,
    /// The lowest position that a connection may resume from.
    lowest: i64,
    confirmed: Sequence,
    /// The gateway is deleted, so no connection will resume.
    deleted: bool,
    oldest: Option<Timestamp>,
    /// The first trimmed delivery whose event is kept.
    trimmed: Option<i64>,
}

/// Rows to remove: those that were appended before an instant, and those up to a sequence.
#[derive(Clone, Copy)]
struct Beyond {
    appended_before: Timestamp,
    up_to: i64,
}

impl Beyond {
    fn has(self, appended_at: Timestamp, sequence: i64) -> bool {
        appended_at < self.appended_before || sequence <= self.up_to
    }
}

impl Stream {
    /// The limits for settled rows.
    fn soft(&self, now: Timestamp, limits: &RetentionLimits) -> Beyond {
        let appended_before = now.minus(limits.max_age);
        Beyond { appended_before, up_to: self.head - limits.max_events }
    }

    /// The limits for all rows.
    fn hard(&self, now: Timestamp, limits: &RetentionLimits) -> Beyond {
        let appended_before = now.minus(limits.hard_max_age);
        Beyond { appended_before, up_to: self.head - limits.hard_max_events }
    }

    /// Whether a row exceeds the limits.
    fn is_removable(
        &self,
        now: Timestamp,
        limits: &RetentionLimits,
        appended_at: Timestamp,
        sequence: i64,
    ) -> bool {
        // All deliveries of a deleted gateway are settled.
        let is_settled = self.deleted || sequence <= self.lowest.min(self.confirmed.0);
        self.hard(now, limits).has(appended_at, sequence)
            || is_settled && self.soft(now, limits).has(appended_at, sequence)
    }

    /// Whether more trimmed deliveries are kept than the hard limit allows.
    fn exceeds_trimmed_limit(&self, limits: &RetentionLimits) -> bool {
        self.trimmed.is_some_and(|first| first <= self.head - limits.hard_max_events)
    }

    /// Whether its oldest row exceeds the limits. If not, no other row does.
    fn is_overfull(&self, now: Timestamp, limits: &RetentionLimits) -> bool {
        self.oldest.is_some_and(|oldest| self.is_removable(now, limits, oldest, self.floor + 1))
    }
}

/// Removes one batch of one kind, and moves the mark past the rows it examined.
pub(super) async fn trim(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    limits: &RetentionLimits,
    mut mark: TrimMark,
) -> Result<(Trimmed, TrimMark)> {
    let mut trimmed = Trimmed::default();
    let now = mark.measure_by(now);
    if !conn.try_lock_task(ExclusiveTask::Retention).await? {
        return Ok((trimmed, mark));
    }
    let batch = limits.batch.max(1);
    let oldest = now.minus(limits.max_age);
    let rows = match mark.step {
        TrimStep::Logs => {
            let is_over = logs(conn, now, node, limits, &mut mark, &mut trimmed).await?;
            if is_over { 0 } else { u64::MAX }
        }
        TrimStep::Positions => {
            conn.delete_orphaned_cursors(now.minus(limits.orphaned_cursor_max_age), batch).await?
        }
        TrimStep::Instances => {
            let before = now.minus(limits.instance_max_age);
            let reached = &mut mark.gateway;
            let (expired, is_over) =
                instances::expiry::expire(conn, now, before, reached, batch).await?;
            trimmed.instances = expired;
            if is_over { 0 } else { u64::MAX }
        }
        TrimStep::ExpiredInstances => {
            instances::expiry::forget(conn, limits.replaced_before(now), batch).await?
        }
        TrimStep::Events => {
            let spent = SpentEvents { before: oldest, most_events: limits.hard_max_events };
            rows::events(conn, spent, batch, &mut mark, &mut trimmed).await?
        }
        TrimStep::Attempts => {
            let most = limits.hard_max_events;
            rows::attempts(conn, oldest, most, batch, &mut mark, &mut trimmed).await?
        }
        TrimStep::OldAttempts => {
            let before = limits.dead_before(now);
            trimmed.attempts = rows::forget_attempts(conn, before, batch).await?;
            trimmed.attempts
        }
        TrimStep::DeadLetters => {
            dead_letters::forget_spent(conn, oldest, limits.hard_max_events, batch, &mut mark)
                .await?
        }
        TrimStep::OldDeadLetters => {
            let (before, spent) = (limits.dead_before(now), SpentEvents::of(now, limits));
            dead_letters::forget_old(conn, before, spent, batch, &mut mark, &mut trimmed).await?
        }
        TrimStep::Keys => rows::forget_keys(conn, now.minus(IDEMPOTENCY_WINDOW), batch).await?,
        TrimStep::Connections => rows::forget_connections(conn, oldest, batch).await?,
        TrimStep::Changes => rows::forget_changes(conn, oldest, batch).await?,
        // As unconfirmed events, rejected rows are kept longer than confirmed events.
        TrimStep::Rejected => forget_rejected(conn, now.minus(limits.hard_max_age), batch).await?,
        TrimStep::ConsoleSessions => console_sessions::forget(conn, now, batch).await?,
        TrimStep::Audit => audit::trim(conn, now.minus(limits.audit_max_age), batch).await?,
        TrimStep::Jobs => bulk::jobs::forget(conn, now.minus(limits.audit_max_age), batch).await?,
        TrimStep::GatewayHistory => {
            history::forget(conn, limits.replaced_before(now), batch).await?
        }
        TrimStep::Resyncs => {
            instances::resync::forget(conn, now.minus(limits.audit_max_age), batch).await?
        }
        TrimStep::Alerts => alerts::outbox::forget(conn, oldest, batch).await?,
        TrimStep::FailureCounts => conn.merge_failure_counts(now, batch).await?,
        TrimStep::EventCounts => {
            counts::forget(conn, now.minus(limits.audit_max_age), batch).await?
        }
    };
    if rows >= u64::try_from(batch).unwrap_or(u64::MAX) {
        trimmed.more = true;
    } else {
        trimmed.more = mark.step.next().is_some();
        mark.step = mark.step.next().unwrap_or(TrimStep::Logs);
        mark.gateway = 0;
    }
    Ok((trimmed, mark))
}

/// Trims the next logs, by at most `batch` rows in all. Returns whether these were the last logs.
async fn logs(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    limits: &RetentionLimits,
    mark: &mut TrimMark,
    trimmed: &mut Trimmed,
) -> Result<bool> {
    let mut found = streams(conn, mark.gateway).await?;
    let is_over = i64::try_from(found.len()).is_ok_and(|count| count < TRIMMED_STREAMS);
    let reached = found.last().map_or(mark.gateway, |stream| stream.gateway.0);
    found.retain(|stream| stream.exceeds_trimmed_limit(limits) || stream.is_overfull(now, limits));
    // Streams must be locked before any row of `events`, in the order of all transactions that lock
    // both.
    let keys: BTreeSet<GatewayKey> = found.iter().map(|stream| stream.gateway).collect();
    if conn.lock_streams(&keys).await?.may_have_changed {
        found = streams(conn, mark.gateway).await?;
        found.retain(|stream| keys.contains(&stream.gateway));
    }
    for stream in found.iter().filter(|stream| stream.exceeds_trimmed_limit(limits)) {
        trimmed::forget(conn, now, limits, stream, mark, trimmed).await?;
    }
    found.retain(|stream| stream.is_overfull(now, limits));
    let mut budget = limits.batch.max(1);
    for stream in found {
        let cut = cut_off(conn, now, node, limits, &stream, budget, (mark, trimmed)).await?;
        mark.dead_letters_wait |= cut.beyond_positions;
        budget -= cut.rows;
        if budget <= 0 {
            // This log may have more rows to remove.
            mark.gateway = stream.gateway.0 - 1;
            return Ok(false);
        }
    }
    mark.gateway = reached;
    Ok(is_over)
}

/// The next streams after a gateway's key.
async fn streams(conn: &mut Connection, after: i64) -> Result<Vec<Stream>> {
    Ok(query_as!(
        Stream,
        r#"
        select s.gateway as "gateway!: GatewayKey", s.head as "head!: i64", s.floor as "floor!: i64",
            coalesce(own.received, 0) as "confirmed!: Sequence",
            coalesce((
                select min(case when u.confirm = 'applied' then u.applied_up_to else u.received end)
                from cursors u where u.gateway = s.gateway
            ), 0) as "lowest!: i64",
            (g.deleted_at is not null) as "deleted!: bool",
            (
                select coalesce(o.appended_at, (
                    select case when d.redriven_first + d.last_sequence - d.first_sequence >= o.sequence
                        then d.redriven_at end
                    from dead_letters d
                    where d.gateway = o.gateway and d.redriven_first <= o.sequence
                    order by d.redriven_first desc limit 1
                ), e.appended_at)
                from outbox o join events e using (event)
                where o.gateway = s.gateway order by o.sequence limit 1
            ) as "oldest?: Timestamp",
            (select min(t.sequence) from trimmed t where t.gateway = s.gateway) as "trimmed?: i64"
        from streams s join gateways g on g.gateway = s.gateway
        left join cursors own on own.gateway = s.gateway and own.instance = ''
        where s.gateway > $1 order by s.gateway limit $2
        "#,
        after,
        TRIMMED_STREAMS
    )
    .fetch_all(conn)
    .await?)
}

/// The result of removing a stream's oldest rows.
#[derive(Default)]
struct Cut {
    /// Rows examined.
    rows: i64,
    /// Whether rows were removed that a position has not passed.
    beyond_positions: bool,
}

/// Removes a stream's oldest rows that exceed the limits, within the budget of rows.
async fn cut_off(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    limits: &RetentionLimits,
    stream: &Stream,
    budget: i64,
    (mark, trimmed): (&mut TrimMark, &mut Trimmed),
) -> Result<Cut> {
    let rows = query!(
        r#"
        select o.sequence as "sequence!: i64", o.event as "event!: i64",
            -- The age of a redrive, replay or resend counts from that, not from its event.
            coalesce(o.appended_at, (
                select case when d.redriven_first + d.last_sequence - d.first_sequence >= o.sequence
                    then d.redriven_at end
                from dead_letters d
                where d.gateway = o.gateway and d.redriven_first <= o.sequence
                order by d.redriven_first desc limit 1
            ), e.appended_at) as "appended_at!: Timestamp"
        from outbox o join events e using (event)
        where o.gateway = $1 order by o.sequence limit $2
        "#,
        stream.gateway.0,
        budget
    )
    .fetch_all(&mut *conn)
    .await?;
    let gone: Vec<_> = rows
        .iter()
        .take_while(|row| stream.is_removable(now, limits, row.appended_at, row.sequence))
        .collect();
    let (Some(first), Some(last)) = (gone.first(), gone.last()) else {
        return Ok(Cut::default());
    };
    let range = Range { first: Sequence(first.sequence), last: Sequence(last.sequence) };
    // The rest of a deleted gateway's log is not recorded as failed by retention.
    if let Some(open) = cursors::above(range, stream.confirmed).filter(|_| !stream.deleted) {
        trimmed.lost += lose(conn, now, node, stream.gateway, open).await?;
    }
    // The outcome of every row up to the new floor is recorded, so the sweep skips them.
    query!(
        "update streams set floor = $2, missed = case when missed < $2 then $2 else missed end where gateway = $1",
        stream.gateway.0,
        range.last.0
    )
    .execute(&mut *conn)
    .await?;
    query!(
        r#"
        insert into trimmed (gateway, sequence, event, repeats, appended_at)
        select gateway, sequence, event, repeats, appended_at from outbox where gateway = $1 and sequence <= $2
        "#,
        stream.gateway.0,
        range.last.0
    )
    .execute(&mut *conn)
    .await?;
    query!(
        "delete from outbox where gateway = $1 and sequence <= $2",
        stream.gateway.0,
        range.last.0
    )
    .execute(&mut *conn)
    .await?;
    let passed = if stream.deleted { i64::MAX } else { stream.lowest };
    let old = dead_letters::Old { spent: now.minus(limits.max_age), dead: limits.dead_before(now) };
    dead_letters::forget_trimmed(conn, old, limits.hard_max_events, stream.gateway, range, passed)
        .await?;
    let events: Vec<i64> = gone.iter().map(|row| row.event).collect();
    let spent = SpentEvents::of(now, limits);
    trimmed.events += conn.delete_spent_events(&events, spent, mark).await?;
    trimmed.deliveries += gone.len() as u64;
    let rows = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    Ok(Cut { rows, beyond_positions: range.last.0 > passed })
}

impl SpentEvents {
    /// Events that are deleted with their last delivery. Younger ones stay until repeats of them
    /// need not be recognised any more, which is no later than when they are examined by age.
    fn of(now: Timestamp, limits: &RetentionLimits) -> Self {
        let before = now.minus(IDEMPOTENCY_WINDOW.min(limits.max_age));
        Self { before, most_events: limits.hard_max_events }
    }
}

/// Records the removal of unconfirmed deliveries. Dead letters and superseded deliveries are already
/// recorded.
async fn lose(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    gateway: GatewayKey,
    range: Range,
) -> Result<u64> {
    let mut lost = 0;
    let open = ledger::not_dead(conn, gateway, range).await?;
    for part in not_superseded(conn, gateway, open).await? {
        let ended = Ended {
            gateway,
            connection: None,
            range: part,
            how: How::Failed(Reason::Retention, ""),
            started_at: now,
            finished_at: now,
        };
        ledger::insert_attempts(conn, node, &ended).await?;
        ledger::dead_letter(conn, gateway, part, Reason::Retention, now).await?;
        lost += u64::try_from(part.last.0 - part.first.0 + 1).unwrap_or(0);
    }
    Ok(lost)
}
