//! The states of deliveries, the attempts at them, and counts of failures.

use super::super::sql::dialect::DeliveryStatements;
use super::super::sql::dialect::deliveries::{AttemptRow, Buckets, StandingRow, Tally};
use super::{Connection, pairs, query, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, EventId, EventType, GatewayId, GatewayKey, OrganisationKey,
    Reason, Sequence,
};
use crate::store::filtered::InstanceAttempt;
use crate::store::{DeliveryKey, Outcome, Result, SummaryBy};

impl DeliveryStatements for Connection {
    async fn standings(&mut self, keys: &[DeliveryKey]) -> Result<Vec<StandingRow>> {
        let keys = pairs(keys)?;
        Ok(query_as!(
            StandingRow,
            r#"
            with wanted as materialized (
                select key as nth, value ->> 0 as gateway, value ->> 1 as sequence from json_each($1)
            )
            select w.gateway as "gateway!: i64", w.sequence as "sequence!: i64",
                g.id as "gateway_id!: GatewayId", g.name as "gateway_name!: String",
                g.deleted_at is not null as "gateway_deleted!: bool",
                e.id as "event_id?: EventId", e.type as "event_type?: EventType",
                e.correlation_id as "correlation_id?: CorrelationId",
                case when e.event is not null then coalesce((
                    select appended_at from outbox where gateway = w.gateway and sequence = w.sequence
                ), (
                    select appended_at from trimmed where gateway = w.gateway and sequence = w.sequence
                ), (
                    select case when r.redriven_first + r.last_sequence - r.first_sequence >= w.sequence
                        then r.redriven_at end
                    from dead_letters r
                    where r.gateway = w.gateway and r.redriven_first <= w.sequence
                    order by r.redriven_first desc limit 1
                ), e.appended_at) end as "appended_at?: Timestamp",
                s.floor as "floor!: i64",
                coalesce((select received from cursors c where c.gateway = w.gateway and c.instance = ''),
                         (select max(received) from cursors c where c.gateway = w.gateway), 0) as "confirmed!: i64",
                coalesce((select d.last_sequence >= w.sequence from dead_letters d
                          where d.gateway = w.gateway and d.first_sequence <= w.sequence
                          order by d.first_sequence desc limit 1), 0) as "dead!: bool",
                coalesce((select d.last_sequence >= w.sequence and d.redriven_at is not null from dead_letters d
                          where d.gateway = w.gateway and d.first_sequence <= w.sequence
                          order by d.first_sequence desc limit 1), 0) as "redriven!: bool",
                (select case when d.last_sequence >= w.sequence
                        then d.redriven_first + w.sequence - d.first_sequence end from dead_letters d
                 where d.gateway = w.gateway and d.first_sequence <= w.sequence
                 order by d.first_sequence desc limit 1) as "redriven_as?: i64",
                case when exists (
                    select 1 from attempts a indexed by attempts_by_sequence
                    where a.gateway = w.gateway and a.first_sequence = w.sequence and a.outcome in ('filtered', 'superseded')
                ) or exists (
                    select 1 from attempts a indexed by attempts_ranges
                    where a.gateway = w.gateway and a.first_sequence between w.sequence - 999 and w.sequence
                        and a.last_sequence >= w.sequence and a.last_sequence > a.first_sequence
                        and a.outcome in ('filtered', 'superseded')
                ) then true else false end as "filtered!: bool"
            from wanted w
            cross join gateways g on g.gateway = w.gateway
            cross join streams s on s.gateway = w.gateway
            left join events e on e.event = coalesce(
                (select event from outbox where gateway = w.gateway and sequence = w.sequence),
                (select event from trimmed where gateway = w.gateway and sequence = w.sequence)
            )
            order by w.nth
            "#,
            keys
        )
        .fetch_all(self)
        .await?)
    }

    async fn attempts_at(&mut self, keys: &[DeliveryKey]) -> Result<Vec<AttemptRow>> {
        let keys = pairs(keys)?;
        Ok(query_as!(
            AttemptRow,
            r#"
            with wanted as materialized (
                select distinct value ->> 0 as gateway, value ->> 1 as sequence from json_each($1)
            ),
            covering as (
                select w.gateway, w.sequence, a.attempt, a.outcome, a.reason, a.detail, a.connection,
                    a.started_at, a.finished_at,
                    row_number() over (partition by w.gateway, w.sequence
                                       order by a.finished_at desc, a.attempt desc) as nth,
                    count(*) over per_delivery as attempts,
                    count(*) filter (where a.outcome = 'failed') over per_delivery as failures,
                    min(a.finished_at) filter (where a.outcome = 'failed') over per_delivery as first_failure_at,
                    max(a.finished_at) filter (where a.outcome = 'failed') over per_delivery as last_failure_at,
                    first_value(a.reason) over (
                        partition by w.gateway, w.sequence
                        order by (a.outcome = 'failed') desc, a.finished_at desc, a.attempt desc
                    ) as last_reason
                from wanted w
                cross join attempts a on a.attempt in (
                    select x.attempt from attempts x indexed by attempts_by_sequence
                    where x.gateway = w.gateway and x.first_sequence = w.sequence
                    union
                    select x.attempt from attempts x indexed by attempts_ranges
                    where x.gateway = w.gateway and x.first_sequence between w.sequence - 999 and w.sequence
                      and x.last_sequence >= w.sequence and x.last_sequence > x.first_sequence
                )
                window per_delivery as (partition by w.gateway, w.sequence)
            )
            select gateway as "gateway!: i64", sequence as "sequence!: i64", outcome as "outcome!: Outcome",
                reason as "reason?: Reason", detail as "detail?: String", connection as "connection?: ConnectionId",
                started_at as "started_at!: Timestamp", finished_at as "finished_at!: Timestamp",
                attempts as "attempts!: i64", failures as "failures!: i64",
                first_failure_at as "first_failure_at?: Timestamp",
                last_failure_at as "last_failure_at?: Timestamp", last_reason as "last_reason?: Reason"
            from covering where nth <= 100
            order by gateway, sequence, nth desc
            "#,
            keys
        )
        .fetch_all(self)
        .await?)
    }

    async fn outcomes_at(&mut self, keys: &[DeliveryKey]) -> Result<Vec<InstanceAttempt>> {
        let keys = pairs(keys)?;
        let rows = query!(
            r#"
            with wanted as materialized (
                select distinct value ->> 0 as gateway, value ->> 1 as sequence from json_each($1)
            ),
            outcomes as materialized (
                select distinct w.gateway, w.sequence, a.instance, a.outcome
                from wanted w
                cross join attempts a on a.attempt in (
                    select x.attempt from attempts x indexed by attempts_by_sequence
                    where x.gateway = w.gateway and x.first_sequence = w.sequence
                    union
                    select x.attempt from attempts x indexed by attempts_ranges
                    where x.gateway = w.gateway and x.first_sequence between w.sequence - 999 and w.sequence
                      and x.last_sequence >= w.sequence and x.last_sequence > x.first_sequence
                )
                where a.outcome in ('received', 'applied', 'snapshot', 'filtered', 'superseded')
            )
            select o.gateway as "gateway!: i64", o.sequence as "sequence!: i64",
                o.instance as "instance!: String", o.outcome as "outcome!: Outcome",
                exists (
                    select 1 from cursors u
                    where u.gateway = o.gateway and u.instance = o.instance and u.confirm is not null
                ) as "is_current!: bool"
            from outcomes o
            "#,
            keys
        )
        .fetch_all(self)
        .await?;
        let attempts = rows.into_iter().map(|row| InstanceAttempt {
            key: DeliveryKey::new(row.gateway, row.sequence),
            instance: row.instance,
            is_current: row.is_current,
            outcome: row.outcome,
        });
        Ok(attempts.collect())
    }

    /// Ranges may overlap, and are at most 1,000 long.
    async fn newest_filtered(
        &mut self,
        gateway: GatewayKey,
        before: Sequence,
    ) -> Result<Option<Sequence>> {
        Ok(query_scalar!(
            r#"
            select max(a.last_sequence) as "last?: Sequence"
            from (
                select first_sequence from attempts indexed by attempts_filtered
                where gateway = $1 and first_sequence < $2 and outcome in ('filtered', 'superseded')
                order by first_sequence desc limit 1
            ) as newest
            cross join attempts a indexed by attempts_filtered
            where a.gateway = $1 and a.outcome in ('filtered', 'superseded')
                and a.first_sequence between newest.first_sequence - 999 and newest.first_sequence
            "#,
            gateway.0,
            before.0
        )
        .fetch_one(self)
        .await?)
    }

    async fn failures_by_range(
        &mut self,
        organisation: OrganisationKey,
        buckets: Buckets,
        by: SummaryBy,
    ) -> Result<Vec<Tally>> {
        let by = match by {
            SummaryBy::Reason => "reason",
            SummaryBy::Gateway => "gateway",
            SummaryBy::Type => "type",
        };
        Ok(query_as!(
            Tally,
            r#"
            select (a.finished_at - $2) / $4 as "nth!: i64",
                case $5 when 'reason' then a.reason when 'gateway' then g.id else '' end as "key!: String",
                case $5 when 'gateway' then g.name else '' end as "name!: String",
                sum(a.last_sequence - a.first_sequence + 1) as "count!: i64"
            from attempts a indexed by attempts_failed
            cross join gateways g on g.gateway = +a.gateway
            where a.outcome = 'failed' and a.finished_at >= $2 and a.finished_at < $3
              and g.organisation = $1
            group by 1, 2, 3
            "#,
            organisation.0,
            buckets.window.from() as _,
            buckets.window.to() as _,
            buckets.width,
            by
        )
        .fetch_all(self)
        .await?)
    }

    async fn failures_by_type(
        &mut self,
        organisation: OrganisationKey,
        buckets: Buckets,
    ) -> Result<Vec<Tally>> {
        Ok(query_as!(
            Tally,
            r#"
            select (f.finished_at - $2) / $4 as "nth!: i64", e.type as "key!: String",
                '' as "name!: String",
                count(*) as "count!: i64"
            from (
                select a.finished_at, o.event
                from attempts a indexed by attempts_failed
                cross join gateways g on g.gateway = +a.gateway
                cross join outbox o on o.gateway = a.gateway
                    and o.sequence between a.first_sequence and a.last_sequence
                where a.outcome = 'failed' and a.finished_at >= $2 and a.finished_at < $3
                  and g.organisation = $1
                union all
                select a.finished_at, t.event
                from attempts a indexed by attempts_failed
                cross join gateways g on g.gateway = +a.gateway
                cross join trimmed t on t.gateway = a.gateway
                    and t.sequence between a.first_sequence and a.last_sequence
                where a.outcome = 'failed' and a.finished_at >= $2 and a.finished_at < $3
                  and g.organisation = $1
            ) as f
            cross join events e on e.event = f.event
            group by 1, 2
            "#,
            organisation.0,
            buckets.window.from() as _,
            buckets.window.to() as _,
            buckets.width
        )
        .fetch_all(self)
        .await?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::super::scratch::Scratch;
    use super::super::super::sql::dialect::DeliveryFilterStatements as _;
    use super::super::super::sql::dialect::delivery_filter::{Matching, Outcomes};
    use super::*;
    use crate::store::{DeliveryFilter, TimedKey};

    const STEP: i32 = 10;

    /// So many failures of each of two gateways, one per instant.
    async fn filled(failures: i64) -> (Scratch, Connection) {
        let (scratch, mut conn) = Scratch::new().await;
        for text in [
            "insert into gateways (gateway, id, organisation, name, created_at)
             values (1, '01890a5d-ac96-774b-bcce-b302099a8057', 1, 'a', 0),
                 (2, '01890a5d-ac96-774b-bcce-b302099a8058', 1, 'b', 0)",
            "insert into streams (gateway, epoch, head) values (1, 'a', 1), (2, 'b', 1)",
        ] {
            sqlx::query(text).execute(&mut conn).await.unwrap();
        }
        sqlx::query(
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 2 * $1)
             insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, instance,
                 node, started_at, finished_at)
             select i % 2 + 1, 1, 1, 'failed', case i % 4 when 0 then 'expired' else 'shutdown' end,
                 '', '', i, i
             from n",
        )
        .bind(failures)
        .execute(&mut conn)
        .await
        .unwrap();
        (scratch, conn)
    }

    /// Counts what SQLite's machine does from here on.
    async fn counted(conn: &mut Connection) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        conn.lock_handle().await.unwrap().set_progress_handler(STEP, move || {
            counted.fetch_add(1, Ordering::Relaxed);
            true
        });
        count
    }

    /// What SQLite's machine does for a page out of the middle of the window.
    async fn steps(conn: &mut Connection, failures: i64, matching: &Matching) -> usize {
        let count = counted(conn).await;
        let before = TimedKey { at: Timestamp::from_micros(failures), key: i64::MAX };
        let page = conn.failed_attempts(matching, i64::MAX, before, 100).await.unwrap();
        assert_eq!(page.len(), 100);
        conn.lock_handle().await.unwrap().remove_progress_handler();
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_page_costs_the_same_however_long_the_history_is() {
        let (_short, mut short) = filled(1_000).await;
        let (_long, mut long) = filled(30_000).await;
        for (gateway, reason) in [
            (None, None),
            (Some(GatewayKey(1)), None),
            (None, Some(Reason::Expired)),
            (Some(GatewayKey(1)), Some(Reason::Expired)),
        ] {
            let matching = Matching {
                organisation: OrganisationKey(1),
                gateway,
                filter: DeliveryFilter { reason, ..DeliveryFilter::default() },
                outcomes: Outcomes::Failed,
            };
            let few = steps(&mut short, 1_000, &matching).await;
            let many = steps(&mut long, 30_000, &matching).await;
            assert!(many <= few + few / 4, "{gateway:?}, {reason:?}: {few} grew to {many}");
        }
    }

    /// What it costs to find out which of the last hundred deliveries of a log were filtered. Its
    /// attempts cover two sequences each, and every other one is a filter.
    async fn steps_of_filters(attempts: i64) -> usize {
        let (_scratch, mut conn) = filled(1).await;
        sqlx::query(
            "with recursive n(i) as (select 0 union all select i + 1 from n where i < $1 - 1)
             insert into attempts (gateway, first_sequence, last_sequence, outcome, instance, node,
                 started_at, finished_at)
             select 1, 2 * i + 1, 2 * i + 2, iif(i % 2, 'filtered', 'received'), '', '', i, i from n",
        )
        .bind(attempts)
        .execute(&mut conn)
        .await
        .unwrap();
        let keys: Vec<DeliveryKey> =
            (2 * attempts - 99..=2 * attempts).map(|it| DeliveryKey::new(1, it)).collect();
        let count = counted(&mut conn).await;
        let standings = conn.standings(&keys).await.unwrap();
        let outcomes = conn.outcomes_at(&keys).await.unwrap();
        conn.lock_handle().await.unwrap().remove_progress_handler();
        assert_eq!(standings.iter().filter(|row| row.filtered).count(), 50);
        let filtered = outcomes.iter().filter(|it| it.outcome == Outcome::Filtered).count();
        assert_eq!((outcomes.len(), filtered), (100, 50));
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn what_was_filtered_costs_the_same_however_long_the_log_is() {
        let few = steps_of_filters(1_000).await;
        let many = steps_of_filters(30_000).await;
        assert!(many <= few + few / 4, "{few} grew to {many}");
    }
}
