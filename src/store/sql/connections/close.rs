//! Closes a connection: its unconfirmed deliveries fail, and its position is kept for the next
//! connection.

use super::super::dialect::{Connection, NodeStatements, query, query_scalar};

use super::super::cursors::{self, Move, Reach};
use super::super::ledger::{self, Ended, How};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayKey, NodeId, Reason, Sequence};
use crate::store::{Outcome, Range, Result, Unconfirmed};

/// The end of a connection.
pub(crate) struct End<'a> {
    pub(crate) gateway: GatewayKey,
    pub(crate) connection: ConnectionId,
    pub(crate) reason: Reason,
    pub(crate) detail: &'a str,
    pub(crate) unconfirmed: &'a [Unconfirmed],
    pub(crate) is_in_progress: bool,
    pub(crate) give_up_after: Option<u32>,
    pub(crate) alive_at: Option<Timestamp>,
    pub(crate) at: Timestamp,
}

/// Closes a connection. One that is closed already stays unchanged. If it was closed because its
/// node was declared dead, the outcome of its deliveries is recorded now: the node that closed it
/// did not know what had been sent.
pub(crate) async fn close(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    end: &End<'_>,
) -> Result<()> {
    let seen_at = query_scalar!(
        r#"
        update connections set closed_at = $2, close_reason = $3, confirmed = (
            select case when u.confirm = 'applied' then u.applied_up_to else u.received end
            from cursors u where u.gateway = connections.gateway
                and u.instance = coalesce(nullif(connections.instance, ''), cast(connections.id as text))
        )
        where id = $1 and closed_at is null
        returning last_heartbeat_at as "seen_at!: Timestamp"
        "#,
        end.connection as _,
        now as _,
        end.reason as _
    )
    .fetch_optional(&mut *conn)
    .await?;
    if seen_at.is_none() && !lacks_outcome(conn, end).await? {
        return Ok(());
    }
    if let [oldest, ..] = end.unconfirmed {
        unconfirmed(conn, node, end).await?;
        let most = end.give_up_after.filter(|_| seen_at.is_some());
        if let Some(most) = most
            && blamed(conn, end.gateway, oldest.range.first).await? >= most
        {
            give_up(conn, end, oldest.range.first).await?;
        }
    }
    match seen_at {
        Some(seen_at) => leave(conn, now, end, seen_at).await,
        None => Ok(()),
    }
}

/// Records unconfirmed deliveries. Those that the gateway has confirmed on another connection, or was
/// still handling, have not failed; only the outcome of this attempt is unknown.
async fn unconfirmed(conn: &mut Connection, node: NodeId, end: &End<'_>) -> Result<()> {
    let Some(newest) = end.unconfirmed.last() else { return Ok(()) };
    let unknown = How::Unknown(end.reason.as_str());
    let interrupted = Outcome::interrupted(end.reason);
    let confirmed = cursors::confirmed(conn, end.gateway).await?;
    for Unconfirmed { range, started_at } in end.unconfirmed.iter().copied() {
        let parts = if end.is_in_progress {
            [Some((range, How::Unknown(&interrupted))), None]
        } else if end.reason == Reason::NodeLost {
            [Some((range, unknown)), None]
        } else {
            let failed = How::Failed(end.reason, end.detail);
            [
                cursors::up_to(range, confirmed).map(|part| (part, unknown)),
                cursors::above(range, confirmed).map(|part| (part, failed)),
            ]
        };
        for (range, how) in parts.into_iter().flatten() {
            let ended = Ended {
                gateway: end.gateway,
                connection: Some(end.connection),
                range,
                how,
                started_at,
                finished_at: end.at,
            };
            ledger::insert_attempts(conn, node, &ended).await?;
        }
    }
    query!(
        r#"
        update streams set missed = case when head < $2 then head else $2 end
        where gateway = $1 and missed < head and missed < $2
        "#,
        end.gateway.0,
        newest.range.last.0
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Keeps the position of the connection, and its last activity on both rows. The position of a
/// [named replica](crate::store::positions#definitions) is kept under its name.
async fn leave(
    conn: &mut Connection,
    now: Timestamp,
    end: &End<'_>,
    recorded: Timestamp,
) -> Result<()> {
    query!(
        "update streams set left_at = $2, left_reason = $3, attended = head where gateway = $1",
        end.gateway.0,
        now as _,
        end.reason as _
    )
    .execute(&mut *conn)
    .await?;
    let alive_at = end.alive_at.map(|at| Connection::database_time(now, at));
    let seen_at = alive_at.map_or(recorded, |at| at.max(recorded));
    // An instance's cursor outlives its connections, so it shows the last activity of all.
    query!(
        r#"
        update cursors set updated_at = $3
        where gateway = $1 and confirm is not null and updated_at < $3
            and instance = (select c.instance from connections c where c.id = $2)
        "#,
        end.gateway.0,
        end.connection as _,
        seen_at as _
    )
    .execute(&mut *conn)
    .await?;
    let instance = end.connection.to_string();
    let receipt_at = query_scalar!(
        r#"
        update cursors set left_at = $3,
            updated_at = case when updated_at < $4 then $4 else updated_at end
        where gateway = $1 and instance = $2 and confirm is null
        returning updated_at as "receipt_at!: Timestamp"
        "#,
        end.gateway.0,
        instance,
        now as _,
        seen_at as _
    )
    .fetch_optional(&mut *conn)
    .await?;
    let seen_at = receipt_at.map_or(seen_at, |at| at.max(seen_at));
    if seen_at > recorded {
        query!(
            "update connections set last_heartbeat_at = $2 where id = $1",
            end.connection as _,
            seen_at as _
        )
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// Counts the attempts at an event, on any connection, that ended for a reason that the event may
/// have caused.
async fn blamed(conn: &mut Connection, gateway: GatewayKey, sequence: Sequence) -> Result<u32> {
    // Attempts with an unknown outcome have the reason as their detail.
    let reasons = query!(
        r#"
        select coalesce(reason, detail, '') as "reason!: String", count(*) as "count!: i64"
        from attempts
        where gateway = $1 and first_sequence = $2 and outcome in ('failed', 'unknown')
        group by coalesce(reason, detail, '')
        "#,
        gateway.0,
        sequence.0
    )
    .fetch_all(conn)
    .await?;
    let is_attributed = |reason: &str| reason.parse().is_ok_and(Reason::is_attributed_to_the_event);
    let count =
        reasons.iter().filter(|row| is_attributed(&row.reason)).map(|row| row.count).sum::<i64>();
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Whether a connection that is closed already has deliveries without a recorded outcome.
async fn lacks_outcome(conn: &mut Connection, end: &End<'_>) -> Result<bool> {
    let Some(oldest) = end.unconfirmed.first() else {
        return Ok(false);
    };
    Ok(query_scalar!(
        r#"
        select exists (
            select 1 from connections where id = $1 and close_reason = $2
        ) and not exists (
            select 1 from attempts
            where gateway = $3 and first_sequence = $4 and connection = $1
                and outcome in ('failed', 'unknown')
        ) as "owed!: bool"
        "#,
        end.connection as _,
        Reason::NodeLost as _,
        end.gateway.0,
        oldest.range.first.0
    )
    .fetch_one(conn)
    .await?)
}

/// Records an event that failed too often as a dead letter, unless another connection has confirmed
/// it, and moves the position past it if it is the next one.
async fn give_up(conn: &mut Connection, end: &End<'_>, sequence: Sequence) -> Result<()> {
    if cursors::confirmed(conn, end.gateway).await? < sequence {
        let range = Range { first: sequence, last: sequence };
        ledger::dead_letter(conn, end.gateway, range, end.reason, end.at).await?;
        tracing::warn!(
            target: "delivery",
            connection = %end.connection,
            sequence = sequence.0,
            reason = %end.reason,
            "an event failed too often and becomes a dead letter"
        );
    }
    let own = cursors::own(conn, end.connection).await?;
    let Some((_, instance)) = own.filter(|(position, _)| position.next() == sequence) else {
        return Ok(());
    };
    let (gateway, to, at) = (end.gateway, sequence, end.at);
    let (connection, reach) = (end.connection, Reach::Position);
    let past = Move { gateway, connection, instance, to, reach, at, seen_at: None };
    cursors::raise(conn, &[past]).await?;
    query!("update connections set confirmed = $2 where id = $1", end.connection as _, to.0)
        .execute(conn)
        .await?;
    Ok(())
}
