//! Raising positions, which only move forward.

use super::batches::json;
use super::{Connection, query};
use crate::store::Result;
use crate::store::sqlite::sql::positions::Raised;

fn as_json(raised: &[Raised<'_>]) -> Result<String> {
    let rows = raised.iter().map(|it| (it.gateway.0, it.to, &it.instance, it.at.micros()));
    json(&rows.collect::<Vec<_>>())
}

/// The totals of what becomes delivered when the gateways' positions move.
pub(in super::super) async fn count_confirmed(
    connection: &mut Connection,
    gateways: &[Raised<'_>],
    longest_range: i64,
) -> Result<()> {
    let raised = as_json(gateways)?;
    query!(
        r#"
        update streams
        set confirmed_total = confirmed_total + moved.received - moved.before - coalesce((
            select sum(min(d.last_sequence, moved.received) - max(d.first_sequence, moved.before + 1) + 1)
            from dead_letters d
            where d.gateway = moved.gateway and d.last_sequence > moved.before
                and d.first_sequence between moved.before - $2 and moved.received
        ), 0)
        from (
            select s.gateway, coalesce(own.received, 0) as before, min(s.head, m.value ->> 1) as received
            from jsonb_each($1) as m
            join streams s on s.gateway = m.value ->> 0
            left join cursors own on own.gateway = s.gateway and own.instance = ''
        ) as moved
        where streams.gateway = moved.gateway and moved.received > moved.before
        "#,
        raised,
        longest_range
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Answers how many there were.
pub(in super::super) async fn raise_positions(
    connection: &mut Connection,
    raised: &[Raised<'_>],
) -> Result<u64> {
    let raised = as_json(raised)?;
    let moved = query!(
        r#"
        update cursors
        set received = max(cursors.received, min(s.head, m.value ->> 1)),
            updated_at = max(cursors.updated_at, m.value ->> 3)
        from jsonb_each($1) as m join streams s on s.gateway = m.value ->> 0
        where cursors.gateway = m.value ->> 0 and cursors.instance = m.value ->> 2
        "#,
        raised
    )
    .execute(connection)
    .await?;
    Ok(moved.rows_affected())
}

/// Those that are there already stay as they are.
pub(in super::super) async fn first_positions(
    connection: &mut Connection,
    raised: &[Raised<'_>],
) -> Result<()> {
    let raised = as_json(raised)?;
    query!(
        r#"
        insert into cursors (gateway, instance, received, updated_at)
        select s.gateway, m.value ->> 2, min(s.head, m.value ->> 1), m.value ->> 3
        from jsonb_each($1) as m join streams s on s.gateway = m.value ->> 0
        where true
        on conflict do nothing
        "#,
        raised
    )
    .execute(connection)
    .await?;
    Ok(())
}
