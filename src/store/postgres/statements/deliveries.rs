//! The states of deliveries, the attempts at them, and counts of failures.

use super::super::sql::dialect::DeliveryStatements;
use super::super::sql::dialect::deliveries::{AttemptRow, Buckets, StandingRow, Tally};
use super::{Connection, column, query, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, EventId, EventType, GatewayId, GatewayKey, OrganisationKey,
    Reason, Sequence,
};
use crate::store::filtered::InstanceAttempt;
use crate::store::{DeliveryKey, Outcome, Result, SummaryBy};

impl DeliveryStatements for Connection {
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
