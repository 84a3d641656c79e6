//! Live and past connections.

use std::collections::HashMap;

use super::super::sql::dialect::ConnectionStatements;
use super::super::sql::dialect::connections::ConnectionRow;
use super::{Connection, query, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, NodeId, OrganisationKey, Reason, Sequence};
use crate::store::Result;

impl ConnectionStatements for Connection {
    async fn connection_details(
        &mut self,
        organisation: OrganisationKey,
        ids: &[ConnectionId],
    ) -> Result<Vec<ConnectionRow>> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
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
                            and u.instance = coalesce(nullif(c.instance, ''), c.id::text)
                    ),
                    (select received from cursors u where u.gateway = c.gateway and u.instance = ''),
                    0
                ) as "confirmed!: Sequence"
            from connections c join gateways g on g.gateway = c.gateway
            where c.id = any($1::text[]::uuid[]) and g.organisation = $2
            order by c.connected_at desc, c.id desc
            "#,
            &ids,
            organisation.0
        )
        .fetch_all(self)
        .await?)
    }

    async fn not_on_record(&mut self, ids: &[ConnectionId]) -> Result<Vec<ConnectionId>> {
        let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.0).collect();
        Ok(query_scalar!(
            r#"
            select asked.id as "id!: ConnectionId" from unnest($1::uuid[]) as asked (id)
            where not exists (
                select 1 from connections c where c.id = asked.id and c.closed_at is null
            )
            "#,
            &ids
        )
        .fetch_all(self)
        .await?)
    }

    /// Skips connections that are being closed: their end says more than a heartbeat, and waiting for
    /// their rows could be a deadlock.
    async fn record_heartbeats(&mut self, signs: &HashMap<ConnectionId, Timestamp>) -> Result<()> {
        let (ids, at): (Vec<uuid::Uuid>, Vec<Timestamp>) =
            signs.iter().map(|(id, at)| (id.0, *at)).unzip();
        query!(
            r#"
            update connections set last_heartbeat_at = greatest(last_heartbeat_at, sign.at)
            from unnest($1::uuid[], $2::timestamptz[]) as sign (id, at)
            where connections.id = sign.id and connections.id in (
                select id from connections where id = any($1) for no key update skip locked
            )
            "#,
            &ids,
            &at as _
        )
        .execute(self)
        .await?;
        Ok(())
    }
}
