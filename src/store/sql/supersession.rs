//! Supersession. [`Supersession`] decides.

use std::collections::BTreeSet;

use super::dialect::{Connection, LogStatements, NodeStatements, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::{EventType, GatewayKey, NodeId, Sequence};
use crate::store::supersession::{Collapsible, PAGE, Supersession};
use crate::store::{Range, Result};

/// Examines the next page of a backlog.
pub(super) async fn supersede(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    mut backlog: Supersession,
) -> Result<Supersession> {
    conn.lock_streams(&BTreeSet::from([backlog.gateway])).await?;
    let page = collapsible(conn, now, &backlog).await?;
    let superseded = backlog.examine(page);
    if !superseded.is_empty() {
        conn.withhold_superseded(backlog.gateway, &superseded).await?;
        conn.insert_superseded(now, node, backlog.gateway, &superseded).await?;
    }
    Ok(backlog)
}

/// The next deliveries with a collapse key that no connection can have been sent, newest first. None if
/// the connection is not the gateway's only one.
///
/// A node of an earlier version, which exits after the migration, closes its connections without raising
/// `attended`. `left_at` covers what it has sent until then.
async fn collapsible(
    conn: &mut Connection,
    now: Timestamp,
    backlog: &Supersession,
) -> Result<Vec<Collapsible>> {
    let limit = i64::try_from(PAGE).unwrap_or(i64::MAX);
    Ok(query_as!(
        Collapsible,
        r#"
        select o.sequence as "sequence!: Sequence", e.type as "event_type!: EventType",
            o.collapse_key as "key!: String", (
                o.withheld is null and e.purged_at is null
                and (e.expires_at is null or e.expires_at > $4)
            ) as "is_open!: bool", e.expires_at as "expires_at?: Timestamp"
        from streams s
        join outbox o on o.gateway = s.gateway and o.collapse_key is not null
            and o.sequence > s.attended and o.sequence < $3
        join events e on e.event = o.event
        where s.gateway = $1 and (s.left_at is null or e.appended_at > s.left_at)
            and o.sequence > coalesce((select max(u.received) from cursors u where u.gateway = $1), 0)
            and exists (select 1 from connections c where c.id = $2 and c.closed_at is null)
            and not exists (
                select 1 from connections c
                where c.gateway = $1 and c.closed_at is null and c.id <> $2
            )
        order by o.sequence desc limit $5
        "#,
        backlog.gateway.0,
        backlog.connection as _,
        backlog.before.0,
        now as _,
        limit
    )
    .fetch_all(conn)
    .await?)
}

/// The parts of these ranges of a log that are not superseded.
pub(super) async fn not_superseded(
    conn: &mut Connection,
    gateway: GatewayKey,
    ranges: Vec<Range>,
) -> Result<Vec<Range>> {
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(ranges) };
    let superseded = query_scalar!(
        r#"
        select sequence as "sequence!: Sequence" from outbox
        where gateway = $1 and sequence between $2 and $3 and collapse_key is not null
            and withheld = 'superseded'
        order by sequence
        "#,
        gateway.0,
        first.first.0,
        last.last.0
    )
    .fetch_all(conn)
    .await?;
    let mut superseded = superseded.into_iter().peekable();
    let mut parts = Vec::new();
    for Range { mut first, last } in ranges {
        while let Some(at) = superseded.next_if(|at| *at <= last) {
            if first < at {
                parts.push(Range { first, last: at.previous() });
            }
            first = first.max(at.next());
        }
        if first <= last {
            parts.push(Range { first, last });
        }
    }
    Ok(parts)
}
