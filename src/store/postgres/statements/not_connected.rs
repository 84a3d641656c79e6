//! The sweep for gateways with no live connection.

use super::super::sql::dialect::NotConnectedStatements;
use super::super::sql::dialect::not_connected::{NotConnected, NotConnectedCount};
use super::{Connection, column, keys, query, query_as};
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, Reason, Sequence};
use crate::store::Result;
use crate::store::limits::MAX_RANGE_LENGTH;

impl NotConnectedStatements for Connection {
    async fn streams_not_connected(
        &mut self,
        gateways: Option<&[GatewayKey]>,
    ) -> Result<Vec<NotConnected>> {
        let wanted = gateways.map(keys);
        Ok(query_as!(
            NotConnected,
            r#"
            select s.gateway as "gateway!: GatewayKey", g.id as "gateway_id!: GatewayId",
                g.name as "gateway_name!: String", s.head as "head!: Sequence",
                greatest(s.missed, coalesce(u.received, 0)) as "answered!: Sequence",
                (
                    select c.closed_at from connections c
                    where c.gateway = s.gateway and c.closed_at is not null
                    order by c.closed_at desc limit 1
                ) as "left_at?: Timestamp",
                exists (
                    select 1 from dead_letters d where d.gateway = s.gateway
                        and d.first_sequence > greatest(s.missed, coalesce(u.received, 0)) - $2
                        and d.last_sequence > greatest(s.missed, coalesce(u.received, 0))
                ) as "has_dead!: bool",
                exists (
                    select 1 from outbox o where o.gateway = s.gateway and o.collapse_key is not null
                        and o.withheld = 'superseded'
                        and o.sequence > greatest(s.missed, coalesce(u.received, 0))
                ) as "has_superseded!: bool"
            from streams s join gateways g using (gateway)
                left join cursors u on u.gateway = s.gateway and u.instance = ''
            where s.head > greatest(s.missed, coalesce(u.received, 0))
                and (s.gateway = any($1) or $1 is null)
                and g.paused_at is null
                and not exists (
                    select 1 from connections c where c.gateway = s.gateway and c.closed_at is null
                )
            "#,
            wanted as _,
            MAX_RANGE_LENGTH
        )
        .fetch_all(self)
        .await?)
    }

    async fn count_not_connected(
        &mut self,
        now: Timestamp,
        counts: &[NotConnectedCount],
    ) -> Result<()> {
        query!(
            r#"
            update streams
            set missed = m.head, failed_total = failed_total + m.count,
                last_failure_reason = case when last_failure_at > $4 or m.count = 0
                    then last_failure_reason else $5 end,
                last_failure_at = case when last_failure_at > $4 or m.count = 0
                    then last_failure_at else $4 end
            from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as m (gateway, head, count)
            where streams.gateway = m.gateway
            "#,
            &column(counts, |it| it.gateway.0),
            &column(counts, |it| it.head.0),
            &column(counts, |it| it.count),
            now as _,
            Reason::NotConnected as _
        )
        .execute(self)
        .await?;
        Ok(())
    }
}
