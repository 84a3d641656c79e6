//! Deletions of retention that name many rows.

use super::super::sql::dialect::RetentionStatements;
use super::super::sql::dialect::retention::SpentEvents;
use super::{Connection, query, query_as, query_scalar};
use crate::clock::{Timestamp, minute};
use crate::store::{Result, TimedKey, TrimMark};

impl RetentionStatements for Connection {
    /// Skips positions that are being reused.
    async fn delete_orphaned_cursors(&mut self, before: Timestamp, batch: i64) -> Result<u64> {
        let done = query!(
            r#"
            delete from cursors where (gateway, instance) in (
                select gateway, instance from cursors where left_at < $1
                order by left_at limit $2 for update skip locked
            )
            "#,
            before as _,
            batch
        )
        .execute(self)
        .await?;
        Ok(done.rows_affected())
    }

    /// Skips events that are being appended again. A transaction that did so and has just committed
    /// is visible to the second statement, because the events are locked before that begins.
    async fn delete_spent_events(
        &mut self,
        events: &[i64],
        spent: SpentEvents,
        mark: &mut TrimMark,
    ) -> Result<u64> {
        let old = query_scalar!(
            r#"
            select event from events where event = any($1) and appended_at < $2
            for update skip locked
            "#,
            events,
            spent.before as _
        )
        .fetch_all(&mut *self)
        .await?;
        if old.len() < events.len() {
            let skipped = query_as!(
                TimedKey,
                r#"
                select appended_at as "at!: Timestamp", event as "key!: i64" from events
                where event = any($1) and event <> all($2) and appended_at < $3
                order by appended_at, event limit 1
                "#,
                events,
                &old,
                spent.before as _
            )
            .fetch_optional(&mut *self)
            .await?;
            mark.locked_event = mark.locked_event.into_iter().chain(skipped).min();
        }
        if old.is_empty() {
            return Ok(0);
        }
        let done = query!(
            r#"
            with gone as materialized (
                select e.event from events e
                where e.event = any($1) and case
                    when exists (select 1 from outbox o where o.event = e.event) then false
                    else not exists (
                        select 1 from trimmed t
                        join streams s on s.gateway = t.gateway join gateways g on g.gateway = t.gateway
                        where t.event = e.event and g.deleted_at is null and (
                            select d.last_sequence >= t.sequence and d.last_sequence > s.head - $2
                                and d.redriven_at is null and d.reason <> 'retention'
                            from dead_letters d
                            where d.gateway = t.gateway and d.first_sequence <= t.sequence
                            order by d.first_sequence desc limit 1
                        )
                    )
                end
            ),
            deliveries as (delete from trimmed where event in (select event from gone))
            delete from events where event in (select event from gone)
            "#,
            &old,
            spent.most_events
        )
        .execute(self)
        .await?;
        Ok(done.rows_affected())
    }

    async fn merge_failure_counts(&mut self, now: Timestamp, batch: i64) -> Result<u64> {
        Ok(query_scalar!(
            r#"
            with due as (
                select distinct organisation, minute, reason from (
                    select organisation, minute, reason from failure_counts
                    where not merged and minute < $1 order by minute limit $2
                ) as unmerged
            ), gone as (
                delete from failure_counts c using due d
                where c.organisation = d.organisation and c.minute = d.minute and c.reason = d.reason
                returning c.organisation, c.minute, c.reason, c.count, c.merged
            ), kept as (
                insert into failure_counts (organisation, minute, reason, count, merged)
                select organisation, minute, reason, sum(count)::bigint, true
                from gone group by 1, 2, 3 having sum(count) <> 0
            )
            select count(*) filter (where not merged) as "count!: i64" from gone
            "#,
            minute(now),
            batch
        )
        .fetch_one(self)
        .await?
        .unsigned_abs())
    }
}
