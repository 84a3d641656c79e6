//! The positions of a gateway's unnamed connections. [`positions`] defines the terms and decides
//! which ones are kept.

use super::super::dialect::{Connection, CursorStatements as _, query, query_as};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, Reason, Sequence};
use crate::store::Result;
use crate::store::positions::{
    self, Life, Opening, Position, RECENT_CONNECTIONS, REPLICAS_WINDOW, Repeats, alive_at_once,
};

/// Where a connection starts.
pub(crate) struct Start {
    pub(crate) position: Sequence,
    /// Whether an earlier connection may have been sent more than is recorded.
    pub(crate) is_unsure: bool,
    pub(crate) repeats: Repeats,
}

/// The start of a new unnamed connection. Supersedes positions in excess of the number of replicas.
pub(crate) async fn open(
    conn: &mut Connection,
    now: Timestamp,
    gateway: GatewayKey,
    declared: i64,
) -> Result<Start> {
    let positions = kept(conn, gateway).await?;
    let since = now.minus(REPLICAS_WINDOW);
    let (mut lives, was_lost) = ended(conn, gateway, since).await?;
    let is_unsure = was_lost || positions.iter().any(|it| !it.is_closed());
    lives.extend(positions.iter().filter(|it| !it.is_closed()).map(|it| it.life));
    let (declared, alive) = (usize::try_from(declared).unwrap_or(1), alive_at_once(&lives, since));
    let replicas = alive.max(declared);
    let Opening { start, dropped, changed } = positions::open(positions, replicas, now);
    if !dropped.is_empty() {
        conn.delete_cursors(gateway, &dropped).await?;
    }
    if !changed.is_empty() {
        conn.change_cursors(gateway, &changed).await?;
    }
    let confirmed = super::super::cursors::confirmed(conn, gateway).await?;
    let position = start.unwrap_or(confirmed);
    let repeats = Repeats::new(position, confirmed, declared, alive);
    Ok(Start { position, is_unsure, repeats })
}

struct Row {
    instance: String,
    received: Sequence,
    connected_at: Timestamp,
    seen_at: Timestamp,
    left_at: Option<Timestamp>,
    superseded_at: Option<Timestamp>,
}

/// The positions of ended connections, and of those that are recorded as open.
async fn kept(conn: &mut Connection, gateway: GatewayKey) -> Result<Vec<Position>> {
    let rows = query_as!(
        Row,
        r#"
        select u.instance as "instance!: String", u.received as "received!: Sequence",
            coalesce(u.connected_at, u.updated_at) as "connected_at!: Timestamp",
            u.updated_at as "seen_at!: Timestamp", u.left_at as "left_at?: Timestamp",
            u.superseded_at as "superseded_at?: Timestamp"
        from cursors u
        where u.gateway = $1 and u.instance <> '' and u.left_at is not null
        union all
        select u.instance, u.received, c.connected_at,
            case when c.last_heartbeat_at > u.updated_at then c.last_heartbeat_at else u.updated_at end,
            null, u.superseded_at
        from connections c
        join cursors u on u.gateway = c.gateway and u.instance = cast(c.id as text)
        where c.gateway = $1 and c.closed_at is null and c.instance = ''
        "#,
        gateway.0
    )
    .fetch_all(conn)
    .await?;
    let position = |row: Row| Position {
        instance: row.instance,
        received: row.received,
        life: Life { connected_at: row.connected_at, seen_at: row.seen_at },
        left_at: row.left_at,
        superseded_at: row.superseded_at,
    };
    Ok(rows.into_iter().map(position).collect())
}

/// When the newest unnamed connections that ended after `since` began and ended, and whether one of
/// them was lost with its node.
async fn ended(
    conn: &mut Connection,
    gateway: GatewayKey,
    since: Timestamp,
) -> Result<(Vec<Life>, bool)> {
    let rows = query!(
        r#"
        select connected_at as "connected_at!: Timestamp", last_heartbeat_at as "seen_at!: Timestamp",
            close_reason as "close_reason?: Reason"
        from (
            select connected_at, last_heartbeat_at, closed_at, close_reason, instance from connections
            where gateway = $1 order by connected_at desc, id desc limit $3
        ) as newest
        where closed_at is not null and instance = '' and last_heartbeat_at >= $2
        "#,
        gateway.0,
        since as _,
        RECENT_CONNECTIONS
    )
    .fetch_all(conn)
    .await?;
    let was_lost = rows.iter().any(|row| row.close_reason == Some(Reason::NodeLost));
    let lives = rows.into_iter().filter_map(|row| Life::ended(row.connected_at, row.seen_at));
    Ok((lives.collect(), was_lost))
}
