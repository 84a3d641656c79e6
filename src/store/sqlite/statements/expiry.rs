//! Expiry of events whose gateway has no live connection.

use super::super::sql::dialect::ExpiryStatements;
use super::super::sql::dialect::expiry::{DueEvent, OpenDelivery};
use super::{Connection, json, query, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, Sequence};
use crate::store::limits::MAX_RANGE_LENGTH;
use crate::store::{Result, TimedKey};

impl ExpiryStatements for Connection {
    async fn due_events(
        &mut self,
        now: Timestamp,
        after: TimedKey,
        limit: i64,
    ) -> Result<Vec<DueEvent>> {
        Ok(query_as!(
            DueEvent,
            r#"
            select event as "event!: i64", expires_at as "expires_at!: Timestamp" from events
            where expires_at is not null and expiry_settled = 0 and expires_at <= $1
                and (expires_at, event) > ($2, $3)
            order by expires_at, event limit $4
            "#,
            now as _,
            after.at as _,
            after.key,
            limit
        )
        .fetch_all(self)
        .await?)
    }

    async fn settled_events(&mut self, events: &[i64]) -> Result<Vec<i64>> {
        let events = json(events)?;
        Ok(query_scalar!(
            r#"
            select cast(due.value as integer) as "event!: i64" from json_each($1) as due
            where not exists (
                select 1 from outbox o join gateways g using (gateway)
                where o.event = due.value and g.deleted_at is null
                    and o.withheld is distinct from 'superseded'
                    and o.sequence > coalesce(
                        (select received from cursors u where u.gateway = o.gateway and u.instance = ''),
                        (select max(received) from cursors u where u.gateway = o.gateway), 0)
                    and not exists (
                        select 1 from dead_letters d
                        where d.gateway = o.gateway and d.last_sequence >= o.sequence
                            and d.first_sequence between o.sequence - $2 and o.sequence
                    )
            )
            "#,
            events,
            MAX_RANGE_LENGTH
        )
        .fetch_all(self)
        .await?)
    }

    async fn open_and_not_connected(
        &mut self,
        events: &[i64],
        limit: i64,
    ) -> Result<Vec<OpenDelivery>> {
        let events = json(events)?;
        Ok(query_as!(
            OpenDelivery,
            r#"
            select o.gateway as "gateway!: GatewayKey", g.id as "gateway_id!: GatewayId",
                g.name as "gateway_name!: String", o.sequence as "sequence!: Sequence"
            from json_each($1) as due
            cross join outbox o on o.event = due.value
            cross join gateways g on g.gateway = o.gateway
            where g.deleted_at is null
                and o.withheld is distinct from 'superseded'
                and o.sequence > coalesce(
                    (select received from cursors u where u.gateway = o.gateway and u.instance = ''),
                    (select max(received) from cursors u where u.gateway = o.gateway), 0)
                and not exists (
                    select 1 from dead_letters d
                    where d.gateway = o.gateway and d.last_sequence >= o.sequence
                        and d.first_sequence between o.sequence - $2 and o.sequence
                )
                and not exists (
                    select 1 from connections c where c.gateway = o.gateway and c.closed_at is null
                )
            order by o.event, o.gateway, o.sequence limit $3
            "#,
            events,
            MAX_RANGE_LENGTH,
            limit
        )
        .fetch_all(self)
        .await?)
    }

    async fn settle_expiry(&mut self, events: &[i64]) -> Result<()> {
        let events = json(events)?;
        query!(
            r#"
            update events set expiry_settled = 1
            where event in (select value from json_each($1)) and expiry_settled = 0
            "#,
            events
        )
        .execute(self)
        .await?;
        Ok(())
    }
}
