//! Searches with a filter of deliveries. No other statement has a condition of the filter. The patterns
//! of the macros are exhaustive, so that the compiler names the searches that a new field concerns.

use super::super::sql::dialect::DeliveryFilterStatements;
use super::super::sql::dialect::delivery_filter::{
    Covering, Failed, Failure, Matching, Outcomes, ScanPosition, Within,
};
use super::{Connection, column, query_as};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, Sequence};
use crate::store::{DeliveryFilter, DeliveryKey, Result, TimedKey};

/// A page of failed attempts.
macro_rules! page {
    ($outcome:tt, $among:tt, $conn:ident, $matching:ident, $as_of:ident, $bound:ident, $limit:ident) => {{
        let DeliveryFilter {
            gateway_id: _,
            window,
            event_type: _,
            reason,
            event_id: _,
            correlation_id: _,
        } = &$matching.filter;
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
            *reason as _,
            $bound.at as _,
            $bound.key,
            window.from() as _,
            $as_of,
            $limit
        )
        .fetch_all($conn)
        .await?
    }};
}

/// Failed attempts, or all of them, in `$place`, which ends with a condition.
macro_rules! failures {
    ($place:tt, $conn:ident, $matching:ident, $as_of:ident, $($value:expr),+) => {{
        let DeliveryFilter {
            gateway_id: _,
            window,
            event_type: _,
            reason,
            event_id: _,
            correlation_id: _,
        } = &$matching.filter;
        sqlx::query_as!(
            Covering,
            r#"
            select a.attempt as "attempt!: i64", a.gateway as "gateway!: i64",
                a.first_sequence as "first!: i64", a.last_sequence as "last!: i64",
                a.finished_at as "finished_at!: Timestamp"
            from "#
                + $place
                + r#"
              and (a.outcome = 'failed' or $1) and a.finished_at >= $2 and a.finished_at < $3
              and (a.reason = $4 or $4 is null) and a.attempt <= $5
            "#,
            $matching.outcomes != Outcomes::Failed,
            window.from() as _,
            window.to() as _,
            *reason as _,
            $as_of,
            $($value),+
        )
        .fetch_all($conn)
        .await?
    }};
}

/// What `$text` reads from the deliveries of the events that the filter names. `$appended` is a further
/// condition on these events. Events are looked up by id and by correlation id. The parameters up to $5
/// are those of the filter, and those of `$text` follow.
macro_rules! of_events {
    (@$condition:tt, $row:path, $appended:tt, $text:tt, $conn:ident, $matching:ident, $($value:expr),+) => {{
        let DeliveryFilter {
            gateway_id: _,
            window: _,
            event_type,
            reason: _,
            event_id,
            correlation_id,
        } = &$matching.filter;
        sqlx::query_as!(
            $row,
            r#"
            with chosen as materialized (
                select event from events
                where organisation = $1 and id = $2 and (correlation_id = $3 or $3 is null)
                  and "#
                + $condition
                + $appended
                + r#"
                union
                select event from events
                where organisation = $1 and correlation_id = $3 and (id = $2 or $2 is null)
                  and "#
                + $condition
                + $appended
                + r#"
            ),
            deliveries as materialized (
                select o.gateway, o.sequence from chosen c join outbox o on o.event = c.event
                union all
                select t.gateway, t.sequence from chosen c join trimmed t on t.event = c.event
            )"#
                + $text,
            $matching.organisation.0,
            event_id.as_ref() as _,
            correlation_id.as_ref() as _,
            event_type.as_ref() as _,
            $matching.gateway as _,
            $($value),+
        )
        .fetch_all($conn)
        .await?
    }};
    ($row:path, $appended:tt, $text:tt, $conn:ident, $matching:ident, $($value:expr),+) => {
        of_events!(
            @"(type = $4 or $4 is null)",
            $row, $appended, $text, $conn, $matching, $($value),+
        )
    };
}

impl DeliveryFilterStatements for Connection {
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
        Ok(failures!(
            "unnest($6::bigint[], $7::bigint[]) as k (gateway, sequence)
            cross join lateral (
                select * from attempts
                where gateway = k.gateway and first_sequence = k.sequence offset 0
            ) as a
            where a.last_sequence = a.first_sequence",
            self,
            matching,
            as_of,
            &column(keys, |key| key.gateway.0),
            &column(keys, |key| key.sequence.0)
        ))
    }

    /// Looks up ranges one by one, as in `failures_at`.
    async fn failures_reaching(
        &mut self,
        matching: &Matching,
        as_of: i64,
        around: &[Within],
    ) -> Result<Vec<Covering>> {
        Ok(failures!(
            "unnest($6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
                as w (gateway, lowest, first, last)
            cross join lateral (
                select * from attempts
                where gateway = w.gateway and first_sequence between w.lowest and w.last
                    and last_sequence >= w.first and last_sequence > first_sequence offset 0
            ) as a
            where true",
            self,
            matching,
            as_of,
            &column(around, |it| it.gateway),
            &column(around, |it| it.lowest),
            &column(around, |it| it.first),
            &column(around, |it| it.last)
        ))
    }

    async fn deliveries_with_events(
        &mut self,
        matching: &Matching,
        keys: &[DeliveryKey],
    ) -> Result<Vec<DeliveryKey>> {
        let DeliveryFilter {
            gateway_id: _,
            window: _,
            event_type,
            reason: _,
            event_id: _,
            correlation_id: _,
        } = &matching.filter;
        Ok(query_as!(
            DeliveryKey,
            r#"
            select k.gateway as "gateway!: GatewayKey", k.sequence as "sequence!: Sequence"
            from unnest($1::bigint[], $2::bigint[]) as k (gateway, sequence)
            join events e on e.event = coalesce(
                (select event from outbox where gateway = k.gateway and sequence = k.sequence),
                (select event from trimmed where gateway = k.gateway and sequence = k.sequence)
            )
            where (e.type = $3 or $3 is null)
            "#,
            &column(keys, |key| key.gateway.0),
            &column(keys, |key| key.sequence.0),
            event_type.as_ref() as _
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
        start: ScanPosition,
        most: i64,
    ) -> Result<Vec<Failure>> {
        let window = matching.filter.window;
        Ok(of_events!(
            Failure,
            "",
            r#",
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
            self,
            matching,
            matching.filter.reason as _,
            window.from() as _,
            window.to() as _,
            as_of,
            start.finished_at as _,
            start.attempt,
            start.sequence,
            most
        ))
    }

    async fn deliveries_of_events(
        &mut self,
        matching: &Matching,
        after: DeliveryKey,
        limit: i64,
    ) -> Result<Vec<DeliveryKey>> {
        Ok(of_events!(
            DeliveryKey,
            "",
            r#"
            select o.gateway as "gateway!: GatewayKey", o.sequence as "sequence!: Sequence"
            from deliveries o
            join gateways g on g.gateway = o.gateway
            where g.organisation = $1 and g.deleted_at is null and (o.gateway = $5 or $5 is null)
              and (o.gateway, o.sequence) > ($6, $7)
            order by o.gateway, o.sequence limit $8
            "#,
            self,
            matching,
            after.gateway.0,
            after.sequence.0,
            limit
        ))
    }

    async fn deliveries_named(
        &mut self,
        matching: &Matching,
        before: DeliveryKey,
        limit: i64,
    ) -> Result<Vec<DeliveryKey>> {
        let window = matching.filter.window;
        Ok(of_events!(
            DeliveryKey,
            " and appended_at >= $6 and appended_at < $7",
            r#"
            select o.gateway as "gateway!: GatewayKey", o.sequence as "sequence!: Sequence"
            from deliveries o
            join gateways g on g.gateway = o.gateway
            where g.organisation = $1 and (o.gateway = $5 or $5 is null)
              and (o.gateway, o.sequence) < ($8, $9)
            order by o.gateway desc, o.sequence desc limit $10
            "#,
            self,
            matching,
            window.from() as _,
            window.to() as _,
            before.gateway.0,
            before.sequence.0,
            limit
        ))
    }
}
