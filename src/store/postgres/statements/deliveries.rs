//! Queries of deliveries and of failed attempts.

use super::super::sql::dialect::DeliveryStatements;
use super::super::sql::dialect::deliveries::{
    AttemptRow, Buckets, Covering, Failed, Failure, Matching, Outcomes, Place, StandingRow, Tally,
    Within,
};
use super::{Connection, column, query, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, EventId, EventType, GatewayId, GatewayKey, OrganisationKey,
    Reason, Sequence,
};
use crate::store::filtered::InstanceAttempt;
use crate::store::{DeliveryKey, Outcome, Result, SummaryBy, TimedKey};

/// A page of failed attempts.
macro_rules! page {
    ($outcome:tt, $among:tt, $conn:ident, $matching:ident, $as_of:ident, $bound:ident, $limit:ident) => {
        sqlx::query_as!(
            Failed,
            r#"
            with page as materialized (
                select a.attempt, a.gateway, a.first_sequence, a.last_sequence, a.finished_at, a.reason
                from attempts a
                where "#
                + $outcome
                + " and "
                + $among
                + r#" and (a.finished_at, a.attempt) <= ($4, $5)
                    and a.finished_at >= $6 and a.attempt <= $7
                order by a.finished_at desc, a.attempt desc
                limit $8
            )
            select p.attempt as "attempt!: i64", p.gateway as "gateway!: i64",
                p.first_sequence as "first!: i64", p.last_sequence as "last!: i64",
                p.finished_at as "finished_at!: Timestamp",
                (g.organisation = $1 and (p.gateway = $2 or $2 is null)
                 and (p.reason = $3 or $3 is null)) as "matches!: bool"
            from page p join gateways g on g.gateway = p.gateway
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
            page!("true", "true", self, matching, as_of, before, limit)
        } else if matching.gateway.is_some() {
            page!("a.outcome = 'failed'", "a.gateway = $2", self, matching, as_of, before, limit)
        } else if matching.filter.reason.is_some() {
            page!("a.outcome = 'failed'", "a.reason = $3", self, matching, as_of, before, limit)
        } else {
            page!("a.outcome = 'failed'", "true", self, matching, as_of, before, limit)
        })
    }

    /// `offset 0` makes the planner look up deliveries one by one: without statistics, all failures of
    /// a gateway look like few.
    async fn failures_at(
        &mut self,
        matching: &Matching,
        as_of: i64,
        keys: &[DeliveryKey],
    ) -> Result<Vec<Covering>> {
        Ok(query_as!(
            Covering,
            r#"
            select a.attempt as "attempt!: i64", a.gateway as "gateway!: i64",
                a.first_sequence as "first!: i64", a.last_sequence as "last!: i64",
                a.finished_at as "finished_at!: Timestamp"
            from unnest($1::bigint[], $2::bigint[]) as k (gateway, sequence)
            cross join lateral (
                select * from attempts
                where gateway = k.gateway and first_sequence = k.sequence offset 0
            ) as a
            where a.last_sequence = a.first_sequence and (a.outcome = 'failed' or $7)
              and a.finished_at >= $3 and a.finished_at < $4
              and (a.reason = $5 or $5 is null) and a.attempt <= $6
            "#,
            &column(keys, |key| key.gateway.0),
            &column(keys, |key| key.sequence.0),
            matching.filter.window.from() as _,
            matching.filter.window.to() as _,
            matching.filter.reason as _,
            as_of,
            matching.outcomes != Outcomes::Failed
        )
        .fetch_all(self)
        .await?)
    }

    /// Looks up ranges one by one, as in `failures_at`.
    async fn failures_reaching(
        &mut self,
        matching: &Matching,
        as_of: i64,
        around: &[Within],
    ) -> Result<Vec<Covering>> {
        Ok(query_as!(
            Covering,
            r#"
            select a.attempt as "attempt!: i64", a.gateway as "gateway!: i64",
                a.first_sequence as "first!: i64", a.last_sequence as "last!: i64",
                a.finished_at as "finished_at!: Timestamp"
            from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
                as w (gateway, lowest, first, last)
            cross join lateral (
                select * from attempts
                where gateway = w.gateway and first_sequence between w.lowest and w.last
                    and last_sequence >= w.first and last_sequence > first_sequence offset 0
            ) as a
            where (a.outcome = 'failed' or $9) and a.finished_at >= $5 and a.finished_at < $6
              and (a.reason = $7 or $7 is null) and a.attempt <= $8
            "#,
            &column(around, |it| it.gateway),
            &column(around, |it| it.lowest),
            &column(around, |it| it.first),
            &column(around, |it| it.last),
            matching.filter.window.from() as _,
            matching.filter.window.to() as _,
            matching.filter.reason as _,
            as_of,
            matching.outcomes != Outcomes::Failed
        )
        .fetch_all(self)
        .await?)
    }

    /// With `offset 0`, attempts are looked up by their sequences. Otherwise the planner may read all
    /// failures of a gateway in the window for each delivery.
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
                where organisation = $1 and id = $2 and (correlation_id = $3 or $3 is null)
                  and (type = $4 or $4 is null)
                union
                select event from events
                where organisation = $1 and correlation_id = $3 and (id = $2 or $2 is null)
                  and (type = $4 or $4 is null)
            ),
            deliveries as materialized (
                select o.gateway, o.sequence from chosen c join outbox o on o.event = c.event
                union all
                select t.gateway, t.sequence from chosen c join trimmed t on t.event = c.event
            ),
            failures as (
                select o.gateway, o.sequence, a.attempt, a.finished_at,
                    row_number() over (partition by o.gateway, o.sequence
                                       order by a.finished_at desc, a.attempt desc) as nth
                from deliveries o
                join gateways g on g.gateway = o.gateway and g.organisation = $1
                cross join lateral (
                    (
                        select * from attempts
                        where gateway = o.gateway and first_sequence = o.sequence
                        offset 0
                    )
                    union all
                    (
                        select * from attempts
                        where gateway = o.gateway and first_sequence between o.sequence - 999 and o.sequence - 1
                            and last_sequence >= o.sequence and last_sequence > first_sequence
                        offset 0
                    )
                ) a
                where (o.gateway = $5 or $5 is null) and a.outcome = 'failed'
                  and (a.reason = $6 or $6 is null)
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
        let rows = query!(
            r#"
            select k.gateway as "gateway!: i64", k.sequence as "sequence!: i64"
            from unnest($1::bigint[], $2::bigint[]) as k (gateway, sequence)
            join events e on e.event = coalesce(
                (select event from outbox where gateway = k.gateway and sequence = k.sequence),
                (select event from trimmed where gateway = k.gateway and sequence = k.sequence)
            )
            where e.type = $3
            "#,
            &column(keys, |key| key.gateway.0),
            &column(keys, |key| key.sequence.0),
            event_type
        )
        .fetch_all(self)
        .await?;
        Ok(rows.into_iter().map(|row| DeliveryKey::new(row.gateway, row.sequence)).collect())
    }

    async fn standings(&mut self, keys: &[DeliveryKey]) -> Result<Vec<StandingRow>> {
        Ok(query_as!(
            StandingRow,
            r#"
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
                coalesce(d.last_sequence >= w.sequence, false) as "dead!: bool",
                coalesce(d.last_sequence >= w.sequence and d.redriven_at is not null, false) as "redriven!: bool",
                case when d.last_sequence >= w.sequence
                    then d.redriven_first + w.sequence - d.first_sequence end as "redriven_as?: i64",
                coalesce((
                    select true from (
                        select 1 from attempts a
                        where a.gateway = w.gateway and a.first_sequence = w.sequence
                            and a.outcome in ('filtered', 'superseded')
                        union all
                        select 1 from attempts a
                        where a.gateway = w.gateway
                            and a.first_sequence between w.sequence - 999 and w.sequence - 1
                            and a.last_sequence >= w.sequence and a.last_sequence > a.first_sequence
                            and a.outcome in ('filtered', 'superseded')
                    ) f limit 1
                ), false) as "filtered!: bool"
            from unnest($1::bigint[], $2::bigint[]) with ordinality as w (gateway, sequence, nth)
            join gateways g on g.gateway = w.gateway
            join streams s on s.gateway = w.gateway
            left join events e on e.event = coalesce(
                (select event from outbox where gateway = w.gateway and sequence = w.sequence),
                (select event from trimmed where gateway = w.gateway and sequence = w.sequence)
            )
            left join lateral (
                select first_sequence, last_sequence, redriven_at, redriven_first from dead_letters
                where gateway = w.gateway and first_sequence <= w.sequence
                order by first_sequence desc limit 1
            ) d on true
            order by w.nth
            "#,
            &column(keys, |key| key.gateway.0),
            &column(keys, |key| key.sequence.0)
        )
        .fetch_all(self)
        .await?)
    }

    async fn attempts_at(&mut self, keys: &[DeliveryKey]) -> Result<Vec<AttemptRow>> {
        Ok(query_as!(
            AttemptRow,
            r#"
            select w.gateway as "gateway!: i64", w.sequence as "sequence!: i64",
                a.outcome as "outcome!: Outcome", a.reason as "reason?: Reason", a.detail as "detail?: String",
                a.connection as "connection?: ConnectionId", a.started_at as "started_at!: Timestamp",
                a.finished_at as "finished_at!: Timestamp", a.attempts as "attempts!: i64",
                a.failures as "failures!: i64", a.first_failure_at as "first_failure_at?: Timestamp",
                a.last_failure_at as "last_failure_at?: Timestamp", a.last_reason as "last_reason?: Reason"
            from (select distinct * from unnest($1::bigint[], $2::bigint[]) as k (gateway, sequence)) w
            cross join lateral (
                select covering.*, count(*) over () as attempts,
                    count(*) filter (where outcome = 'failed') over () as failures,
                    min(finished_at) filter (where outcome = 'failed') over () as first_failure_at,
                    max(finished_at) filter (where outcome = 'failed') over () as last_failure_at,
                    first_value(reason) over (
                        order by (outcome = 'failed') desc, finished_at desc, attempt desc
                    ) as last_reason
                from (
                    select * from attempts
                    where gateway = w.gateway and first_sequence = w.sequence
                    union all
                    select * from attempts
                    where gateway = w.gateway and first_sequence between w.sequence - 999 and w.sequence - 1
                        and last_sequence >= w.sequence and last_sequence > first_sequence
                ) covering
                order by finished_at desc, attempt desc limit 100
            ) a
            order by w.gateway, w.sequence, a.finished_at, a.attempt
            "#,
            &column(keys, |key| key.gateway.0),
            &column(keys, |key| key.sequence.0)
        )
        .fetch_all(self)
        .await?)
    }

    async fn outcomes_at(&mut self, keys: &[DeliveryKey]) -> Result<Vec<InstanceAttempt>> {
        let rows = query!(
            r#"
            select w.gateway as "gateway!: i64", w.sequence as "sequence!: i64",
                a.instance as "instance!: String", a.outcome as "outcome!: Outcome",
                coalesce((
                    select u.confirm is not null from cursors u
                    where u.gateway = w.gateway and u.instance = a.instance
                ), false) as "is_current!: bool"
            from (select distinct * from unnest($1::bigint[], $2::bigint[]) as k (gateway, sequence)) w
            cross join lateral (
                select distinct instance, outcome from (
                    select instance, outcome from attempts
                    where gateway = w.gateway and first_sequence = w.sequence
                    union all
                    select instance, outcome from attempts
                    where gateway = w.gateway and first_sequence between w.sequence - 999 and w.sequence - 1
                        and last_sequence >= w.sequence and last_sequence > first_sequence
                ) covering
                where outcome in ('received', 'applied', 'snapshot', 'filtered', 'superseded')
            ) a
            "#,
            &column(keys, |key| key.gateway.0),
            &column(keys, |key| key.sequence.0)
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
                select first_sequence from attempts
                where gateway = $1 and first_sequence < $2 and outcome in ('filtered', 'superseded')
                order by first_sequence desc limit 1
            ) as newest
            cross join attempts a
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
            select (extract(epoch from a.finished_at - $2) * 1000000)::bigint / $4 as "nth!: i64",
                case $5::text when 'reason' then a.reason when 'gateway' then g.id::text else '' end as "key!: String",
                case $5::text when 'gateway' then g.name else '' end as "name!: String",
                sum(a.last_sequence - a.first_sequence + 1)::bigint as "count!: i64"
            from attempts a
            join gateways g on g.gateway = a.gateway
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
            select (extract(epoch from f.finished_at - $2) * 1000000)::bigint / $4 as "nth!: i64", e.type as "key!: String",
                '' as "name!: String",
                count(*) as "count!: i64"
            from (
                select a.finished_at, o.event
                from attempts a
                join gateways g on g.gateway = a.gateway
                join outbox o on o.gateway = a.gateway
                    and o.sequence between a.first_sequence and a.last_sequence
                where a.outcome = 'failed' and a.finished_at >= $2 and a.finished_at < $3
                  and g.organisation = $1
                union all
                select a.finished_at, t.event
                from attempts a
                join gateways g on g.gateway = a.gateway
                join trimmed t on t.gateway = a.gateway
                    and t.sequence between a.first_sequence and a.last_sequence
                where a.outcome = 'failed' and a.finished_at >= $2 and a.finished_at < $3
                  and g.organisation = $1
            ) as f
            join events e on e.event = f.event
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
