//! Inserting attempts and dead letters.

use super::super::sql::dialect::LedgerStatements;
use super::{Connection, json, query};
use crate::clock::Timestamp;
use crate::event::{EventId, EventType, GatewayKey, NodeId, Reason, Sequence};
use crate::store::limits::MAX_RANGE_LENGTH;
use crate::store::receipts::Receipts;
use crate::store::{LoggedEvent, Outcome, Range, Result};

impl LedgerStatements for Connection {
    async fn insert_receipts(
        &mut self,
        node: NodeId,
        outcome: Outcome,
        receipts: &[Receipts],
    ) -> Result<Vec<(GatewayKey, Range)>> {
        let rows: Vec<_> = receipts
            .iter()
            .map(|it| {
                let times = (it.started_at.micros(), it.finished_at.micros());
                (it.gateway.0, it.connection, it.range.first, it.range.last, times, &*it.instance)
            })
            .collect();
        let rows = json(&rows)?;
        query!(
            r#"
            insert into attempts (gateway, first_sequence, last_sequence, outcome, connection,
                instance, node, started_at, finished_at)
            select value ->> 0, value ->> 2, value ->> 3, $3, value ->> 1,
                value ->> 5, $2, value ->> '$[4][0]', value ->> '$[4][1]'
            from jsonb_each($1) where true order by key
            "#,
            rows,
            node as _,
            outcome as _
        )
        .execute(&mut *self)
        .await?;
        let dead = query!(
            r#"
            select distinct d.gateway as "gateway!: GatewayKey",
                max(d.first_sequence, r.value ->> 2) as "first!: Sequence",
                min(d.last_sequence, r.value ->> 3) as "last!: Sequence"
            from jsonb_each($1) as r
            cross join dead_letters d on d.gateway = r.value ->> 0
                and d.first_sequence between (r.value ->> 2) - $2 and r.value ->> 3
                and d.last_sequence >= r.value ->> 2
            where d.redriven_at is null
            "#,
            rows,
            MAX_RANGE_LENGTH
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
        let pieces = pieces.iter().map(|(gateway, range)| (gateway.0, range.first, range.last));
        let pieces = json(&pieces.collect::<Vec<_>>())?;
        query!(
            r#"
            insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, instance,
                node, started_at, finished_at)
            select value ->> 0, value ->> 1, value ->> 2, 'failed', $2, '', $3, $4, $4
            from jsonb_each($1) where true order by key
            "#,
            pieces,
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
        let rows = pieces.iter().map(|(gateway, range)| (gateway.0, range.first, range.last));
        let rows = json(&rows.collect::<Vec<_>>())?;
        query!(
            r#"
            insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at)
            select value ->> 0, value ->> 1, value ->> 2, $2, $3 from jsonb_each($1) where true
            "#,
            rows,
            reason as _,
            now as _
        )
        .execute(&mut *self)
        .await?;
        query!(
            r#"
            update streams
            set failed_total = failed_total + m.count, dead_total = dead_total + m.count,
                last_failure_reason = case when last_failure_at > $3 then last_failure_reason else $2 end,
                last_failure_at = case when last_failure_at > $3 then last_failure_at else $3 end
            from (
                select value ->> 0 as gateway, sum((value ->> 2) - (value ->> 1) + 1) as count
                from jsonb_each($1) group by value ->> 0
            ) as m
            where streams.gateway = m.gateway
            "#,
            rows,
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
        let keys = json(&deliveries.iter().map(|(key, nth)| (key.0, nth.0)).collect::<Vec<_>>())?;
        let rows = query!(
            r#"
            select o.gateway as "gateway!: GatewayKey", o.sequence as "sequence!: Sequence",
                e.id as "id!: EventId", e.type as "event_type!: EventType"
            from json_each($1) k
            cross join outbox o on o.gateway = k.value ->> 0 and o.sequence = k.value ->> 1
            cross join events e on e.event = o.event
            order by o.gateway, o.sequence
            "#,
            keys
        )
        .fetch_all(self)
        .await?;
        let event = |sequence, id, event_type| LoggedEvent { sequence, id, event_type };
        let rows = rows.into_iter();
        Ok(rows.map(|row| (row.gateway, event(row.sequence, row.id, row.event_type))).collect())
    }

    async fn counted_types(
        &mut self,
        ranges: &[(GatewayKey, Range)],
    ) -> Result<Vec<(usize, EventType, u64)>> {
        let ranges = ranges.iter().enumerate();
        let ranges = ranges.map(|(nth, (key, it))| (nth, key.0, it.first.0, it.last.0));
        let ranges = json(&ranges.collect::<Vec<_>>())?;
        let rows = query!(
            r#"
            select r.value ->> 0 as "nth!: i64", e.type as "event_type!: EventType",
                count(*) as "count!: i64"
            from json_each($1) r
            cross join outbox o on o.gateway = r.value ->> 1
                and o.sequence between r.value ->> 2 and r.value ->> 3
            cross join events e on e.event = o.event
            group by 1, 2
            "#,
            ranges
        )
        .fetch_all(self)
        .await?;
        let number = |column: i64| u64::try_from(column).unwrap_or(0);
        let place = |nth: i64| usize::try_from(nth).unwrap_or(usize::MAX);
        let rows = rows.into_iter();
        Ok(rows.map(|row| (place(row.nth), row.event_type, number(row.count))).collect())
    }
}
