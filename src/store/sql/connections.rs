//! Connections: where one starts, and which ones there are.

use super::dialect::{Connection, query, query_scalar};

use crate::clock::Timestamp;
use crate::event::{Epoch, GatewayKey, NodeId, Reason, Sequence};
use crate::store::{NewConnection, Opened, Result, StoreError};

pub(crate) mod list;
mod peak;
mod shut_out;

pub(super) use list::list;
pub(super) use peak::peak;
pub(super) use shut_out::shut_out;

/// Opens a connection. `NotFound` before anything is written if the gateway
/// was deleted or disabled meanwhile.
pub(super) async fn open_connection(
    connection: &mut Connection,
    now: Timestamp,
    node: NodeId,
    new: &NewConnection,
) -> Result<Opened> {
    let stream = query!(
        r#"
        select s.epoch as "epoch!: Epoch", s.head as "head!: Sequence"
        from streams s join gateways g using (gateway)
        where s.gateway = $1 and g.deleted_at is null and g.disabled_at is null
        "#,
        new.gateway.0
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(StoreError::NotFound("gateway"))?;
    let unnamed = new.instance.is_empty();
    let position = if unnamed {
        take_over(connection, new.gateway).await?
    } else {
        start_of(connection, new.gateway, &new.instance).await?
    };
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
    .execute(&mut *connection)
    .await?;
    let instance = if unnamed { new.id.to_string() } else { new.instance.clone() };
    query!(
        r#"
        insert into cursors (gateway, instance, received, updated_at) values ($1, $2, $3, $4)
        on conflict (gateway, instance) do nothing
        "#,
        new.gateway.0,
        instance,
        position.0,
        now as _
    )
    .execute(&mut *connection)
    .await?;
    Ok(Opened {
        epoch: stream.epoch,
        position,
        head: stream.head,
        sent: sent_behind(connection, new.gateway, position).await?,
        failed_attempts: failed_attempts(connection, new.gateway, position.next()).await?,
    })
}

/// The lowest position among the gateway's unnamed connections, live ones
/// (each may be half-open) and left-behind ones, of which the lowest is taken
/// over; with none, the gateway's own.
async fn take_over(connection: &mut Connection, gateway: GatewayKey) -> Result<Sequence> {
    let lowest = query_scalar!(
        r#"
        select coalesce(
            (
                select min(received) from (
                    select received from cursors
                    where gateway = $1 and instance <> '' and left_at is not null
                    union all
                    select u.received from connections c
                    join cursors u on u.gateway = c.gateway and u.instance = cast(c.id as text)
                    where c.gateway = $1 and c.closed_at is null and c.instance = ''
                ) as unnamed
            ),
            (select received from cursors where gateway = $1 and instance = ''),
            0
        ) as "lowest!: i64"
        "#,
        gateway.0
    )
    .fetch_one(&mut *connection)
    .await?;
    query!(
        r#"
        delete from cursors where gateway = $1 and instance = (
            select instance from cursors
            where gateway = $1 and left_at is not null
            order by received, left_at, instance limit 1
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
    connection: &mut Connection,
    gateway: GatewayKey,
    instance: &str,
) -> Result<Sequence> {
    let start = query_scalar!(
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
    connection: &mut Connection,
    gateway: GatewayKey,
    position: Sequence,
) -> Result<Sequence> {
    const STRETCH: i64 = 1000;
    let (first, last) = (position.0 + 1, position.0 + STRETCH);
    let sent = query_scalar!(
        r#"
        select max(last_sequence) as "sent?: i64" from attempts
        where gateway = $1 and first_sequence between $2 and $3 and connection is not null
        "#,
        gateway.0,
        first,
        last
    )
    .fetch_one(connection)
    .await?;
    Ok(sent.map_or(position, Sequence))
}

async fn failed_attempts(
    connection: &mut Connection,
    gateway: GatewayKey,
    sequence: Sequence,
) -> Result<u32> {
    let reasons = query!(
        r#"
        select reason as "reason!: Reason", count(*) as "count!: i64" from attempts
        where gateway = $1 and first_sequence = $2 and outcome = 'failed'
        group by reason
        "#,
        gateway.0,
        sequence.0
    )
    .fetch_all(connection)
    .await?;
    let blaming = reasons.iter().filter(|row| row.reason.blames_the_event());
    Ok(u32::try_from(blaming.map(|row| row.count).sum::<i64>()).unwrap_or(u32::MAX))
}
