//! Named instances, and connections in reliable mode.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::Backend;
use super::access::{Access as _, run};
use super::audit::audited;
use super::cursors;
use super::dialect::{Connection, NodeStatements, query, query_as, query_scalar};
use super::gateways::details::the_one;
use super::gateways::live::live_key;
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, Epoch, GatewayId, GatewayKey, NodeId, OrganisationKey, Reason, Sequence,
};
use crate::store::audit::entries;
use crate::store::{
    Actor, Audited, Conflict, ExpiredInstance, InstanceConnection, InstanceInfo, InstanceList,
    Instances, LISTED_EXPIRED, LISTED_RESYNCS, Level, LogState, OpenInstance, OpenedInstance,
    Result, StoreError,
};

pub(crate) mod expiry;
pub(crate) mod opening;
mod outcomes;
pub(crate) mod resync;

pub(crate) use outcomes::{Connected, outcome};

#[async_trait]
impl Instances for Backend {
    async fn peek_log(&self, gateway: GatewayKey) -> Result<LogState> {
        run!(self.point_read, |conn| peek(conn, gateway))
    }

    async fn open_instance(&self, opening: OpenInstance) -> Result<OpenedInstance> {
        self.writer.open_instance(opening).await
    }

    async fn connections_to_end(&self) -> Result<Vec<(ConnectionId, Reason)>> {
        let node = self.node;
        // Urgent, so that these connections end within a second.
        self.urgent_tx(move |conn, _| Box::pin(to_end(conn, node))).await
    }

    async fn instances(
        &self,
        organisation: OrganisationKey,
        gateway: GatewayId,
    ) -> Result<Option<InstanceList>> {
        run!(self.query, |conn| list(conn, organisation, gateway))
    }

    async fn forget_instance(&self, actor: &Actor, gateway: GatewayId, name: &str) -> Result<()> {
        let (organisation, name) = (actor.organisation, name.to_owned());
        audited!(self, actor, |conn, now| forget(conn, now, organisation, gateway, &name))
    }
}

async fn peek(conn: &mut Connection, gateway: GatewayKey) -> Result<LogState> {
    query_as!(
        LogState,
        r#"
        select s.epoch as "epoch!: Epoch", s.head as "head!: Sequence", s.floor as "floor!: Sequence"
        from streams s join gateways g using (gateway)
        where s.gateway = $1 and g.deleted_at is null and g.disabled_at is null
        "#,
        gateway.0
    )
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::NotFound("gateway"))
}

async fn to_end(conn: &mut Connection, node: NodeId) -> Result<Vec<(ConnectionId, Reason)>> {
    // Each half reads an index that contains only such connections.
    let rows = query!(
        r#"
        select id as "id!: ConnectionId", true as "is_replaced!: bool" from connections
        where node = $1 and replaced_by is not null and closed_at is null
        union all
        select id, false from connections
        where node = $1 and resync_at is not null and replaced_by is null and closed_at is null
        "#,
        node as _
    )
    .fetch_all(conn)
    .await?;
    let reason = |is_replaced| if is_replaced { Reason::Replaced } else { Reason::Resync };
    Ok(rows.into_iter().map(|row| (row.id, reason(row.is_replaced))).collect())
}

/// The cursor of an instance.
struct CursorRow {
    name: String,
    confirm: String,
    received: Sequence,
    applied: Sequence,
    updated_at: Timestamp,
}

async fn list(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<Option<InstanceList>> {
    let gateway = match live_key(conn, organisation, id).await {
        Ok(gateway) => gateway,
        Err(StoreError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let log = query!(
        r#"select head as "head!: i64", floor as "floor!: i64" from streams where gateway = $1"#,
        gateway.0
    )
    .fetch_one(&mut *conn)
    .await?;
    let rows = query_as!(
        CursorRow,
        r#"
        select instance as "name!: String", confirm as "confirm!: String",
            received as "received!: Sequence", applied_up_to as "applied!: Sequence",
            updated_at as "updated_at!: Timestamp"
        from cursors where gateway = $1 and confirm is not null order by instance
        "#,
        gateway.0
    )
    .fetch_all(&mut *conn)
    .await?;
    let live = query!(
        r#"
        select instance as "name!: String", id as "id!: ConnectionId",
            transport as "transport!: String", node as "node!: NodeId",
            connected_at as "connected_at!: Timestamp", last_heartbeat_at as "seen_at!: Timestamp"
        from connections
        where gateway = $1 and closed_at is null and instance <> ''
        order by connected_at desc, id desc
        "#,
        gateway.0
    )
    .fetch_all(&mut *conn)
    .await?;
    let named = rows.into_iter().map(|row| {
        let newest = live.iter().find(|it| it.name == row.name);
        let mut info = InstanceInfo {
            name: row.name,
            confirm: Level::stored(&row.confirm),
            received: row.received,
            applied: row.applied,
            lag: 0,
            connection: newest.map(|it| InstanceConnection {
                id: it.id,
                transport: it.transport.clone(),
                node: it.node,
                connected_at: it.connected_at,
            }),
            last_seen_at: newest.map_or(row.updated_at, |it| it.seen_at.max(row.updated_at)),
        };
        info.lag = (log.head - info.position().0.max(log.floor)).max(0);
        info
    });
    let instances: Vec<InstanceInfo> = named.collect();
    let expired = expiry::expired(conn, gateway, LISTED_EXPIRED).await?;
    let resyncs = resync::list(conn, gateway, LISTED_RESYNCS).await?;
    Ok(Some(InstanceList { instances, expired, resyncs }))
}

async fn forget(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: GatewayId,
    name: &str,
) -> Result<Audited<()>> {
    let key = live_key(conn, organisation, id).await?;
    conn.lock_streams(&BTreeSet::from([key])).await?;
    // Another node may have deleted it before the stream was locked.
    live_key(conn, organisation, id).await?;
    let gateway = the_one(conn, key).await?;
    if is_connected(conn, key, name).await? {
        return Err(Conflict::InstanceConnected(name.to_owned()).into());
    }
    let gone = remove(conn, now, key, name).await?.ok_or(StoreError::NotFound("instance"))?;
    let entry = entries::instance_forgotten(&gateway, &gone);
    Ok(Audited::new((), [entry]))
}

async fn is_connected(conn: &mut Connection, gateway: GatewayKey, name: &str) -> Result<bool> {
    Ok(query_scalar!(
        r#"
        select exists (
            select 1 from connections where gateway = $1 and closed_at is null and instance = $2
        ) as "is_connected!: bool"
        "#,
        gateway.0,
        name
    )
    .fetch_one(conn)
    .await?)
}

/// Removes an instance of a gateway whose stream is locked. Its last cursor; `None` if there is none.
async fn remove(
    conn: &mut Connection,
    now: Timestamp,
    gateway: GatewayKey,
    name: &str,
) -> Result<Option<ExpiredInstance>> {
    let gone = query_as!(
        CursorRow,
        r#"
        delete from cursors where gateway = $1 and instance = $2 and confirm is not null
        returning instance as "name!: String", confirm as "confirm!: String",
            received as "received!: Sequence", applied_up_to as "applied!: Sequence",
            updated_at as "updated_at!: Timestamp"
        "#,
        gateway.0,
        name
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = gone else { return Ok(None) };
    cursors::follow_instances(conn, gateway).await?;
    resync::remove(conn, now, gateway, Some(name)).await?;
    Ok(Some(ExpiredInstance {
        name: row.name,
        confirm: Level::stored(&row.confirm),
        received: row.received,
        applied: row.applied,
        last_seen_at: row.updated_at,
        expired_at: row.updated_at,
    }))
}

/// Inserts the row of a connection.
pub(crate) async fn insert_connection(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    new: &crate::store::NewConnection,
) -> Result<()> {
    query!(
        r#"
        insert into connections (id, gateway, token, instance, transport, node, remote_address,
            connected_at, last_heartbeat_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $8)
        "#,
        new.id as _,
        new.gateway.0,
        new.token,
        new.instance,
        new.transport,
        node as _,
        new.remote_address,
        now as _
    )
    .execute(conn)
    .await?;
    Ok(())
}
