//! Searches with a filter of deliveries. No other statement has a condition of the filter. The patterns
//! of the macros are exhaustive, so that the compiler names the searches that a new field concerns.

use super::super::sql::dialect::DeliveryFilterStatements;
use super::super::sql::dialect::delivery_filter::{
    Covering, Failed, Failure, Matching, Outcomes, ScanPosition, Within,
};
use super::{Connection, json, pairs, query_as};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, Sequence};
use crate::store::{DeliveryFilter, DeliveryKey, Result, TimedKey};

/// A page of failed attempts along one index. It has one upper bound: with two, the planner could
/// enter the index at the end of the window each time, and later pages would cost more and more.
/// The time of the bound is a case of its own, because many attempts may share it and only an
/// equality enters the index in their midst.
macro_rules! page {
    ($index:tt, $outcome:tt, $among:tt, $conn:ident, $matching:ident, $as_of:ident, $bound:ident, $limit:ident) => {{
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
              and ($4 is null or a.reason = $4) and a.attempt <= $5
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
                where organisation = $1 and id = $2 and ($3 is null or correlation_id = $3)
                  and "#
                + $condition
                + $appended
                + r#"
                union
                select event from events
                where organisation = $1 and correlation_id = $3 and ($2 is null or id = $2)
                  and "#
                + $condition
                + $appended
                + r#"
            ),
            deliveries as materialized (
                select o.gateway, o.sequence from chosen c
                cross join outbox o indexed by outbox_by_event on o.event = c.event
                union all
                select t.gateway, t.sequence from chosen c
                cross join trimmed t indexed by trimmed_by_event on t.event = c.event
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
            @"($4 is null or type = $4)",
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
        let keys = pairs(keys)?;
        Ok(failures!(
            "json_each($6) k
            cross join attempts a indexed by attempts_by_sequence
                on a.gateway = k.value ->> 0 and a.first_sequence = k.value ->> 1
            where a.last_sequence = a.first_sequence",
            self,
            matching,
            as_of,
            keys
        ))
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
        Ok(failures!(
            "json_each($6) w
            cross join attempts a indexed by attempts_ranges
                on a.gateway = w.value ->> 0
                and a.first_sequence between w.value ->> 1 and w.value ->> 3
            where a.last_sequence >= w.value ->> 2 and a.last_sequence > a.first_sequence",
            self,
            matching,
            as_of,
            around
        ))
    }

    async fn deliveries_with_events(
        &mut self,
        matching: &Matching,
        keys: &[DeliveryKey],
    ) -> Result<Vec<DeliveryKey>> {
        let keys = pairs(keys)?;
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
            select k.value ->> 0 as "gateway!: GatewayKey", k.value ->> 1 as "sequence!: Sequence"
            from json_each($1) k
            cross join events e on e.event = coalesce(
                (select event from outbox where gateway = k.value ->> 0 and sequence = k.value ->> 1),
                (select event from trimmed where gateway = k.value ->> 0 and sequence = k.value ->> 1)
            )
            where ($2 is null or e.type = $2)
            "#,
            keys,
            event_type.as_ref() as _
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
            cross join gateways g on g.gateway = o.gateway
            where g.organisation = $1 and g.deleted_at is null and ($5 is null or o.gateway = $5)
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
            cross join gateways g on g.gateway = o.gateway
            where g.organisation = $1 and ($5 is null or o.gateway = $5)
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
