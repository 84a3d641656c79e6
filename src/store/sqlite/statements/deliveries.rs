//! Queries of deliveries and of failed attempts.

use super::super::sql::dialect::DeliveryStatements;
use super::super::sql::dialect::deliveries::{
    AttemptRow, Buckets, Covering, Failed, Failure, Matching, Outcomes, Place, StandingRow, Tally,
    Within,
};
use super::{Connection, json, pairs, query, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, EventId, EventType, GatewayId, GatewayKey, OrganisationKey,
    Reason, Sequence,
};
use crate::store::filtered::InstanceAttempt;
use crate::store::{DeliveryKey, Outcome, Result, SummaryBy, TimedKey};

/// A page of failed attempts along one index. It has one upper bound: with two, the planner could
/// enter the index at the end of the window each time, and later pages would cost more and more.
/// The time of the bound is a case of its own, because many attempts may share it and only an
/// equality enters the index in their midst.
macro_rules! page {
    ($index:tt, $outcome:tt, $among:tt, $conn:ident, $matching:ident, $as_of:ident, $bound:ident, $limit:ident) => {
        sqlx::query_as!(
            Failed,
            r#"
            with page as materialized (
                select a.attempt, a.gateway, a.first_sequence, a.last_sequence, a.finished_at, a.reason
                from attempts a indexed by "#
                + $index
                + " where "
                + $outcome
                + " and "
                + $among
                + r#" and a.finished_at = $4 and $4 >= $6 and a.attempt <= $5
                union all
                select a.attempt, a.gateway, a.first_sequence, a.last_sequence, a.finished_at, a.reason
                from attempts a indexed by "#
                + $index
                + " where "
                + $outcome
                + " and "
                + $among
                + r#" and a.finished_at < $4 and a.finished_at >= $6 and a.attempt <= $7
                order by 5 desc, 1 desc
                limit $8
            )
            select p.attempt as "attempt!: i64", p.gateway as "gateway!: i64",
                p.first_sequence as "first!: i64", p.last_sequence as "last!: i64",
                p.finished_at as "finished_at!: Timestamp",
                (g.organisation = $1 and ($2 is null or p.gateway = $2)
                 and ($3 is null or p.reason = $3)) as "matches!: bool"
            from page p cross join gateways g on g.gateway = p.gateway
            order by p.finished_at desc, p.attempt desc
            "#,
            $matching.organisation.0,
            $matching.gateway as _,
            $matching.filter.reason as _,
            $bound.at as _,
            $bound.key,
            $matching.filter.window.from() as _,
            $as_of,
            $limit
        )
        .fetch_all($conn)
        .await?
    };
}

impl DeliveryStatements for Connection {
    async fn failed_attempts(
        &mut self,
        matching: &Matching,
        as_of: i64,
        before: TimedKey,
        limit: i64,
    ) -> Result<Vec<Failed>> {
        Ok(if matching.outcomes != Outcomes::Failed {
            page!("attempts_by_age", "true", "true", self, matching, as_of, before, limit)
        } else if matching.gateway.is_some() {
            page!(
                "attempts_failed_by_gateway",
                "a.outcome = 'failed'",
                "a.gateway = $2",
                self,
                matching,
                as_of,
                before,
                limit
            )
        } else if matching.filter.reason.is_some() {
            page!(
                "attempts_failed_by_reason",
                "a.outcome = 'failed'",
                "a.reason = $3",
                self,
                matching,
                as_of,
                before,
                limit
            )
        } else {
            page!(
                "attempts_failed",
                "a.outcome = 'failed'",
                "true",
                self,
                matching,
                as_of,
                before,
                limit
            )
        })
    }

    async fn failures_at(
        &mut self,
        matching: &Matching,
        as_of: i64,
        keys: &[DeliveryKey],
    ) -> Result<Vec<Covering>> {
        let (keys, is_any) = (pairs(keys)?, matching.outcomes != Outcomes::Failed);
        Ok(query_as!(
            Covering,
            r#"
            select a.attempt as "attempt!: i64", a.gateway as "gateway!: i64",
                a.first_sequence as "first!: i64", a.last_sequence as "last!: i64",
                a.finished_at as "finished_at!: Timestamp"
            from json_each($1) k
            cross join attempts a indexed by attempts_by_sequence
                on a.gateway = k.value ->> 0 and a.first_sequence = k.value ->> 1
            where a.last_sequence = a.first_sequence and (a.outcome = 'failed' or $6)
              and a.finished_at >= $2 and a.finished_at < $3
              and ($4 is null or a.reason = $4) and a.attempt <= $5
            "#,
            keys,
            matching.filter.window.from() as _,
            matching.filter.window.to() as _,
            matching.filter.reason as _,
            as_of,
            is_any
        )
        .fetch_all(self)
        .await?)
    }

    async fn failures_reaching(
        &mut self,
        matching: &Matching,
        as_of: i64,
        around: &[Within],
    ) -> Result<Vec<Covering>> {
        let around = json(
            &around.iter().map(|it| (it.gateway, it.lowest, it.first, it.last)).collect::<Vec<_>>(),
        )?;
        let is_any = matching.outcomes != Outcomes::Failed;
        Ok(query_as!(
            Covering,
            r#"
            select a.attempt as "attempt!: i64", a.gateway as "gateway!: i64",
                a.first_sequence as "first!: i64", a.last_sequence as "last!: i64",
                a.finished_at as "finished_at!: Timestamp"
            from json_each($1) w
            cross join attempts a indexed by attempts_ranges
                on a.gateway = w.value ->> 0
                and a.first_sequence between w.value ->> 1 and w.value ->> 3
                and a.last_sequence >= w.value ->> 2 and a.last_sequence > a.first_sequence
            where (a.outcome = 'failed' or $6) and a.finished_at >= $2 and a.finished_at < $3
              and ($4 is null or a.reason = $4) and a.attempt <= $5
            "#,
            around,
            matching.filter.window.from() as _,
            matching.filter.window.to() as _,
            matching.filter.reason as _,
            as_of,
            is_any
        )
        .fetch_all(self)
        .await?)
    }

    /// Without `not indexed`, SQLite makes an index of all failed attempts for the statement, instead
    /// of looking up the few that cover a delivery.
    async fn failures_of_events(
        &mut self,
        matching: &Matching,
        as_of: i64,
        start: Place,
        most: i64,
    ) -> Result<Vec<Failure>> {
        Ok(query_as!(
            Failure,
            r#"
            with chosen as materialized (
                select event from events
                where organisation = $1 and id = $2 and ($3 is null or correlation_id = $3)
                  and ($4 is null or type = $4)
                union
                select event from events
                where organisation = $1 and correlation_id = $3 and ($2 is null or id = $2)
                  and ($4 is null or type = $4)
            ),
            deliveries as materialized (
                select o.gateway, o.sequence from chosen c
                cross join outbox o indexed by outbox_by_event on o.event = c.event
                union all
                select t.gateway, t.sequence from chosen c
                cross join trimmed t indexed by trimmed_by_event on t.event = c.event
            ),
            failures as (
                select o.gateway, o.sequence, a.attempt, a.finished_at,
                    row_number() over (partition by o.gateway, o.sequence
                                       order by a.finished_at desc, a.attempt desc) as nth
                from deliveries o
                cross join gateways g on g.gateway = o.gateway and g.organisation = $1
                cross join attempts a not indexed on a.attempt in (
                    select x.attempt from attempts x indexed by attempts_by_sequence
                    where x.gateway = o.gateway and x.first_sequence = o.sequence
                    union
                    select x.attempt from attempts x indexed by attempts_ranges
                    where x.gateway = o.gateway and x.first_sequence between o.sequence - 999 and o.sequence
                      and x.last_sequence >= o.sequence and x.last_sequence > x.first_sequence
                )
                where ($5 is null or o.gateway = $5) and a.outcome = 'failed'
                  and ($6 is null or a.reason = $6)
                  and a.finished_at >= $7 and a.finished_at < $8 and a.attempt <= $9
            )
            select gateway as "gateway!: i64", sequence as "sequence!: i64",
                attempt as "attempt!: i64", finished_at as "finished_at!: Timestamp"
            from failures
            where nth = 1 and (finished_at, attempt, sequence) < ($10, $11, $12)
            order by finished_at desc, attempt desc, sequence desc
            limit $13
            "#,
            matching.organisation.0,
            matching.filter.event_id.as_ref() as _,
            matching.filter.correlation_id.as_ref() as _,
            matching.filter.event_type.as_ref() as _,
            matching.gateway as _,
            matching.filter.reason as _,
            matching.filter.window.from() as _,
            matching.filter.window.to() as _,
            as_of,
            start.finished_at as _,
            start.attempt,
            start.sequence,
            most
        )
        .fetch_all(self)
        .await?)
    }

    async fn deliveries_of_type(
        &mut self,
        keys: &[DeliveryKey],
        event_type: &str,
    ) -> Result<Vec<DeliveryKey>> {
        let keys = pairs(keys)?;
        let rows = query!(
            r#"
            select k.value ->> 0 as "gateway!: i64", k.value ->> 1 as "sequence!: i64"
            from json_each($1) k
            cross join events e on e.event = coalesce(
                (select event from outbox where gateway = k.value ->> 0 and sequence = k.value ->> 1),
                (select event from trimmed where gateway = k.value ->> 0 and sequence = k.value ->> 1)
            )
            where e.type = $2
            "#,
            keys,
            event_type
        )
        .fetch_all(self)
        .await?;
        Ok(rows.into_iter().map(|row| DeliveryKey::new(row.gateway, row.sequence)).collect())
    }

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
    use super::*;
    use crate::event::{GatewayKey, Reason};
    use crate::store::DeliveryFilter;

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
