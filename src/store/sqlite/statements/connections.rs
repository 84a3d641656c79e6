//! Live and past connections.

use std::collections::HashMap;

use super::super::sql::dialect::ConnectionStatements;
use super::super::sql::dialect::connections::ConnectionRow;
use super::{Connection, json, query, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, NodeId, OrganisationKey, Reason, Sequence};
use crate::store::Result;

impl ConnectionStatements for Connection {
    async fn connection_details(
        &mut self,
        organisation: OrganisationKey,
        ids: &[ConnectionId],
    ) -> Result<Vec<ConnectionRow>> {
        let ids = json(ids)?;
        Ok(query_as!(
            ConnectionRow,
            r#"
            select c.id as "id!: ConnectionId", g.id as "gateway_id!: GatewayId", g.name as "name!: String",
                c.transport as "transport!: String", c.node as "node!: NodeId",
                c.remote_address as "remote_address!: String", c.connected_at as "connected_at!: Timestamp",
                c.last_heartbeat_at as "last_heartbeat_at!: Timestamp",
                c.closed_at as "closed_at?: Timestamp", c.close_reason as "close_reason?: Reason",
                coalesce(
                    c.confirmed,
                    (
                        select case when u.confirm = 'applied' then u.applied_up_to else u.received end
                        from cursors u where u.gateway = c.gateway
                            and u.instance = coalesce(nullif(c.instance, ''), c.id)
                    ),
                    (select received from cursors u where u.gateway = c.gateway and u.instance = ''),
                    0
                ) as "confirmed!: Sequence"
            from json_each($1) as wanted
            cross join connections c on c.id = wanted.value
            cross join gateways g on g.gateway = c.gateway
            where g.organisation = $2
            order by c.connected_at desc, c.id desc
            "#,
            ids,
            organisation.0
        )
        .fetch_all(self)
        .await?)
    }

    async fn not_on_record(&mut self, ids: &[ConnectionId]) -> Result<Vec<ConnectionId>> {
        let ids = json(ids)?;
        Ok(query_scalar!(
            r#"
            select cast(asked.value as text) as "id!: ConnectionId" from json_each($1) as asked
            where not exists (
                select 1 from connections c where c.id = asked.value and c.closed_at is null
            )
            "#,
            ids
        )
        .fetch_all(self)
        .await?)
    }

    async fn record_heartbeats(&mut self, signs: &HashMap<ConnectionId, Timestamp>) -> Result<()> {
        let signs = json(&signs.iter().map(|(id, at)| (id, at.micros())).collect::<Vec<_>>())?;
        query!(
            r#"
            update connections set last_heartbeat_at = max(last_heartbeat_at, sign.value ->> 1)
            from jsonb_each($1) as sign where connections.id = sign.value ->> 0
            "#,
            signs
        )
        .execute(self)
        .await?;
        Ok(())
    }
}
