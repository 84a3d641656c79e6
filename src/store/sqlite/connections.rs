//! Opening connections and finding where each starts.

use sqlx::sqlite::SqliteConnection;

use super::rows::{corrupt, time};
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, NodeId, OrganisationKey, Reason, Sequence};
use crate::store::{ConnectionInfo, NewConnection, Opened, Result};

/// See [`crate::store::Store::open_connection`].
pub(super) async fn open(
    connection: &mut SqliteConnection,
    now: Timestamp,
    node: NodeId,
    new: &NewConnection,
) -> Result<Opened> {
    let stream = sqlx::query!("select epoch, head from streams where gateway = $1", new.gateway.0)
        .fetch_one(&mut *connection)
        .await?;
    let position = if new.instance.is_empty() {
        take_position(connection, now, new).await?
    } else {
        own_position(connection, now, new).await?
    };
    let (id, node, now) = (new.id.to_string(), node.to_string(), now.micros());
    sqlx::query!(
        "insert into connections (id, gateway, token, instance, transport, node, remote_address,
                                  connected_at, last_heartbeat_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
        id,
        new.gateway.0,
        new.token,
        new.instance,
        new.transport,
        node,
        new.remote_address,
        now
    )
    .execute(&mut *connection)
    .await?;
    let failed_attempts = blamed_attempts(connection, new.gateway, position.next()).await?;
    Ok(Opened {
        epoch: stream.epoch.parse().map_err(corrupt)?,
        position,
        head: Sequence(stream.head),
        failed_attempts,
    })
}

/// Unnamed connections: a new one starts at the lowest position of its
/// gateway's unnamed ones, be they live (one may be half-open) or left behind,
/// and takes over the lowest left-behind one; with none, it starts where the
/// gateway has confirmed to. So a cluster that comes back in any order finds
/// every position that it left.
async fn take_position(
    connection: &mut SqliteConnection,
    now: Timestamp,
    new: &NewConnection,
) -> Result<Sequence> {
    let gateway = new.gateway.0;
    let lowest = sqlx::query_scalar!(
        r#"select min(received) as "lowest: i64" from cursors
           where gateway = $1
             and (left_at is not null
                  or instance in (select id from connections where gateway = $1 and closed_at is null))"#,
        gateway
    )
    .fetch_one(&mut *connection)
    .await?;
    let position = match lowest {
        Some(lowest) => lowest,
        None => sqlx::query_scalar!(
            "select received from cursors where gateway = $1 and instance = ''",
            gateway
        )
        .fetch_optional(&mut *connection)
        .await?
        .unwrap_or(0),
    };
    sqlx::query!(
        "delete from cursors where gateway = $1 and instance =
             (select instance from cursors where gateway = $1 and left_at is not null
              order by received, left_at limit 1)",
        gateway
    )
    .execute(&mut *connection)
    .await?;
    let (instance, now) = (new.id.to_string(), now.micros());
    sqlx::query!(
        "insert into cursors (gateway, instance, received, updated_at) values ($1, $2, $3, $4)",
        gateway,
        instance,
        position,
        now
    )
    .execute(connection)
    .await?;
    Ok(Sequence(position))
}

/// Named instances have a cursor of their own that outlives their connections.
async fn own_position(
    connection: &mut SqliteConnection,
    now: Timestamp,
    new: &NewConnection,
) -> Result<Sequence> {
    let now = now.micros();
    let received = sqlx::query_scalar!(
        "insert into cursors (gateway, instance, received, updated_at)
         select $1, $2, coalesce((select received from cursors where gateway = $1 and instance = ''), 0), $3
         where true
         on conflict (gateway, instance) do update set updated_at = excluded.updated_at
         returning received",
        new.gateway.0,
        new.instance,
        now
    )
    .fetch_one(connection)
    .await?;
    Ok(Sequence(received))
}

/// How often `next` was the first unconfirmed event of a connection that ended
/// in a way that blames the event.
async fn blamed_attempts(
    connection: &mut SqliteConnection,
    gateway: GatewayKey,
    next: Sequence,
) -> Result<u32> {
    let reasons = sqlx::query_scalar!(
        r#"select reason as "reason!" from attempts
           where gateway = $1 and first_sequence = $2 and outcome = 'failed' and connection is not null"#,
        gateway.0,
        next.0
    )
    .fetch_all(connection)
    .await?;
    let blamed = reasons
        .iter()
        .filter_map(|reason| reason.parse::<Reason>().ok())
        .filter(|reason| reason.blames_the_event())
        .count();
    Ok(u32::try_from(blamed).unwrap_or(u32::MAX))
}

/// See [`crate::store::Store::connections`].
pub(super) async fn connections(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    gateway: Option<GatewayId>,
    live_only: bool,
    limit: usize,
) -> Result<Vec<ConnectionInfo>> {
    let gateway = gateway.map(|gateway| gateway.to_string());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = sqlx::query!(
        r#"select c.id, g.id as gateway_id, g.name, c.transport, c.node, c.remote_address,
                  c.connected_at, c.last_heartbeat_at, c.closed_at, c.close_reason,
                  coalesce(own.received, named.received, 0) as "confirmed!: i64"
           from connections c
           join gateways g on g.gateway = c.gateway
           left join cursors own on own.gateway = c.gateway and own.instance = c.id
           left join cursors named on named.gateway = c.gateway and named.instance = c.instance
           where g.organisation = $1 and ($2 is null or g.id = $2) and (not $3 or c.closed_at is null)
           order by c.connected_at desc, c.id desc limit $4"#,
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
                connection_id: row.id.parse().map_err(corrupt)?,
                gateway_id: row.gateway_id.parse().map_err(corrupt)?,
                gateway_name: row.name,
                transport: row.transport,
                node: row.node,
                remote_address: row.remote_address,
                connected_at: time(row.connected_at),
                last_heartbeat: time(row.last_heartbeat_at),
                status: if row.closed_at.is_none() { "connected" } else { "closed" },
                confirmed: Sequence(row.confirmed),
                closed_at: row.closed_at.map(time),
                close_reason: row.close_reason.map(|r| r.parse()).transpose().map_err(corrupt)?,
            })
        })
        .collect()
}
