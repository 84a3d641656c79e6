//! The table `cursors`, which holds positions: what a gateway and each of its connections have
//! confirmed. They only move forward.
//! The gateway's own is the farthest of its unnamed connections, and is stored under the empty
//! instance name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::dialect::cursors::Raised;
use super::dialect::{Connection, CursorStatements, query, query_scalar};

use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayKey, Sequence};
use crate::store::Result;
use crate::store::limits::LONGEST_RANGE;

pub(crate) use crate::store::ranges::{above, up_to};

/// Confirms everything up to `to` on `connection`.
pub(crate) struct Move {
    pub(crate) gateway: GatewayKey,
    pub(crate) connection: ConnectionId,
    pub(crate) instance: Arc<str>,
    pub(crate) to: Sequence,
    pub(crate) at: Timestamp,
    /// The activity that moved it. `None` if the gateway showed none: then the position moves, but
    /// the time of the last receipt does not.
    pub(crate) seen_at: Option<Timestamp>,
}

/// A time before any other, so that it never replaces one. Queries read it as null.
const NEVER: Timestamp = Timestamp::from_micros(0);

/// Raises the positions of connections and of their gateways, up to the heads of their logs. Does
/// not recreate a position that another connection took over.
pub(crate) async fn raise(conn: &mut Connection, moves: &[Move]) -> Result<()> {
    let mut farthest: BTreeMap<(GatewayKey, Cow<'_, str>), (Sequence, Timestamp)> = BTreeMap::new();
    for it in moves {
        let (gateways, own) = if it.instance.is_empty() {
            (Some(Cow::from("")), Cow::from(it.connection.to_string()))
        } else {
            (None, Cow::from(&*it.instance))
        };
        let (receipt_at, seen_at) = it.seen_at.map_or((NEVER, NEVER), |seen_at| (it.at, seen_at));
        let own = Some((own, seen_at));
        for (name, moved_at) in gateways.map(|name| (name, receipt_at)).into_iter().chain(own) {
            let (to, at) = farthest.entry((it.gateway, name)).or_insert((it.to, moved_at));
            (*to, *at) = ((*to).max(it.to), (*at).max(moved_at));
        }
    }
    let raised = |((gateway, instance), (to, at))| Raised { gateway, instance, to, at };
    write(conn, &farthest.into_iter().map(raised).collect::<Vec<_>>()).await
}

/// Raises a gateway's position, but no connection's.
pub(crate) async fn raise_gateway(
    conn: &mut Connection,
    gateway: GatewayKey,
    to: Sequence,
    at: Timestamp,
) -> Result<()> {
    write(conn, &[Raised { gateway, instance: "".into(), to, at }]).await
}

async fn write(conn: &mut Connection, all: &[Raised<'_>]) -> Result<()> {
    let gateways: Vec<Raised<'_>> =
        all.iter().filter(|it| it.instance.is_empty()).cloned().collect();
    // Before the gateways' positions move: what lies between becomes delivered.
    if !gateways.is_empty() {
        conn.count_confirmed(&gateways, LONGEST_RANGE).await?;
    }
    let found = conn.raise_cursors(all).await?;
    if gateways.is_empty() || usize::try_from(found).is_ok_and(|found| found == all.len()) {
        return Ok(());
    }
    // A connection's position was taken over, or a gateway has none yet.
    conn.insert_cursors(&gateways).await
}

/// The gateway's position.
pub(crate) async fn confirmed(conn: &mut Connection, gateway: GatewayKey) -> Result<Sequence> {
    let received = query_scalar!(
        r#"select received as "received!: Sequence" from cursors where gateway = $1 and instance = ''"#,
        gateway.0
    )
    .fetch_optional(conn)
    .await?;
    Ok(received.unwrap_or(Sequence::ZERO))
}

/// A connection's position, and the instance name that it was opened with; `None` if another
/// connection took the position over.
pub(crate) async fn own(
    conn: &mut Connection,
    of: ConnectionId,
) -> Result<Option<(Sequence, Arc<str>)>> {
    let own = query!(
        r#"
        select u.received as "received!: Sequence", c.instance as "instance!: String" from connections c
        join cursors u on u.gateway = c.gateway
            and u.instance = coalesce(nullif(c.instance, ''), cast(c.id as text))
        where c.id = $1
        "#,
        of as _
    )
    .fetch_optional(conn)
    .await?;
    Ok(own.map(|own| (own.received, own.instance.into())))
}

/// Records that a single delivery was applied. Moves no other position.
pub(crate) async fn applied(
    conn: &mut Connection,
    gateway: GatewayKey,
    on: ConnectionId,
    sequence: Sequence,
) -> Result<()> {
    query!(
        r#"
        update cursors set applied = $3
        where gateway = $1 and applied < $3 and (
            instance in (
                select coalesce(nullif(c.instance, ''), cast(c.id as text)) from connections c where c.id = $2
            )
            or instance = '' and exists (select 1 from connections c where c.id = $2 and c.instance = '')
        )
        "#,
        gateway.0,
        on as _,
        sequence.0
    )
    .execute(conn)
    .await?;
    Ok(())
}
