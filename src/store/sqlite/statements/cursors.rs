//! Raising positions, in the table `cursors`.

use super::super::sql::dialect::CursorStatements;
use super::super::sql::dialect::cursors::{Raised, RaisedInstance};
use super::{Connection, json, query};
use crate::clock::Timestamp;
use crate::event::GatewayKey;
use crate::store::positions::Change;
use crate::store::{Range, Result};

impl CursorStatements for Connection {
    async fn count_confirmed(&mut self, gateways: &[Raised<'_>], longest_range: i64) -> Result<()> {
        let raised = as_json(gateways)?;
        query!(
            r#"
            update streams
            set confirmed_total = confirmed_total + moved.received - moved.before - coalesce((
                select sum(min(d.last_sequence, moved.received) - max(d.first_sequence, moved.before + 1) + 1)
                from dead_letters d
                where d.gateway = moved.gateway and d.last_sequence > moved.before
                    and d.first_sequence between moved.before - $2 and moved.received
            ), 0)
            from (
                select s.gateway, coalesce(own.received, 0) as before,
                    min(s.head, m.value ->> 1, case when s.confirmation = 'all' then coalesce((
                        select min(case when i.confirm = 'applied' then i.applied_up_to else i.received end)
                        from cursors i where i.gateway = s.gateway and i.confirm is not null
                    ), s.head) else s.head end) as received
                from jsonb_each($1) as m
                join streams s on s.gateway = m.value ->> 0
                left join cursors own on own.gateway = s.gateway and own.instance = ''
            ) as moved
            where streams.gateway = moved.gateway and moved.received > moved.before
            "#,
            raised,
            longest_range
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn raise_cursors(&mut self, raised: &[Raised<'_>]) -> Result<u64> {
        let raised = as_json(raised)?;
        let moved = query!(
            r#"
            update cursors
            set received = max(cursors.received, min(s.head, m.value ->> 1,
                    case when s.confirmation = 'all' and cursors.instance = '' then coalesce((
                        select min(case when i.confirm = 'applied' then i.applied_up_to else i.received end)
                        from cursors i where i.gateway = s.gateway and i.confirm is not null
                    ), s.head) else s.head end)),
                updated_at = max(cursors.updated_at, m.value ->> 3)
            from jsonb_each($1) as m join streams s on s.gateway = m.value ->> 0
            where cursors.gateway = m.value ->> 0 and cursors.instance = m.value ->> 2
            "#,
            raised
        )
        .execute(self)
        .await?;
        Ok(moved.rows_affected())
    }

    async fn raise_instances(&mut self, raised: &[RaisedInstance<'_>]) -> Result<()> {
        let row = |it: &RaisedInstance<'_>| {
            let (received, position) = (it.received.max(it.applied), it.position);
            (it.gateway.0, it.instance.to_owned(), received, it.applied, position, it.at.micros())
        };
        let raised = json(&raised.iter().map(row).collect::<Vec<_>>())?;
        query!(
            r#"
            update cursors
            set received = max(received, min(s.head, max(m.value ->> 2, m.value ->> 4))),
                applied_up_to = max(applied_up_to, min(s.head,
                    max(m.value ->> 3, case when confirm = 'applied' then m.value ->> 4 else 0 end))),
                updated_at = max(updated_at, m.value ->> 5)
            from jsonb_each($1) as m join streams s on s.gateway = m.value ->> 0
            where cursors.gateway = m.value ->> 0 and cursors.instance = m.value ->> 1
            "#,
            raised
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn raise_applied(&mut self, raised: &[Raised<'_>]) -> Result<()> {
        let raised = as_json(raised)?;
        query!(
            r#"
            update cursors
            set applied_up_to = max(cursors.applied_up_to, min(s.head, m.value ->> 1,
                    case when s.confirmation = 'all' and cursors.instance = '' then coalesce((
                        select min(i.applied_up_to)
                        from cursors i where i.gateway = s.gateway and i.confirm is not null
                    ), s.head) else s.head end))
            from jsonb_each($1) as m join streams s on s.gateway = m.value ->> 0
            where cursors.gateway = m.value ->> 0 and cursors.instance = m.value ->> 2
            "#,
            raised
        )
        .execute(self)
        .await?;
        Ok(())
    }

    /// Differs by necessity: SQLite reads lists from JSON, and `cross join` keeps the order of a join.
    async fn end_failing(&mut self, acknowledged: &[(GatewayKey, Range)]) -> Result<()> {
        let rows = acknowledged.iter().map(|(gateway, it)| (gateway.0, it.first.0, it.last.0));
        let acknowledged = json(&rows.collect::<Vec<_>>())?;
        query!(
            r#"
            with acknowledged (gateway, first, last) as (
                select m.value ->> 0, m.value ->> 1, m.value ->> 2 from jsonb_each($1) as m
            )
            update streams
            set reported = (select max(a.last) from acknowledged a where a.gateway = streams.gateway),
                failing_since = null, failing_reason = null, failing_count = 0
            where gateway in (select a.gateway from acknowledged a) and failing_since is not null
                and exists (
                    select 1 from acknowledged a
                    where a.gateway = streams.gateway and a.last >= streams.reported
                )
                and (
                    not exists (
                        select 1 from outbox f
                        where f.gateway = streams.gateway and f.sequence = streams.reported
                    )
                    or exists (
                        select 1 from acknowledged a
                        cross join outbox o on o.gateway = a.gateway
                            and o.sequence between max(a.first, streams.reported) and a.last
                        cross join events e on e.event = o.event
                        where a.gateway = streams.gateway and e.type = (
                            select fe.type from outbox f cross join events fe on fe.event = f.event
                            where f.gateway = streams.gateway and f.sequence = streams.reported
                        )
                    )
                )
            "#,
            acknowledged
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn insert_cursors(&mut self, raised: &[Raised<'_>]) -> Result<()> {
        let raised = as_json(raised)?;
        query!(
            r#"
            insert into cursors (gateway, instance, received, updated_at)
            select s.gateway, m.value ->> 2, min(s.head, m.value ->> 1), m.value ->> 3
            from jsonb_each($1) as m join streams s on s.gateway = m.value ->> 0
            where true
            on conflict do nothing
            "#,
            raised
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn delete_cursors(&mut self, gateway: GatewayKey, instances: &[String]) -> Result<()> {
        let instances = json(instances)?;
        query!(
            "delete from cursors where gateway = $1 and instance in (select value from json_each($2))",
            gateway.0,
            instances
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn change_cursors(&mut self, gateway: GatewayKey, changes: &[Change]) -> Result<()> {
        let micros = |at: Option<Timestamp>| at.map(Timestamp::micros);
        let rows =
            changes.iter().map(|it| (&it.instance, micros(it.superseded_at), micros(it.left_at)));
        let rows = json(&rows.collect::<Vec<_>>())?;
        query!(
            r#"
            update cursors set superseded_at = c.value ->> 1, left_at = c.value ->> 2
            from jsonb_each($2) as c
            where cursors.gateway = $1 and cursors.instance = c.value ->> 0
            "#,
            gateway.0,
            rows
        )
        .execute(self)
        .await?;
        Ok(())
    }
}

fn as_json(raised: &[Raised<'_>]) -> Result<String> {
    let rows = raised.iter().map(|it| (it.gateway.0, it.to, &it.instance, it.at.micros()));
    json(&rows.collect::<Vec<_>>())
}
