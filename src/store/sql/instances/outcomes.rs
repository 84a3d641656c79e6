//! Outcomes on connections in reliable mode, other than acknowledgements: those are recorded with
//! other receipts.

use std::sync::Arc;

use super::super::cursors::{self, Move, Reach};
use super::super::dialect::{Connection, query_scalar};
use super::super::ledger::record::is_given_up;
use super::super::ledger::{self, Ended, How, reports};
use super::resync;
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayKey, NodeId, Reason, Sequence};
use crate::store::{GapReason, InstanceOutcome, MAX_NACK_DETAIL_BYTES, Range, Result};

/// The connection of an outcome.
pub(crate) struct Connected<'a> {
    pub(crate) gateway: GatewayKey,
    pub(crate) connection: ConnectionId,
    pub(crate) instance: &'a Arc<str>,
    /// When the outcome was known.
    pub(crate) at: Timestamp,
    /// When it is recorded.
    pub(crate) seen_at: Timestamp,
}

/// A negative acknowledgement.
struct Nack<'a> {
    sequence: Sequence,
    code: Reason,
    detail: &'a str,
    started_at: Timestamp,
}

impl Nack<'_> {
    const fn range(&self) -> Range {
        Range { first: self.sequence, last: self.sequence }
    }
}

/// Records an outcome.
pub(crate) async fn outcome(
    conn: &mut Connection,
    node: NodeId,
    on: &Connected<'_>,
    outcome: &InstanceOutcome,
) -> Result<()> {
    match outcome {
        InstanceOutcome::Acknowledged { .. } => Ok(()),
        InstanceOutcome::Retried { sequence, code, detail, started_at } => {
            let (sequence, code, started_at) = (*sequence, *code, *started_at);
            let nack = Nack { sequence, code, detail: cut(detail), started_at };
            failed(conn, node, on, &nack).await.map(drop)
        }
        InstanceOutcome::Rejected { sequence, code, detail, started_at, advance_to } => {
            let (sequence, code, started_at) = (*sequence, *code, *started_at);
            let nack = Nack { sequence, code, detail: cut(detail), started_at };
            rejected(conn, node, on, &nack).await?;
            advance(conn, on, *advance_to).await
        }
        InstanceOutcome::Filtered { range, advance_to } => {
            let confirmed = cursors::confirmed(conn, on.gateway).await?;
            if let Some(open) = cursors::above(*range, confirmed) {
                settle(conn, node, on, open, How::Filtered("")).await?;
            }
            advance(conn, on, *advance_to).await
        }
        InstanceOutcome::Covered { reason, resume_at } => {
            let floor = floor(conn, on.gateway).await?;
            let own = cursors::own(conn, on.connection).await?;
            let own = own.map_or(Sequence::ZERO, |(position, _)| position);
            let settled = cursors::confirmed(conn, on.gateway).await?.max(floor).max(own);
            let pending = Range { first: settled.next(), last: *resume_at };
            if pending.first <= pending.last {
                settle(conn, node, on, pending, How::Snapshot(reason.as_str())).await?;
            }
            if *reason == GapReason::Resync {
                let (gateway, connection) = (on.gateway, on.connection);
                resync::done(conn, on.seen_at, gateway, connection, *resume_at).await?;
            }
            advance(conn, on, Some(*resume_at)).await
        }
    }
}

/// A detail of bounded length.
fn cut(detail: &str) -> &str {
    let fits = |end: &usize| detail.is_char_boundary(*end);
    let end = (0..=detail.len().min(MAX_NACK_DETAIL_BYTES)).rev().find(fits).unwrap_or(0);
    detail.get(..end).unwrap_or_default()
}

/// Records that an event was not applied. Returns whether the attempt failed: if another instance has
/// confirmed the event, its outcome is unknown.
async fn failed(
    conn: &mut Connection,
    node: NodeId,
    on: &Connected<'_>,
    nack: &Nack<'_>,
) -> Result<bool> {
    let has_failed = nack.sequence > cursors::confirmed(conn, on.gateway).await?;
    let unknown = format!("{}: {}", nack.code, nack.detail);
    let how = if has_failed { How::Failed(nack.code, nack.detail) } else { How::Unknown(&unknown) };
    let ended = Ended {
        gateway: on.gateway,
        connection: Some(on.connection),
        range: nack.range(),
        how,
        started_at: nack.started_at,
        finished_at: on.at,
    };
    ledger::insert_attempts(conn, node, &ended).await?;
    Ok(has_failed)
}

/// Records a rejection; the same one only once.
async fn rejected(
    conn: &mut Connection,
    node: NodeId,
    on: &Connected<'_>,
    nack: &Nack<'_>,
) -> Result<()> {
    let (gateway, range) = (on.gateway, nack.range());
    if is_rejected(conn, on, nack.sequence).await? || !failed(conn, node, on, nack).await? {
        return Ok(());
    }
    reports::failed(conn, gateway, nack.sequence, nack.code, on.at).await?;
    // The rejection replaces the reason for which the event was given up.
    ledger::remove_dead_letters(conn, gateway, range, is_given_up).await?;
    ledger::rejected(conn, gateway, range, nack.code, Some(&**on.instance), on.at).await
}

async fn is_rejected(
    conn: &mut Connection,
    on: &Connected<'_>,
    sequence: Sequence,
) -> Result<bool> {
    Ok(query_scalar!(
        r#"
        select exists (
            select 1 from dead_letters
            where gateway = $1 and first_sequence = $2 and rejected_by = $3
        ) as "is_rejected!: bool"
        "#,
        on.gateway.0,
        sequence.0,
        &**on.instance
    )
    .fetch_one(conn)
    .await?)
}

/// Records attempts at the deliveries of a range that are not dead letters.
pub(super) async fn settle(
    conn: &mut Connection,
    node: NodeId,
    on: &Connected<'_>,
    range: Range,
    how: How<'_>,
) -> Result<()> {
    for part in ledger::not_dead(conn, on.gateway, range).await? {
        let ended = Ended {
            gateway: on.gateway,
            connection: Some(on.connection),
            range: part,
            how,
            started_at: on.at,
            finished_at: on.at,
        };
        ledger::insert_attempts(conn, node, &ended).await?;
    }
    Ok(())
}

/// Raises the position.
pub(super) async fn advance(
    conn: &mut Connection,
    on: &Connected<'_>,
    to: Option<Sequence>,
) -> Result<()> {
    let Some(to) = to else { return Ok(()) };
    let past = Move {
        gateway: on.gateway,
        connection: on.connection,
        instance: Arc::clone(on.instance),
        to,
        reach: Reach::Position,
        at: on.at,
        seen_at: Some(on.seen_at),
    };
    cursors::raise(conn, &[past]).await
}

async fn floor(conn: &mut Connection, gateway: GatewayKey) -> Result<Sequence> {
    Ok(query_scalar!(
        r#"select floor as "floor!: Sequence" from streams where gateway = $1"#,
        gateway.0
    )
    .fetch_one(conn)
    .await?)
}
