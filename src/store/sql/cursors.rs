//! The table `cursors`, which holds positions: what a gateway, its instances and its unnamed
//! connections have confirmed. They only move forward.
//!
//! The gateway's own is stored under the empty instance name. It is the farthest of all or, if all
//! instances must confirm, that of the last one: the statements that raise it limit it to that.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::iter;
use std::sync::Arc;

use super::dialect::cursors::{Raised, RaisedInstance};
use super::dialect::{Connection, CursorStatements, query, query_scalar};

use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayKey, Sequence};
use crate::store::limits::MAX_RANGE_LENGTH;
use crate::store::{Level, Result};

pub(crate) use crate::store::ranges::{above, up_to};

/// Moves the positions of a connection to `to`.
pub(crate) struct Move {
    pub(crate) gateway: GatewayKey,
    pub(crate) connection: ConnectionId,
    pub(crate) instance: Arc<str>,
    pub(crate) to: Sequence,
    pub(crate) reach: Reach,
    pub(crate) at: Timestamp,
    /// The activity that moved it. `None` if the gateway showed none: then the position moves, but
    /// the time of the last receipt does not.
    pub(crate) seen_at: Option<Timestamp>,
}

/// How far a move reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Everything up to there is confirmed or settled, whatever the level that confirms.
    Position,
    /// Everything up to there was acknowledged at a level, which may not be the one that confirms.
    Acknowledged { level: Level, confirms: bool },
}

impl Reach {
    /// Whether positions move: the connection's, if it is unnamed, and the gateway's.
    const fn confirms(self) -> bool {
        matches!(self, Self::Position | Self::Acknowledged { confirms: true, .. })
    }

    const fn is_applied(self) -> bool {
        matches!(self, Self::Acknowledged { level: Level::Applied, .. })
    }
}

/// A time before any other, so that it never replaces one. Queries read it as null.
pub(crate) const NEVER: Timestamp = Timestamp::from_micros(0);

/// The name of a row of `cursors`.
type Name<'a> = (GatewayKey, Cow<'a, str>);

/// What a batch of moves raises: the farthest of each row.
#[derive(Default)]
struct Farthest<'a> {
    /// Positions of gateways and unnamed connections.
    positions: BTreeMap<Name<'a>, (Sequence, Timestamp)>,
    /// Cursors of instances.
    instances: BTreeMap<(GatewayKey, &'a str), RaisedInstance<'a>>,
    /// What gateways and unnamed connections have applied.
    applied: BTreeMap<Name<'a>, Sequence>,
}

impl<'a> Farthest<'a> {
    fn add(&mut self, it: &'a Move) {
        let (receipt_at, seen_at) = it.seen_at.map_or((NEVER, NEVER), |seen_at| (it.at, seen_at));
        let mut own = None;
        if it.instance.is_empty() {
            own = Some((Cow::from(it.connection.to_string()), seen_at));
        } else {
            let none = RaisedInstance::none(it.gateway, &it.instance);
            let instance = self.instances.entry((it.gateway, &*it.instance)).or_insert(none);
            instance.add(it, seen_at);
        }
        for (name, moved_at) in iter::once((Cow::from(""), receipt_at)).chain(own) {
            if it.reach.is_applied() {
                let to = self.applied.entry((it.gateway, name.clone())).or_insert(it.to);
                *to = (*to).max(it.to);
            }
            if it.reach.confirms() {
                let (to, at) =
                    self.positions.entry((it.gateway, name)).or_insert((it.to, moved_at));
                (*to, *at) = ((*to).max(it.to), (*at).max(moved_at));
            }
        }
    }
}

impl<'a> RaisedInstance<'a> {
    const fn none(gateway: GatewayKey, instance: &'a str) -> Self {
        let zero = Sequence::ZERO;
        Self { gateway, instance, received: zero, applied: zero, position: zero, at: NEVER }
    }

    fn add(&mut self, it: &Move, seen_at: Timestamp) {
        match it.reach {
            Reach::Position => self.position = self.position.max(it.to),
            Reach::Acknowledged { level, .. } => {
                self.received = self.received.max(it.to);
                if level == Level::Applied {
                    self.applied = self.applied.max(it.to);
                }
            }
        }
        self.at = self.at.max(seen_at);
    }
}

/// Raises the positions of connections, instances and their gateways, up to the heads of their logs.
/// Does not recreate a position that another connection took over.
pub(crate) async fn raise(conn: &mut Connection, moves: &[Move]) -> Result<()> {
    let mut farthest = Farthest::default();
    for it in moves {
        farthest.add(it);
    }
    let Farthest { positions, instances, applied } = farthest;
    let instances: Vec<RaisedInstance<'_>> = instances.into_values().collect();
    // First: if all instances must confirm, a gateway's position follows from those of its instances.
    if !instances.is_empty() {
        conn.raise_instances(&instances).await?;
    }
    let raised = |((gateway, instance), (to, at))| Raised { gateway, instance, to, at };
    write(conn, &positions.into_iter().map(raised).collect::<Vec<_>>()).await?;
    if applied.is_empty() {
        return Ok(());
    }
    let raised = |((gateway, instance), to)| Raised { gateway, instance, to, at: NEVER };
    conn.raise_applied(&applied.into_iter().map(raised).collect::<Vec<_>>()).await
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
    if all.is_empty() {
        return Ok(());
    }
    let gateways: Vec<Raised<'_>> =
        all.iter().filter(|it| it.instance.is_empty()).cloned().collect();
    // Before the gateways' positions move: what lies between becomes delivered.
    if !gateways.is_empty() {
        conn.count_confirmed(&gateways, MAX_RANGE_LENGTH).await?;
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
        select case when u.confirm = 'applied' then u.applied_up_to else u.received end as "received!: Sequence",
            c.instance as "instance!: String" from connections c
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

/// Lets the position of a gateway catch up after an instance is gone, or all instances need no longer
/// confirm.
pub(crate) async fn follow_instances(conn: &mut Connection, gateway: GatewayKey) -> Result<()> {
    let to = query_scalar!(
        r#"
        select case s.confirmation
            when 'any' then max(case when u.confirm = 'applied' then u.applied_up_to else u.received end)
            else min(case
                when u.confirm = 'applied' then u.applied_up_to
                when u.confirm = 'received' then u.received
            end)
        end as "to?: Sequence"
        from streams s join cursors u on u.gateway = s.gateway
        where s.gateway = $1 group by s.confirmation
        "#,
        gateway.0
    )
    .fetch_optional(&mut *conn)
    .await?;
    match to.flatten() {
        Some(to) => raise_gateway(conn, gateway, to, NEVER).await,
        None => Ok(()),
    }
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
