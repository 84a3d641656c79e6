//! The sweep for gateways with no live connection.

use super::super::sql::dialect::NotConnectedStatements;
use super::super::sql::dialect::not_connected::{NotConnected, NotConnectedCount};
use super::{Connection, json, query, query_as};
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, Reason, Sequence};
use crate::store::Result;
use crate::store::limits::MAX_RANGE_LENGTH;

impl NotConnectedStatements for Connection {
    async fn streams_not_connected(
        &mut self,
        gateways: Option<&[GatewayKey]>,
    ) -> Result<Vec<NotConnected>> {
        let wanted = gateways
            .map(|keys| json(&keys.iter().map(|key| key.0).collect::<Vec<_>>()))
            .transpose()?;
        Ok(query_as!(
            NotConnected,
            r#"
            select s.gateway as "gateway!: GatewayKey", g.id as "gateway_id!: GatewayId",
                g.name as "gateway_name!: String", s.head as "head!: Sequence",
                max(s.missed, coalesce(u.received, 0)) as "answered!: Sequence",
                (
                    select c.closed_at from connections c
                    where c.gateway = s.gateway and c.closed_at is not null
                    order by c.closed_at desc limit 1
                ) as "left_at?: Timestamp",
                exists (
                    select 1 from dead_letters d where d.gateway = s.gateway
                        and d.first_sequence > max(s.missed, coalesce(u.received, 0)) - $2
                        and d.last_sequence > max(s.missed, coalesce(u.received, 0))
                ) as "has_dead!: bool",
                exists (
                    select 1 from outbox o where o.gateway = s.gateway and o.collapse_key is not null
                        and o.withheld = 'superseded'
                        and o.sequence > max(s.missed, coalesce(u.received, 0))
                ) as "has_superseded!: bool"
            from streams s join gateways g using (gateway)
                left join cursors u on u.gateway = s.gateway and u.instance = ''
            where s.head > max(s.missed, coalesce(u.received, 0))
                and ($1 is null or s.gateway in (select value from json_each($1)))
                and g.paused_at is null
                and not exists (
                    select 1 from connections c where c.gateway = s.gateway and c.closed_at is null
                )
            "#,
            wanted,
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
        let counts =
            json(&counts.iter().map(|it| (it.gateway.0, it.head, it.count)).collect::<Vec<_>>())?;
        query!(
            r#"
            update streams
            set missed = m.value ->> 1, failed_total = failed_total + (m.value ->> 2),
                last_failure_reason = case when last_failure_at > $2 or (m.value ->> 2) = 0
                    then last_failure_reason else $3 end,
                last_failure_at = case when last_failure_at > $2 or (m.value ->> 2) = 0
                    then last_failure_at else $2 end
            from jsonb_each($1) as m where streams.gateway = m.value ->> 0
            "#,
            counts,
            now as _,
            Reason::NotConnected as _
        )
        .execute(self)
        .await?;
        Ok(())
    }
}
