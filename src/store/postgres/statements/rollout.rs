//! Rollouts.

use super::super::sql::dialect::RolloutStatements;
use super::{Connection, query_as};
use crate::event::{EventId, GatewayId, GatewayKey, Reason, Sequence};
use crate::store::Result;
use crate::store::rollout::RolloutRow;

impl RolloutStatements for Connection {
    async fn rollout_rows(&mut self, events: &[i64], limit: i64) -> Result<Vec<RolloutRow>> {
        Ok(query_as!(
            RolloutRow,
            r#"
            with deliveries as materialized (
                (select event, gateway, sequence from outbox where event = any($1)
                 order by event, gateway, sequence limit $2)
                union all
                (select event, gateway, sequence from trimmed where event = any($1)
                 order by event, gateway, sequence limit $2)
                limit $2
            )
            select e.id as "event_id!: EventId", g.id as "gateway_id!: GatewayId",
                g.gateway as "gateway!: GatewayKey",
                g.name as "gateway_name!: String", d.sequence as "sequence!: Sequence",
                d.sequence <= coalesce(
                    (select received from cursors c where c.gateway = d.gateway and c.instance = ''),
                    (select max(received) from cursors c where c.gateway = d.gateway), 0
                ) as "is_confirmed!: bool",
                (select case when l.last_sequence >= d.sequence then l.reason end from dead_letters l
                 where l.gateway = d.gateway and l.first_sequence <= d.sequence
                 order by l.first_sequence desc limit 1) as "dead?: Reason",
                exists (
                    select 1 from attempts a
                    where a.gateway = d.gateway and a.first_sequence = d.sequence and a.outcome = 'applied'
                ) as "is_applied!: bool",
                coalesce(
                    (select u.applied_up_to from cursors u where u.gateway = d.gateway and u.instance = ''), 0
                ) as "applied_up_to!: Sequence",
                (
                    select s.confirmation = 'all' from streams s where s.gateway = d.gateway
                ) and exists (
                    select 1 from cursors u where u.gateway = d.gateway and u.confirm is not null
                ) as "needs_all!: bool",
                exists (
                    select 1 from cursors u where u.gateway = d.gateway and u.confirm = 'applied'
                ) as "acknowledges!: bool",
                exists (
                    select 1 from connections n where n.gateway = d.gateway and n.closed_at is null
                ) as "is_connected!: bool",
                exists (
                    select 1 from connections n
                    join cursors u on u.gateway = n.gateway
                        and u.instance = coalesce(nullif(n.instance, ''), cast(n.id as text))
                    where n.gateway = d.gateway and n.closed_at is null
                        and case when u.confirm = 'applied' then u.applied_up_to else u.received end < d.sequence
                ) as "is_behind!: bool",
                coalesce((
                    select true from (
                        select 1 from attempts a
                        where a.gateway = d.gateway and a.first_sequence = d.sequence
                            and a.outcome in ('filtered', 'superseded')
                        union all
                        select 1 from attempts a
                        where a.gateway = d.gateway
                            and a.first_sequence between d.sequence - 999 and d.sequence - 1
                            and a.last_sequence >= d.sequence and a.last_sequence > a.first_sequence
                            and a.outcome in ('filtered', 'superseded')
                    ) f limit 1
                ), false) as "is_filtered!: bool"
            from deliveries d
            join events e on e.event = d.event
            join gateways g on g.gateway = d.gateway
            order by d.event, g.name, d.sequence
            "#,
            events,
            limit
        )
        .fetch_all(self)
        .await?)
    }
}
