//! The end of a connection: what it had not confirmed failed with it, and its
//! position is left behind for the next one.

use super::dialect::{Connection, query, query_scalar};

use super::ledger::{self, Ended, How};
use super::positions::{self, Move};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayKey, NodeId, Reason, Sequence};
use crate::store::{Range, Result};

/// How a connection ended.
pub(super) struct End<'a> {
    pub(super) gateway: GatewayKey,
    pub(super) connection: ConnectionId,
    pub(super) reason: Reason,
    pub(super) detail: &'a str,
    pub(super) unconfirmed: Option<(Range, Timestamp)>,
    pub(super) give_up: bool,
    pub(super) at: Timestamp,
}

/// Closes it; a connection that is closed already stays as it is. One that was
/// closed because its node was taken for dead still tells what became of the
/// deliveries that were on their way: whoever closed it could not know.
pub(super) async fn close(
    connection: &mut Connection,
    now: Timestamp,
    node: NodeId,
    end: &End<'_>,
) -> Result<()> {
    let closed = query!(
        r#"
        update connections set closed_at = $2, close_reason = $3, confirmed = (
            select received from cursors u where u.gateway = connections.gateway
                and u.instance = coalesce(nullif(connections.instance, ''), cast(connections.id as text))
        )
        where id = $1 and closed_at is null
        "#,
        end.connection as _,
        now as _,
        end.reason as _
    )
    .execute(&mut *connection)
    .await?;
    let was_open = closed.rows_affected() > 0;
    if !was_open && !is_owed(connection, end).await? {
        return Ok(());
    }
    if let Some((range, started_at)) = end.unconfirmed {
        let how = match end.reason {
            Reason::NodeLost => How::Unknown(end.reason.as_str()),
            reason => How::Failed(reason, end.detail),
        };
        let ended = Ended {
            gateway: end.gateway,
            connection: Some(end.connection),
            range,
            how,
            started_at,
            finished_at: end.at,
        };
        ledger::write(connection, node, &ended).await?;
        query!(
            r#"
            update streams set missed = case when head < $2 then head else $2 end
            where gateway = $1 and missed < head and missed < $2
            "#,
            end.gateway.0,
            range.last.0
        )
        .execute(&mut *connection)
        .await?;
        if end.give_up && was_open {
            give_up(connection, end, range.first).await?;
        }
    }
    if !was_open {
        return Ok(());
    }
    query!(
        "update streams set left_at = $2, left_reason = $3 where gateway = $1",
        end.gateway.0,
        now as _,
        end.reason as _
    )
    .execute(&mut *connection)
    .await?;
    // A named replica keeps its position under its own name.
    let instance = end.connection.to_string();
    query!(
        "update cursors set left_at = $3 where gateway = $1 and instance = $2",
        end.gateway.0,
        instance,
        now as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether a connection that is closed already has deliveries of which nobody
/// has said what became of them.
async fn is_owed(connection: &mut Connection, end: &End<'_>) -> Result<bool> {
    let Some((range, _)) = end.unconfirmed else {
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
        range.first.0
    )
    .fetch_one(connection)
    .await?)
}

/// Buries the event that failed once too often, unless another connection has
/// confirmed it, and passes it where it was the next one.
async fn give_up(connection: &mut Connection, end: &End<'_>, sequence: Sequence) -> Result<()> {
    if positions::confirmed(connection, end.gateway).await? < sequence {
        let range = Range { first: sequence, last: sequence };
        ledger::bury(connection, end.gateway, range, end.reason, end.at).await?;
    }
    let own = positions::own(connection, end.connection).await?;
    let Some((_, instance)) = own.filter(|(position, _)| position.next() == sequence) else {
        return Ok(());
    };
    let (gateway, to, at) = (end.gateway, sequence, end.at);
    let past = Move { gateway, connection: end.connection, instance, to, at };
    positions::raise(connection, &[past]).await?;
    query!("update connections set confirmed = $2 where id = $1", end.connection as _, to.0)
        .execute(connection)
        .await?;
    Ok(())
}
