//! Connections and nodes: where a connection starts, which ones there are, and
//! what becomes of those whose node died.

use sqlx::SqliteConnection;

use super::closing::{self, End};
use super::gateways::parsed;
use super::json;
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, GatewayId, GatewayKey, NodeId, OrganisationKey, Reason, Sequence,
};
use crate::store::{ConnectionInfo, NewConnection, Opened, Reaped, Result, StoreError};

/// Opens a connection. `NotFound` before anything is written if the gateway
/// was deleted or disabled meanwhile.
pub(super) async fn open_connection(
    connection: &mut SqliteConnection,
    now: Timestamp,
    node: NodeId,
    new: &NewConnection,
) -> Result<Opened> {
    let stream = sqlx::query!(
        r#"
        select s.epoch as "epoch!: String", s.head as "head!: i64"
        from streams s join gateways g using (gateway)
        where s.gateway = $1 and g.deleted_at is null and g.disabled_at is null
        "#,
        new.gateway.0
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(StoreError::NotFound("gateway"))?;
    let (id, node, micros) = (new.id.to_string(), node.to_string(), now.micros());
    let unnamed = new.instance.is_empty();
    let position = if unnamed {
        take_over(connection, new.gateway).await?
    } else {
        start_of(connection, new.gateway, &new.instance).await?
    };
    sqlx::query!(
        r#"
        insert into connections (id, gateway, token, instance, transport, node, remote_address,
            connected_at, last_heartbeat_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $8)
        "#,
        id,
        new.gateway.0,
        new.token,
        new.instance,
        new.transport,
        node,
        new.remote_address,
        micros
    )
    .execute(&mut *connection)
    .await?;
    let instance = if unnamed { &id } else { &new.instance };
    sqlx::query!(
        r#"
        insert into cursors (gateway, instance, received, updated_at) values ($1, $2, $3, $4)
        on conflict (gateway, instance) do nothing
        "#,
        new.gateway.0,
        instance,
        position.0,
        micros
    )
    .execute(&mut *connection)
    .await?;
    Ok(Opened {
        epoch: parsed("epoch", &stream.epoch)?,
        position,
        head: Sequence(stream.head),
        sent: sent_behind(connection, new.gateway, position).await?,
        failed_attempts: failed_attempts(connection, new.gateway, position.next()).await?,
    })
}

/// The lowest position among the gateway's unnamed connections, live ones
/// (each may be half-open) and left-behind ones, of which the lowest is taken
/// over; with none, the gateway's own.
async fn take_over(connection: &mut SqliteConnection, gateway: GatewayKey) -> Result<Sequence> {
    let lowest = sqlx::query_scalar!(
        r#"
        select coalesce(
            (
                select min(u.received) from cursors u
                where u.gateway = $1 and u.instance <> '' and (
                    u.left_at is not null
                    or exists (
                        select 1 from connections c
                        where c.id = u.instance and c.instance = '' and c.closed_at is null
                    )
                )
            ),
            (select received from cursors where gateway = $1 and instance = ''),
            0
        ) as "lowest!: i64"
        "#,
        gateway.0
    )
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query!(
        r#"
        delete from cursors where gateway = $1 and instance = (
            select instance from cursors
            where gateway = $1 and left_at is not null
            order by received, left_at limit 1
        )
        "#,
        gateway.0
    )
    .execute(connection)
    .await?;
    Ok(Sequence(lowest))
}

/// A replica's own position; a new one starts at the gateway's.
async fn start_of(
    connection: &mut SqliteConnection,
    gateway: GatewayKey,
    instance: &str,
) -> Result<Sequence> {
    let start = sqlx::query_scalar!(
        r#"
        select coalesce(
            (select received from cursors where gateway = $1 and instance = $2),
            (select received from cursors where gateway = $1 and instance = ''),
            0
        ) as "start!: i64"
        "#,
        gateway.0,
        instance
    )
    .fetch_one(connection)
    .await?;
    Ok(Sequence(start))
}

/// What was sent before without being confirmed. No window is longer than the
/// stretch that is looked at, however much nobody was there to receive.
async fn sent_behind(
    connection: &mut SqliteConnection,
    gateway: GatewayKey,
    position: Sequence,
) -> Result<Sequence> {
    const STRETCH: i64 = 1000;
    let (first, last) = (position.0 + 1, position.0 + STRETCH);
    let sent = sqlx::query_scalar!(
        r#"
        select coalesce(max(last_sequence), $2 - 1) as "sent!: i64" from attempts
        where gateway = $1 and first_sequence between $2 and $3 and connection is not null
        "#,
        gateway.0,
        first,
        last
    )
    .fetch_one(connection)
    .await?;
    Ok(Sequence(sent))
}

async fn failed_attempts(
    connection: &mut SqliteConnection,
    gateway: GatewayKey,
    sequence: Sequence,
) -> Result<u32> {
    let blaming: Vec<_> = Reason::ALL.iter().filter(|reason| reason.blames_the_event()).collect();
    let blaming = json(&blaming)?;
    let count = sqlx::query_scalar!(
        r#"
        select count(*) as "count!: i64" from attempts
        where gateway = $1 and first_sequence = $2 and outcome = 'failed'
            and reason in (select value from json_each($3))
        "#,
        gateway.0,
        sequence.0,
        blaming
    )
    .fetch_one(connection)
    .await?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Lists connections, newest first.
pub(super) async fn connections(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    gateway: Option<GatewayId>,
    live_only: bool,
    limit: usize,
) -> Result<Vec<ConnectionInfo>> {
    let gateway = gateway.map(|id| id.to_string());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = sqlx::query!(
        r#"
        select c.id as "id!: String", g.id as "gateway_id!: String", g.name as "name!: String",
            c.transport as "transport!: String", c.node as "node!: String",
            c.remote_address as "remote_address!: String", c.connected_at as "connected_at!: i64",
            c.last_heartbeat_at as "last_heartbeat_at!: i64",
            c.closed_at as "closed_at?: i64", c.close_reason as "close_reason?: String",
            coalesce(
                (
                    select received from cursors u where u.gateway = c.gateway
                        and u.instance = coalesce(nullif(c.instance, ''), c.id)
                ),
                (select received from cursors u where u.gateway = c.gateway and u.instance = ''),
                0
            ) as "confirmed!: i64"
        from gateways g join connections c using (gateway)
        where g.organisation = $1 and ($2 is null or g.id = $2)
            and (not $3 or c.closed_at is null)
        order by c.connected_at desc, c.id desc limit $4
        "#,
        organisation.0,
        gateway,
        live_only,
        limit
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(ConnectionInfo {
                connection_id: parsed("connection id", &row.id)?,
                gateway_id: parsed("gateway id", &row.gateway_id)?,
                gateway_name: row.name,
                transport: row.transport,
                node: row.node,
                remote_address: row.remote_address,
                connected_at: Timestamp::from_micros(row.connected_at),
                last_heartbeat: Timestamp::from_micros(row.last_heartbeat_at),
                status: if row.closed_at.is_some() { "closed" } else { "connected" },
                confirmed: Sequence(row.confirmed),
                closed_at: row.closed_at.map(Timestamp::from_micros),
                close_reason: row
                    .close_reason
                    .map(|reason| parsed("close reason", &reason))
                    .transpose()?,
            })
        })
        .collect()
}

/// Registers this node, or says that it still lives.
pub(super) async fn node_heartbeat(
    connection: &mut SqliteConnection,
    now: Timestamp,
    node: NodeId,
) -> Result<()> {
    let (node, now) = (node.to_string(), now.micros());
    sqlx::query!(
        r#"
        insert into nodes (id, started_at, heartbeat_at) values ($1, $2, $2)
        on conflict (id) do update set heartbeat_at = max(heartbeat_at, excluded.heartbeat_at)
        "#,
        node,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Says that this node stops in good order.
pub(super) async fn node_stopped(
    connection: &mut SqliteConnection,
    now: Timestamp,
    node: NodeId,
) -> Result<()> {
    let (node, now) = (node.to_string(), now.micros());
    sqlx::query!("update nodes set stopped_at = $2 where id = $1", node, now)
        .execute(connection)
        .await?;
    Ok(())
}

/// Closes what other nodes left open: one server has the file, so none of
/// them lives. Returns them, and whose they are.
pub(super) async fn reap_dead_nodes(
    connection: &mut SqliteConnection,
    now: Timestamp,
    node: NodeId,
) -> Result<(Vec<Reaped>, Vec<GatewayKey>)> {
    let ours = node.to_string();
    let left = sqlx::query!(
        r#"
        select c.id as "id!: String", c.gateway as "gateway!: i64", g.id as "gateway_id!: String"
        from connections c join gateways g using (gateway)
        where c.closed_at is null and c.node <> $1
        "#,
        ours
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut gateways = Vec::with_capacity(left.len());
    let mut reaped = Vec::with_capacity(left.len());
    for row in &left {
        let id: ConnectionId = parsed("connection id", &row.id)?;
        let gateway = GatewayKey(row.gateway);
        let end = End {
            gateway,
            connection: id,
            reason: Reason::NodeLost,
            detail: "",
            unconfirmed: None,
            give_up: false,
            at: now,
        };
        closing::close(connection, node, &end).await?;
        gateways.push(gateway);
        reaped
            .push(Reaped { gateway_id: parsed("gateway id", &row.gateway_id)?, connection_id: id });
    }
    Ok((reaped, gateways))
}
