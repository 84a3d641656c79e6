//! Raising positions. Their streams are locked, so that no other node moves
//! them meanwhile; they only move forward all the same.

use super::batches::column;
use super::{Connection, query};
use crate::store::Result;
use crate::store::postgres::sql::positions::Move;

/// The connections' own positions.
pub(in super::super) async fn raise_connections(
    connection: &mut Connection,
    moves: &[Move],
) -> Result<()> {
    query!(
        r#"
        update cursors
        set received = greatest(cursors.received, moved.received),
            updated_at = greatest(cursors.updated_at, moved.at)
        from (
            select s.gateway, coalesce(nullif(c.instance, ''), c.id::text) as instance,
                least(s.head, max(m.last)) as received, max(m.at) as at
            from unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) as m (connection, last, at)
            join connections c on c.id = m.connection
            join streams s on s.gateway = c.gateway
            group by s.gateway, 2
        ) as moved
        where cursors.gateway = moved.gateway and cursors.instance = moved.instance
        "#,
        &column(moves, |it| it.connection.0),
        &column(moves, |it| it.to.0),
        &column(moves, |it| it.at) as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The totals of what becomes delivered when the gateways' positions move.
pub(in super::super) async fn count_confirmed(
    connection: &mut Connection,
    moves: &[Move],
    longest_range: i64,
) -> Result<()> {
    query!(
        r#"
        update streams
        set confirmed_total = confirmed_total + moved.received - moved.before - coalesce((
            select sum(least(d.last_sequence, moved.received)
                - greatest(d.first_sequence, moved.before + 1) + 1)::bigint
            from dead_letters d
            where d.gateway = moved.gateway and d.last_sequence > moved.before
                and d.first_sequence between moved.before - $3 and moved.received
        ), 0)
        from (
            select s.gateway, coalesce(own.received, 0) as before,
                least(s.head, max(m.last)) as received
            from unnest($1::uuid[], $2::bigint[]) as m (connection, last)
            join connections c on c.id = m.connection and c.instance = ''
            join streams s on s.gateway = c.gateway
            left join cursors own on own.gateway = c.gateway and own.instance = ''
            group by s.gateway, own.received
        ) as moved
        where streams.gateway = moved.gateway and moved.received > moved.before
        "#,
        &column(moves, |it| it.connection.0),
        &column(moves, |it| it.to.0),
        longest_range
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The gateways' own positions: the farthest of their unnamed connections.
pub(in super::super) async fn raise_gateways(
    connection: &mut Connection,
    moves: &[Move],
) -> Result<()> {
    query!(
        r#"
        insert into cursors (gateway, instance, received, updated_at)
        select s.gateway, '', least(s.head, max(m.last)), max(m.at)
        from unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) as m (connection, last, at)
        join connections c on c.id = m.connection and c.instance = ''
        join streams s on s.gateway = c.gateway
        group by s.gateway
        on conflict (gateway, instance) do update
        set received = greatest(cursors.received, excluded.received),
            updated_at = greatest(cursors.updated_at, excluded.updated_at)
        "#,
        &column(moves, |it| it.connection.0),
        &column(moves, |it| it.to.0),
        &column(moves, |it| it.at) as _
    )
    .execute(connection)
    .await?;
    Ok(())
}
