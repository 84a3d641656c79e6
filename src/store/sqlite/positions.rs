//! Positions: how far a gateway, and each of its connections, has confirmed.
//! They only move forward. The gateway's own is the farthest of its unnamed
//! connections and is kept under the empty instance.

use sqlx::SqliteConnection;

use super::json;
use super::ledger::LONGEST_RANGE;
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayKey, Sequence};
use crate::store::{Range, Result};

/// Everything up to `to` is done with on `connection`.
pub(super) struct Move {
    pub(super) gateway: GatewayKey,
    pub(super) connection: ConnectionId,
    pub(super) to: Sequence,
    pub(super) at: Timestamp,
}

/// Raises the connections' own positions and their gateways'.
pub(super) async fn raise(connection: &mut SqliteConnection, moves: &[Move]) -> Result<()> {
    let rows: Vec<_> =
        moves.iter().map(|it| (it.gateway.0, it.connection, it.to, it.at.micros())).collect();
    let rows = json(&rows)?;
    // A position that somebody took over is gone, and stays so. Nothing lies
    // beyond a log's head.
    sqlx::query!(
        r#"
        update cursors
        set received = max(cursors.received, moved.received),
            updated_at = max(cursors.updated_at, moved.at)
        from (
            select s.gateway, coalesce(nullif(c.instance, ''), c.id) as instance,
                min(s.head, max(m.value ->> 2)) as received, max(m.value ->> 3) as at
            from json_each($1) as m
            join connections c on c.id = m.value ->> 1
            join streams s on s.gateway = c.gateway
            group by c.id
        ) as moved
        where cursors.gateway = moved.gateway and cursors.instance = moved.instance
        "#,
        rows
    )
    .execute(&mut *connection)
    .await?;
    // Before the gateway's position moves: what lies between is newly delivered.
    sqlx::query!(
        r#"
        update streams
        set confirmed_total = confirmed_total + moved.received - moved.before - coalesce((
            select sum(min(d.last_sequence, moved.received) - max(d.first_sequence, moved.before + 1) + 1)
            from dead_letters d
            where d.gateway = moved.gateway and d.last_sequence > moved.before
                and d.first_sequence between moved.before - $2 and moved.received
        ), 0)
        from (
            select s.gateway, coalesce(own.received, 0) as before,
                min(s.head, max(m.value ->> 2)) as received
            from json_each($1) as m
            join connections c on c.id = m.value ->> 1 and c.instance = ''
            join streams s on s.gateway = c.gateway
            left join cursors own on own.gateway = c.gateway and own.instance = ''
            group by s.gateway
        ) as moved
        where streams.gateway = moved.gateway and moved.received > moved.before
        "#,
        rows,
        LONGEST_RANGE
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        r#"
        insert into cursors (gateway, instance, received, updated_at)
        select s.gateway, '', min(s.head, max(m.value ->> 2)), max(m.value ->> 3)
        from json_each($1) as m
        join connections c on c.id = m.value ->> 1 and c.instance = ''
        join streams s on s.gateway = c.gateway
        where true
        group by s.gateway
        on conflict (gateway, instance) do update
        set received = max(received, excluded.received),
            updated_at = max(updated_at, excluded.updated_at)
        "#,
        rows
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The gateway's own position.
pub(super) async fn confirmed(
    connection: &mut SqliteConnection,
    gateway: GatewayKey,
) -> Result<Sequence> {
    let received = sqlx::query_scalar!(
        r#"select received as "received!: i64" from cursors where gateway = $1 and instance = ''"#,
        gateway.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(Sequence(received.unwrap_or(0)))
}

/// The position of a connection, if it is still its own.
pub(super) async fn own(
    connection: &mut SqliteConnection,
    of: ConnectionId,
) -> Result<Option<Sequence>> {
    let of = of.to_string();
    let received = sqlx::query_scalar!(
        r#"
        select u.received as "received!: i64" from connections c
        join cursors u on u.gateway = c.gateway
            and u.instance = coalesce(nullif(c.instance, ''), c.id)
        where c.id = $1
        "#,
        of
    )
    .fetch_optional(connection)
    .await?;
    Ok(received.map(Sequence))
}

/// Notes that a single delivery was applied; it moves no other position.
pub(super) async fn applied(
    connection: &mut SqliteConnection,
    gateway: GatewayKey,
    on: ConnectionId,
    sequence: Sequence,
) -> Result<()> {
    let on = on.to_string();
    sqlx::query!(
        r#"
        update cursors set applied = max(applied, $3)
        where gateway = $1 and (
            instance in (select coalesce(nullif(c.instance, ''), c.id) from connections c where c.id = $2)
            or instance = '' and exists (select 1 from connections c where c.id = $2 and c.instance = '')
        )
        "#,
        gateway.0,
        on,
        sequence.0
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The part of a range that lies above a position.
pub(super) fn above(range: Range, position: Sequence) -> Option<Range> {
    let first = range.first.max(position.next());
    (first <= range.last).then_some(Range { first, last: range.last })
}
