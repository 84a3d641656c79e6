//! Browsing events.

use super::super::sql::dialect::BrowseStatements;
use super::super::sql::dialect::browse::{EventMatching, Examined, SummaryRow};
use super::{Connection, json, query_as};
use crate::clock::Timestamp;
use crate::event::{CorrelationId, EventId, EventType, Sequence};
use crate::store::limits::LISTED_GATEWAYS;
use crate::store::{Result, TimedKey, storable};

/// Examines the events of `page`, which are read along an index without their rows. What a row has
/// behind a large payload is read only for a condition that needs it.
macro_rules! examined {
    ([$($page:tt)+], $order:tt, $conn:ident, $matching:ident, $($value:expr),+) => {{
        let filter = &$matching.filter;
        sqlx::query_as!(
            Examined,
            "with page as materialized ("
                + $($page)+
                + r#")
            select p.event as "event!: i64", p.appended_at as "appended_at!: Timestamp",
                e.id as "id!: EventId", p.sequence as "sequence!: Sequence",
                case when p.repeats is null then 0 else exists (
                    select 1 from outbox o where o.gateway = $10 and o.sequence = p.repeats
                    union all
                    select 1 from trimmed t where t.gateway = $10 and t.sequence = p.repeats
                ) end as "is_repeat!: bool",
                -- A redrive before the column existed may have left `repeats` empty.
                case when p.sequence > 0 and p.repeats is null and not p.resent and p.appended_at < $2 then coalesce((
                    select d.redriven_first + d.last_sequence - d.first_sequence < p.sequence
                    from dead_letters d indexed by dead_letters_redriven
                    where d.gateway = $10 and d.redriven_first <= p.sequence
                    order by d.redriven_first desc limit 1
                ), 1) else 0 end as "is_past!: bool",
                coalesce(
                    e.organisation = $1 and p.appended_at >= $2 and p.appended_at < $3
                    and case when $4 is null then 1 else e.type = $4 end
                    and case when $5 is null then 1 else e.correlation_id = $5 end
                    and case when $6 is null then 1 else e.user_id = $6 end
                    and case when $7 is null then 1 else e.artifact_id = $7 end
                    and case when $8 is null then 1 else e.deployment_id = $8 end
                    and case when $9 is null then 1 else substr(e.id, 1, length($9)) = $9 end
                    and case when $10 is null or p.sequence > 0 then 1 else exists (
                        select 1 from outbox o indexed by outbox_by_event
                        where o.event = p.event and o.gateway = $10
                    ) or exists (
                        select 1 from trimmed t indexed by trimmed_by_event
                        where t.event = p.event and t.gateway = $10
                    ) end,
                    0
                ) as "matches!: bool"
            from page p cross join events e on e.event = p.event
            order by "#
                + $order,
            $matching.organisation.0,
            filter.window.from() as _,
            filter.window.to() as _,
            filter.event_type.as_ref() as _,
            filter.correlation_id.as_ref() as _,
            filter.user_id.as_deref().map(storable),
            filter.artifact_id.as_deref().map(storable),
            filter.deployment_id.as_deref().map(storable),
            filter.id_prefix.as_ref().map(|prefix| prefix.as_str()),
            $matching.gateway.map(|gateway| gateway.0),
            $($value),+
        )
        .fetch_all($conn)
        .await?
    }};
}

/// A page along an index that ends with the time. The time of the bound is a case of its own,
/// because a batch of events may share it and only an equality enters the index in their midst.
macro_rules! by_age {
    ($index:tt, $among:tt, $conn:ident, $matching:ident, $before:ident, $limit:ident) => {
        examined!(
            ["select event, appended_at, 0 as sequence, null as repeats, 0 as resent
                from events indexed by "
                + $index
                + " where "
                + $among
                + " and appended_at = $11 and $11 >= $2 and event < $12
                union all
                select event, appended_at, 0 as sequence, null as repeats, 0 as resent
                from events indexed by "
                + $index
                + " where "
                + $among
                + " and appended_at < $11 and appended_at >= $2
                order by 2 desc, 1 desc
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
                "events_by_artifact",
                "artifact_id = $7 and organisation = $1",
                self,
                matching,
                before,
                limit
            )
        } else {
            by_age!("events_by_age", "true", self, matching, before, limit)
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
                    select sequence, event, repeats, appended_at from outbox where gateway = $10 and sequence < $11
                    union all
                    select sequence, event, repeats, appended_at from trimmed where gateway = $10 and sequence < $11
                    order by 1 desc
                    limit $12
                ) as l
                cross join events e on e.event = l.event"
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
            ["select event, appended_at, 0 as sequence, null as repeats, 0 as resent
                from events indexed by events_by_id
                where organisation = $1 and id >= $9 and id < $11
                order by id desc
                limit $12"],
            "e.id desc",
            self,
            matching,
            before,
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
                ["select event, appended_at, 0 as sequence, null as repeats, 0 as resent
                    from events indexed by events_by_correlation
                    where correlation_id = $5 and organisation = $1
                    limit $11"],
                "p.event",
                self,
                matching,
                limit
            )
        } else {
            examined!(
                ["select event, appended_at, 0 as sequence, null as repeats, 0 as resent
                    from events indexed by events_by_deployment
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
        let events = json(events)?;
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
                        select gateway from outbox indexed by outbox_by_event where event = e.event
                        union all
                        select gateway from trimmed indexed by trimmed_by_event where event = e.event
                    )
                )) as "matched!: i64",
                case when e.target = 'gateways' then (
                    select group_concat(id) from (
                        select g.id from (
                            select gateway from outbox indexed by outbox_by_event
                            where event = e.event and repeats is null and appended_at is null
                            union all
                            select gateway from trimmed indexed by trimmed_by_event
                            where event = e.event and repeats is null and appended_at is null
                            limit $2
                        ) d
                        cross join gateways g on g.gateway = d.gateway
                    )
                ) end as "gateways?: String"
            from json_each($1) k
            cross join events e on e.event = k.value
            order by k.key
            "#,
            events,
            LISTED_GATEWAYS
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
    use crate::clock::TimeWindow;
    use crate::event::{GatewayKey, OrganisationKey};
    use crate::store::{EventFilter, EventOrder};

    const STEP: i32 = 10;
    const PAGE: i64 = 50;

    /// So many events of each of two gateways, about ten artifacts, one per instant.
    async fn filled(events: i64) -> (Scratch, Connection) {
        let (scratch, mut conn) = Scratch::new().await;
        for text in [
            "insert into gateways (gateway, id, organisation, name, created_at)
             values (1, 'a', 1, 'a', 0), (2, 'b', 1, 'b', 0)",
            "insert into streams (gateway, epoch) values (1, 'a'), (2, 'b')",
        ] {
            sqlx::query(text).execute(&mut conn).await.unwrap();
        }
        for text in [
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 2 * $1)
             insert into events (event, organisation, id, type, payload, correlation_id, artifact_id,
                 occurred_at, appended_at, digest)
             select i, 1, char(97 + i % 2) || printf('%09d', i), 'a.b', '{}', i,
                 'artifact' || (i % 10), i, i, x'' from n",
            "insert into outbox (gateway, sequence, event)
             select 1 + event % 2, (event + 1) / 2, event from events where event <= 2 * $1",
        ] {
            sqlx::query(text).bind(events).execute(&mut conn).await.unwrap();
        }
        (scratch, conn)
    }

    /// What SQLite's machine does for a page out of the middle of the window.
    async fn steps(conn: &mut Connection, events: i64, matching: &EventMatching) -> usize {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        conn.lock_handle().await.unwrap().set_progress_handler(STEP, move || {
            counted.fetch_add(1, Ordering::Relaxed);
            true
        });
        let page = match matching.filter.order() {
            EventOrder::Age => {
                let middle = TimedKey { at: Timestamp::from_micros(events), key: 0 };
                conn.events_by_age(matching, middle, PAGE).await
            }
            EventOrder::Log => conn.events_of_log(matching, Sequence(events / 2), PAGE).await,
            EventOrder::Id => conn.events_by_id(matching, &format!("a{events:09}"), PAGE).await,
        };
        conn.lock_handle().await.unwrap().remove_progress_handler();
        let matches = page.unwrap().iter().filter(|row| row.matches).count();
        assert_eq!(matches, usize::try_from(PAGE).unwrap());
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_page_of_events_costs_the_same_however_long_the_history_is() {
        let (_short, mut short) = filled(1_000).await;
        let (_long, mut long) = filled(20_000).await;
        let of_artifact =
            EventFilter { artifact_id: Some("artifact1".to_owned()), ..EventFilter::default() };
        let by_id = EventFilter { id_prefix: "a".parse().ok(), ..EventFilter::default() };
        let of_log = EventFilter { gateway_id: Some(crate::event::GatewayId::new()), ..by_age() };
        for filter in [by_age(), of_artifact, by_id, of_log] {
            let gateway = filter.gateway_id.map(|_| GatewayKey(1));
            let matching = EventMatching { organisation: OrganisationKey(1), gateway, filter };
            let few = steps(&mut short, 1_000, &matching).await;
            let many = steps(&mut long, 20_000, &matching).await;
            assert!(many <= few + few / 4, "{:?}: {few} grew to {many}", matching.filter);
        }
    }

    fn by_age() -> EventFilter {
        EventFilter { window: TimeWindow::ALL, ..EventFilter::default() }
    }
}
