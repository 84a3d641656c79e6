//! Inserting attempts and dead letters.

use super::super::sql::dialect::LedgerStatements;
use super::{Connection, column, query};
use crate::clock::Timestamp;
use crate::event::{EventId, EventType, GatewayKey, NodeId, Reason, Sequence};
use crate::store::limits::MAX_RANGE_LENGTH;
use crate::store::receipts::Receipts;
use crate::store::{LoggedEvent, Outcome, Range, Result};

impl LedgerStatements for Connection {
    /// Postgres keeps the plan, for the reasons of `count_confirmed`.
    async fn insert_receipts(
        &mut self,
        node: NodeId,
        outcome: Outcome,
        receipts: &[Receipts],
    ) -> Result<Vec<(GatewayKey, Range)>> {
        let dead = query!(
            r#"
            with received as (
                insert into attempts (gateway, first_sequence, last_sequence, outcome, connection,
                    instance, node, started_at, finished_at)
                select d.gateway, d.first, d.last, $10, d.connection,
                    d.instance, $7, d.started_at, d.finished_at
                from unnest((select $1::bigint[]), (select $2::uuid[]), (select $3::bigint[]),
                    (select $4::bigint[]), (select $5::timestamptz[]), (select $6::timestamptz[]),
                    (select $8::text[]))
                    with ordinality as d (gateway, connection, first, last, started_at, finished_at, instance, nth)
                order by d.nth
            )
            select distinct r.gateway as "gateway!: GatewayKey",
                greatest(r.first, dead.first_sequence) as "first!: Sequence",
                least(r.last, dead.last_sequence) as "last!: Sequence"
            from unnest((select $1::bigint[]), (select $3::bigint[]), (select $4::bigint[]))
                as r (gateway, first, last)
            cross join lateral (
                select d.first_sequence, d.last_sequence from dead_letters d
                where d.gateway = r.gateway and d.first_sequence between r.first - $9::bigint and r.last
                    and d.last_sequence >= r.first and d.redriven_at is null
                order by d.first_sequence
                offset 0
            ) as dead
            "#,
            &column(receipts, |it| it.gateway.0),
            &column(receipts, |it| it.connection.0),
            &column(receipts, |it| it.range.first.0),
            &column(receipts, |it| it.range.last.0),
            &column(receipts, |it| it.started_at) as _,
            &column(receipts, |it| it.finished_at) as _,
            node as _,
            &column(receipts, |it| &*it.instance) as _,
            MAX_RANGE_LENGTH,
            outcome as _
        )
        .fetch_all(self)
        .await?;
        let range = |first, last| Range { first, last };
        Ok(dead.into_iter().map(|row| (row.gateway, range(row.first, row.last))).collect())
    }

    async fn insert_failed(
        &mut self,
        now: Timestamp,
        node: NodeId,
        reason: Reason,
        pieces: &[(GatewayKey, Range)],
    ) -> Result<()> {
        query!(
            r#"
            insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, instance,
                node, started_at, finished_at)
            select gateway, first, last, 'failed', $4, '', $5, $6, $6
            from unnest($1::bigint[], $2::bigint[], $3::bigint[])
                with ordinality as piece (gateway, first, last, nth)
            order by nth
            "#,
            &column(pieces, |it| it.0.0),
            &column(pieces, |it| it.1.first.0),
            &column(pieces, |it| it.1.last.0),
            reason as _,
            node as _,
            now as _
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn insert_dead_letters(
        &mut self,
        now: Timestamp,
        reason: Reason,
        pieces: &[(GatewayKey, Range)],
    ) -> Result<()> {
        query!(
            r#"
            insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at)
            select gateway, first, last, $4, $5
            from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as piece (gateway, first, last)
            "#,
            &column(pieces, |it| it.0.0),
            &column(pieces, |it| it.1.first.0),
            &column(pieces, |it| it.1.last.0),
            reason as _,
            now as _
        )
        .execute(&mut *self)
        .await?;
        query!(
            r#"
            update streams
            set failed_total = failed_total + m.count, dead_total = dead_total + m.count,
                last_failure_reason = case when last_failure_at > $4 then last_failure_reason else $3 end,
                last_failure_at = case when last_failure_at > $4 then last_failure_at else $4 end
            from (
                select gateway, cast(sum(count) as bigint) as count
                from unnest($1::bigint[], $2::bigint[]) as piece (gateway, count) group by gateway
            ) as m
            where streams.gateway = m.gateway
            "#,
            &column(pieces, |it| it.0.0),
            &column(pieces, |it| it.1.last.0 - it.1.first.0 + 1),
            reason as _,
            now as _
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn logged_events(
        &mut self,
        deliveries: &[(GatewayKey, Sequence)],
    ) -> Result<Vec<(GatewayKey, LoggedEvent)>> {
        let rows = query!(
            r#"
            select o.gateway as "gateway!: GatewayKey", o.sequence as "sequence!: Sequence",
                e.id as "id!: EventId", e.type as "event_type!: EventType"
            from unnest($1::bigint[], $2::bigint[]) as k (gateway, sequence)
            cross join lateral (
                select * from outbox where gateway = k.gateway and sequence = k.sequence limit 1
            ) as o
            cross join lateral (select * from events where event = o.event limit 1) as e
            order by o.gateway, o.sequence
            "#,
            &column(deliveries, |it| it.0.0),
            &column(deliveries, |it| it.1.0)
        )
        .fetch_all(self)
        .await?;
        let event = |sequence, id, event_type| LoggedEvent { sequence, id, event_type };
        let rows = rows.into_iter();
        Ok(rows.map(|row| (row.gateway, event(row.sequence, row.id, row.event_type))).collect())
    }

    /// Looks up ranges one by one.
    async fn counted_types(
        &mut self,
        ranges: &[(GatewayKey, Range)],
    ) -> Result<Vec<(usize, EventType, u64)>> {
        let rows = query!(
            r#"
            select r.nth - 1 as "nth!: i64", e.type as "event_type!: EventType",
                count(*) as "count!: i64"
            from unnest($1::bigint[], $2::bigint[], $3::bigint[])
                with ordinality as r (gateway, first, last, nth)
            cross join lateral (
                select event from outbox
                where gateway = r.gateway and sequence between r.first and r.last offset 0
            ) as o
            cross join lateral (select type from events where event = o.event limit 1) as e
            group by 1, 2
            "#,
            &column(ranges, |it| it.0.0),
            &column(ranges, |it| it.1.first.0),
            &column(ranges, |it| it.1.last.0)
        )
        .fetch_all(self)
        .await?;
        let number = |column: i64| u64::try_from(column).unwrap_or(0);
        let place = |nth: i64| usize::try_from(nth).unwrap_or(usize::MAX);
        let rows = rows.into_iter();
        Ok(rows.map(|row| (place(row.nth), row.event_type, number(row.count))).collect())
    }
}
