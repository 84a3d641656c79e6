//! Browsing events.

use super::super::sql::dialect::BrowseStatements;
use super::super::sql::dialect::browse::{EventMatching, Examined, SummaryRow};
use super::{Connection, query_as};
use crate::clock::Timestamp;
use crate::event::{CorrelationId, EventId, EventType, Sequence};
use crate::store::limits::LISTED_GATEWAYS;
use crate::store::{Result, TimedKey, storable};

/// Examines the events of `page`. `limit 1` makes the planner look up events one by one, whatever
/// it knew about the table when the statement was planned.
macro_rules! examined {
    ([$($page:tt)+], $order:tt, $conn:ident, $matching:ident, $($value:expr),+) => {{
        let filter = &$matching.filter;
        let user = filter.user_id.as_deref().map(storable);
        let artifact = filter.artifact_id.as_deref().map(storable);
        let deployment = filter.deployment_id.as_deref().map(storable);
        sqlx::query_as!(
            Examined,
            "with page as materialized ("
                + $($page)+
                + r#")
            select p.event as "event!: i64", p.appended_at as "appended_at!: Timestamp",
                e.id as "id!: EventId", p.sequence as "sequence!: Sequence",
                (p.repeats is not null and exists (
                    select 1 from outbox o where o.gateway = $10 and o.sequence = p.repeats
                    union all
                    select 1 from trimmed t where t.gateway = $10 and t.sequence = p.repeats
                )) as "is_repeat!: bool",
                -- A node of an earlier version leaves `repeats` empty when it redrives.
                (case when p.sequence > 0 and p.repeats is null and not p.resent and p.appended_at < $2 then coalesce((
                    select d.redriven_first + d.last_sequence - d.first_sequence < p.sequence
                    from dead_letters d
                    where d.gateway = $10 and d.redriven_first <= p.sequence
                    order by d.redriven_first desc limit 1
                ), true) else false end) as "is_past!: bool",
                coalesce(
                    e.organisation = $1 and p.appended_at >= $2 and p.appended_at < $3
                    and (e.type = $4 or $4 is null)
                    and (e.correlation_id = $5 or $5 is null)
                    and (e.user_id = $6 or $6 is null)
                    and (e.artifact_id = $7 or $7 is null)
                    and (e.deployment_id = $8 or $8 is null)
                    and (starts_with(e.id, $9) or $9 is null)
                    and ($10::bigint is null or p.sequence > 0
                        or exists (
                            select 1 from (select gateway from outbox where event = p.event offset 0) o
                            where o.gateway = $10
                        )
                        or exists (
                            select 1 from (select gateway from trimmed where event = p.event offset 0) t
                            where t.gateway = $10
                        )),
                    false
                ) as "matches!: bool"
            from page p
            cross join lateral (select * from events where event = p.event limit 1) e
            order by "#
                + $order,
            $matching.organisation.0,
            filter.window.from() as _,
            filter.window.to() as _,
            filter.event_type.as_ref() as _,
            filter.correlation_id.as_ref() as _,
            user.as_deref(),
            artifact.as_deref(),
            deployment.as_deref(),
            filter.id_prefix.as_ref().map(|prefix| prefix.as_str()),
            $matching.gateway.map(|gateway| gateway.0),
            $($value),+
        )
        .fetch_all($conn)
        .await?
    }};
}

/// A page along an index that ends with the time and the key.
macro_rules! by_age {
    ($among:tt, $conn:ident, $matching:ident, $before:ident, $limit:ident) => {
        examined!(
            ["select event, appended_at, 0::bigint as sequence, null::bigint as repeats, false as resent
                from events where "
                + $among
                + " and (appended_at, event) < ($11, $12) and appended_at >= $2
                order by appended_at desc, event desc
                limit $13"],
            "p.appended_at desc, p.event desc",
            $conn,
            $matching,
            $before.at as _,
            $before.key,
            $limit
        )
    };
}

impl BrowseStatements for Connection {
    async fn events_by_age(
        &mut self,
        matching: &EventMatching,
        before: TimedKey,
        limit: i64,
    ) -> Result<Vec<Examined>> {
        Ok(if matching.filter.artifact_id.is_some() {
            by_age!(
                "substr(artifact_id, 1, 512) = substr($7, 1, 512) and artifact_id = $7 and organisation = $1",
                self,
                matching,
                before,
                limit
            )
        } else {
            by_age!("true", self, matching, before, limit)
        })
    }

    async fn events_of_log(
        &mut self,
        matching: &EventMatching,
        before: Sequence,
        limit: i64,
    ) -> Result<Vec<Examined>> {
        Ok(examined!(
            [
                "select l.event, e.appended_at, l.sequence, l.repeats,
                    l.appended_at is not null as resent
                from (
                    (select sequence, event, repeats, appended_at from outbox
                     where gateway = $10 and sequence < $11 order by sequence desc limit $12)
                    union all
                    (select sequence, event, repeats, appended_at from trimmed
                     where gateway = $10 and sequence < $11 order by sequence desc limit $12)
                    order by sequence desc
                    limit $12
                ) as l
                cross join lateral (select appended_at from events where event = l.event limit 1) e"
            ],
            "p.sequence desc",
            self,
            matching,
            before.0,
            limit
        ))
    }

    async fn events_by_id(
        &mut self,
        matching: &EventMatching,
        before: &str,
        limit: i64,
    ) -> Result<Vec<Examined>> {
        Ok(examined!(
            ["select event, appended_at, 0::bigint as sequence, null::bigint as repeats, false as resent
                from events
                where organisation = $1 and id >= $9 and id < $11
                order by id desc
                limit $12"],
            "e.id desc",
            self,
            matching,
            &*storable(before),
            limit
        ))
    }

    async fn events_named(
        &mut self,
        matching: &EventMatching,
        limit: i64,
    ) -> Result<Vec<Examined>> {
        Ok(if matching.filter.correlation_id.is_some() {
            examined!(
                ["select event, appended_at, 0::bigint as sequence, null::bigint as repeats, false as resent
                    from events
                    where correlation_id = $5 and organisation = $1
                    limit $11"],
                "p.event",
                self,
                matching,
                limit
            )
        } else {
            examined!(
                ["select event, appended_at, 0::bigint as sequence, null::bigint as repeats, false as resent
                    from events
                    where substr(deployment_id, 1, 512) = substr($8, 1, 512)
                        and deployment_id = $8 and organisation = $1
                    limit $11"],
                "p.event",
                self,
                matching,
                limit
            )
        })
    }

    async fn event_summaries(&mut self, events: &[i64]) -> Result<Vec<SummaryRow>> {
        Ok(query_as!(
            SummaryRow,
            r#"
            select e.id as "id!: EventId", e.type as "event_type!: EventType",
                e.correlation_id as "correlation_id!: CorrelationId", e.user_id as "user_id?: String",
                e.occurred_at as "occurred_at!: Timestamp", e.appended_at as "appended_at!: Timestamp",
                e.expires_at as "expires_at?: Timestamp", e.artifact_id as "artifact_id?: String",
                e.deployment_id as "deployment_id?: String", e.target as "target?: String",
                coalesce(e.matched, (
                    select count(distinct gateway) from (
                        select gateway from outbox where event = e.event
                        union all
                        select gateway from trimmed where event = e.event
                    ) d
                )) as "matched!: i64",
                case when e.target = 'gateways' then (
                    select string_agg(g.id::text, ',') from (
                        (select gateway from outbox where event = e.event and repeats is null and appended_at is null limit $2)
                        union all
                        (select gateway from trimmed where event = e.event and repeats is null and appended_at is null limit $2)
                        limit $2
                    ) d
                    join gateways g on g.gateway = d.gateway
                ) end as "gateways?: String"
            from unnest($1::bigint[]) with ordinality as k (event, nth)
            cross join lateral (select * from events where event = k.event limit 1) e
            order by k.nth
            "#,
            events,
            LISTED_GATEWAYS
        )
        .fetch_all(self)
        .await?)
    }
}
