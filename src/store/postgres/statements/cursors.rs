//! Raising positions, in the table `cursors`. Their streams are locked, so no other node moves them
//! meanwhile. Keys in subqueries make Postgres keep one plan of the frequent statements, as in
//! `lock_streams`.

use super::super::sql::dialect::CursorStatements;
use super::super::sql::dialect::cursors::{Raised, RaisedInstance};
use super::{Connection, column, query};
use crate::event::GatewayKey;
use crate::store::positions::Change;
use crate::store::{Range, Result};

impl CursorStatements for Connection {
    /// Without `offset 0`, the planner would copy `received` to each of its uses. The order makes it look
    /// up dead letters by gateway, even if there were none when the plan was made.
    async fn count_confirmed(&mut self, gateways: &[Raised<'_>], longest_range: i64) -> Result<()> {
        query!(
            r#"
            update streams
            set confirmed_total = confirmed_total + moved.received - moved.before - coalesce((
                select sum(least(d.last_sequence, moved.received)
                    - greatest(d.first_sequence, moved.before + 1) + 1)::bigint
                from (
                    select first_sequence, last_sequence from dead_letters
                    where gateway = moved.gateway and last_sequence > moved.before
                        and first_sequence between moved.before - $3 and moved.received
                    order by first_sequence
                ) as d
            ), 0)
            from (
                select s.gateway, coalesce(own.received, 0) as before,
                    least(s.head, m.last, case when s.confirmation = 'all' then (
                        select min(case when i.confirm = 'applied' then i.applied_up_to else i.received end)
                        from cursors i where i.gateway = s.gateway and i.confirm is not null
                    ) end) as received
                from unnest((select $1::bigint[]), (select $2::bigint[])) as m (gateway, last)
                join streams s on s.gateway = m.gateway
                left join cursors own on own.gateway = s.gateway and own.instance = ''
                offset 0
            ) as moved
            where streams.gateway = moved.gateway and moved.received > moved.before
            "#,
            &column(gateways, |it| it.gateway.0),
            &column(gateways, |it| it.to.0),
            longest_range
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn raise_cursors(&mut self, raised: &[Raised<'_>]) -> Result<u64> {
        let moved = query!(
            r#"
            update cursors
            set received = greatest(cursors.received, least(s.head, m.last,
                    case when s.confirmation = 'all' and cursors.instance = '' then (
                        select min(case when i.confirm = 'applied' then i.applied_up_to else i.received end)
                        from cursors i where i.gateway = s.gateway and i.confirm is not null
                    ) end)),
                updated_at = greatest(cursors.updated_at, m.at)
            from unnest((select $1::bigint[]), (select $2::text[]), (select $3::bigint[]),
                    (select $4::timestamptz[])) as m (gateway, instance, last, at)
            join streams s on s.gateway = m.gateway
            where cursors.gateway = m.gateway and cursors.instance = m.instance
            "#,
            &column(raised, |it| it.gateway.0),
            &column(raised, |it| &*it.instance) as _,
            &column(raised, |it| it.to.0),
            &column(raised, |it| it.at) as _
        )
        .execute(self)
        .await?;
        Ok(moved.rows_affected())
    }

    async fn raise_instances(&mut self, raised: &[RaisedInstance<'_>]) -> Result<()> {
        query!(
            r#"
            update cursors
            set received = greatest(cursors.received,
                    least(s.head, greatest(m.received, m.applied, m.position))),
                applied_up_to = greatest(cursors.applied_up_to, least(s.head,
                    greatest(m.applied, case when cursors.confirm = 'applied' then m.position else 0 end))),
                updated_at = greatest(cursors.updated_at, m.at)
            from unnest((select $1::bigint[]), (select $2::text[]), (select $3::bigint[]),
                    (select $4::bigint[]), (select $5::bigint[]), (select $6::timestamptz[]))
                as m (gateway, instance, received, applied, position, at)
            join streams s on s.gateway = m.gateway
            where cursors.gateway = m.gateway and cursors.instance = m.instance
            "#,
            &column(raised, |it| it.gateway.0),
            &column(raised, |it| it.instance) as _,
            &column(raised, |it| it.received.0),
            &column(raised, |it| it.applied.0),
            &column(raised, |it| it.position.0),
            &column(raised, |it| it.at) as _
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn raise_applied(&mut self, raised: &[Raised<'_>]) -> Result<()> {
        query!(
            r#"
            update cursors
            set applied_up_to = greatest(cursors.applied_up_to, least(s.head, m.last,
                    case when s.confirmation = 'all' and cursors.instance = '' then (
                        select min(i.applied_up_to)
                        from cursors i where i.gateway = s.gateway and i.confirm is not null
                    ) end))
            from unnest((select $1::bigint[]), (select $2::text[]), (select $3::bigint[]))
                as m (gateway, instance, last)
            join streams s on s.gateway = m.gateway
            where cursors.gateway = m.gateway and cursors.instance = m.instance
            "#,
            &column(raised, |it| it.gateway.0),
            &column(raised, |it| &*it.instance) as _,
            &column(raised, |it| it.to.0)
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn end_failing(&mut self, acknowledged: &[(GatewayKey, Range)]) -> Result<()> {
        query!(
            r#"
            with acknowledged as (
                select * from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as m (gateway, first, last)
            )
            update streams
            set reported = (select max(a.last) from acknowledged a where a.gateway = streams.gateway),
                failing_since = null, failing_reason = null, failing_count = 0
            where gateway = any($1) and failing_since is not null
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
                        join outbox o on o.gateway = streams.gateway
                            and o.sequence between greatest(a.first, streams.reported) and a.last
                        join events e on e.event = o.event
                        where a.gateway = streams.gateway and e.type = (
                            select fe.type from outbox f join events fe on fe.event = f.event
                            where f.gateway = streams.gateway and f.sequence = streams.reported
                        )
                    )
                )
            "#,
            &column(acknowledged, |it| it.0.0),
            &column(acknowledged, |it| it.1.first.0),
            &column(acknowledged, |it| it.1.last.0)
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn insert_cursors(&mut self, raised: &[Raised<'_>]) -> Result<()> {
        query!(
            r#"
            insert into cursors (gateway, instance, received, updated_at)
            select s.gateway, m.instance, least(s.head, m.last), m.at
            from unnest($1::bigint[], $2::text[], $3::bigint[], $4::timestamptz[])
                as m (gateway, instance, last, at)
            join streams s on s.gateway = m.gateway
            on conflict do nothing
            "#,
            &column(raised, |it| it.gateway.0),
            &column(raised, |it| &*it.instance) as _,
            &column(raised, |it| it.to.0),
            &column(raised, |it| it.at) as _
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn delete_cursors(&mut self, gateway: GatewayKey, instances: &[String]) -> Result<()> {
        query!(
            "delete from cursors where gateway = $1 and instance = any($2)",
            gateway.0,
            instances
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn change_cursors(&mut self, gateway: GatewayKey, changes: &[Change]) -> Result<()> {
        query!(
            r#"
            update cursors set superseded_at = c.superseded_at, left_at = c.left_at
            from unnest($2::text[], $3::timestamptz[], $4::timestamptz[])
                as c (instance, superseded_at, left_at)
            where cursors.gateway = $1 and cursors.instance = c.instance
            "#,
            gateway.0,
            &column(changes, |it| &*it.instance) as _,
            &column(changes, |it| it.superseded_at) as _,
            &column(changes, |it| it.left_at) as _
        )
        .execute(self)
        .await?;
        Ok(())
    }
}
