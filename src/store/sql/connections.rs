//! Connections: opening them and listing them.

use std::time::Duration;

use async_trait::async_trait;

use super::Backend;
use super::access::{Access as _, run};
use super::cursors;
use super::dialect::{Connection, ConnectionStatements as _, query};
use super::instances::insert_connection;
use super::instances::opening::{insert_gateway_position, stored};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, Epoch, GatewayId, GatewayKey, NodeId, OrganisationKey, Sequence};
use crate::store::positions::Repeats;
use crate::store::{
    ConnectionCursor, ConnectionPage, Connections, Level, NewConnection, Opened, Result,
    RevokedConnection, StoreError,
};
use crate::wake::Control;

pub(crate) mod close;
pub(crate) mod cursor;
pub(crate) mod list;
mod peak;
mod revoked;
pub(crate) mod sent;

use cursor::Start;
use list::list;
use peak::peak;
use revoked::revoked;
use sent::sent_behind;

#[async_trait]
impl Connections for Backend {
    async fn open_connection(&self, connection: NewConnection) -> Result<Opened> {
        self.writer.open(connection).await
    }

    async fn peak_connections(&self, gateway: GatewayKey, within: Duration) -> Result<usize> {
        run!(self.point_read, |conn| peak(conn, gateway, within))
    }

    async fn connections(
        &self,
        organisation: OrganisationKey,
        gateway: Option<GatewayId>,
        live_only: bool,
        after: Option<ConnectionCursor>,
        limit: usize,
    ) -> Result<ConnectionPage> {
        run!(self.query, |conn| list(conn, organisation, gateway, live_only, after, limit))
    }

    async fn not_on_record(&self, connections: &[ConnectionId]) -> Result<Vec<ConnectionId>> {
        let ids = connections.to_vec();
        let asked =
            self.urgent_tx(move |conn, _| Box::pin(async move { conn.not_on_record(&ids).await }));
        asked.await
    }

    async fn revoked_connections(&self) -> Result<Vec<RevokedConnection>> {
        let node = self.node;
        // Urgent, so that revoked connections are closed within a second.
        self.urgent_tx(move |conn, _| Box::pin(revoked(conn, node))).await
    }
}

/// Opens a connection. Returns `NotFound` before it writes anything if the gateway was deleted or
/// disabled.
pub(super) async fn open_connection(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    new: &NewConnection,
) -> Result<Opened> {
    let stream = query!(
        r#"
        select s.epoch as "epoch!: Epoch", s.head as "head!: Sequence", g.replicas as "replicas!: i64",
            s.revision as "revision!: i64", (g.paused_at is not null) as "is_paused!: bool",
            exists (
                select 1 from outbox o
                where o.gateway = s.gateway and o.collapse_key is not null and o.sequence > s.attended
            ) as "is_collapsible!: bool"
        from streams s join gateways g using (gateway)
        where s.gateway = $1 and g.deleted_at is null and g.disabled_at is null
        "#,
        new.gateway.0
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(StoreError::NotFound("gateway"))?;
    let unnamed = new.instance.is_empty();
    let Start { position, is_unsure, repeats } = if unnamed {
        cursor::open(conn, now, new.gateway, stream.replicas).await?
    } else {
        insert_gateway_position(conn, new.gateway).await?;
        let position = start_of(conn, new.gateway, &new.instance).await?;
        Start { position, is_unsure: false, repeats: Repeats::default() }
    };
    insert_connection(conn, now, node, new).await?;
    let instance = if unnamed { new.id.to_string() } else { new.instance.clone() };
    let connected_at = unnamed.then_some(now);
    let confirm = (!unnamed).then_some(Level::Received.as_str());
    query!(
        r#"
        insert into cursors (gateway, instance, received, updated_at, connected_at, confirm)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (gateway, instance) do nothing
        "#,
        new.gateway.0,
        instance,
        position.0,
        now as _,
        connected_at as _,
        confirm
    )
    .execute(&mut *conn)
    .await?;
    let (sent, suspect) = sent_behind(conn, new.gateway, position).await?;
    let (epoch, head) = (stream.epoch, stream.head);
    let control = Control { revision: stream.revision, is_paused: stream.is_paused };
    let is_collapsible = stream.is_collapsible;
    Ok(Opened { epoch, position, head, sent, suspect, is_unsure, repeats, is_collapsible, control })
}

/// The position of an [instance](crate::store::instances). A new one starts at the gateway's.
async fn start_of(conn: &mut Connection, gateway: GatewayKey, instance: &str) -> Result<Sequence> {
    match stored(conn, gateway, instance).await? {
        Some(cursor) => Ok(cursor.position()),
        None => cursors::confirmed(conn, gateway).await,
    }
}
