//! Records outcomes. Receipts are frequent, so they are merged and written with one statement per
//! table. Other records are rare, and are written row by row.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::dialect::{
    Connection, ConnectionStatements, LedgerStatements, NodeStatements, query, query_scalar,
};

use super::super::cursors::{self, Move, Reach};
use super::super::instances::{self, Connected};
use super::super::log::read::find_deployment;
use super::reports;
use super::{self as ledger, DeadLetter, Ended, How};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayKey, NodeId, Reason, Sequence};
use crate::store::deployments::CANDIDATES_IN_WRITER;
use crate::store::receipts::Waiting;
use crate::store::{Confirmation, Level, Outcome, Range, Record, ReportedFailure, Result};

pub(crate) use crate::store::receipts::Receipts;

/// The maximum number of failed and unknown attempts that are examined for the end of a connection.
const ENDS_EXAMINED: i64 = 1000;

/// Writes records, in order.
pub(crate) async fn record<'a>(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    records: impl Iterator<Item = &'a Record> + Send,
) -> Result<()> {
    let mut waiting = Waiting::default();
    let mut signs: HashMap<ConnectionId, Timestamp> = HashMap::new();
    for record in records {
        let record = record.in_order(now);
        if let Some(receipts) = Receipts::of(record.as_ref()) {
            if receipts.range.first <= receipts.range.last {
                waiting.add(receipts);
            }
            continue;
        }
        match record.as_ref() {
            Record::Heartbeat { connection, at } => {
                let at = Connection::database_time(now, *at);
                let sign = signs.entry(*connection).or_insert(at);
                *sign = (*sign).max(at);
            }
            other => {
                // Other records may read positions, so receipts must be written first.
                confirm(conn, now, node, std::mem::take(&mut waiting)).await?;
                one(conn, now, node, other).await?;
            }
        }
    }
    confirm(conn, now, node, waiting).await?;
    if signs.is_empty() { Ok(()) } else { conn.record_heartbeats(&signs).await }
}

async fn confirm(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    waiting: Waiting,
) -> Result<()> {
    if waiting.receipts.is_empty() {
        return Ok(());
    }
    let mut received = Vec::with_capacity(waiting.receipts.len());
    let mut applied = Vec::new();
    let mut moves = Vec::with_capacity(waiting.receipts.len());
    let mut acknowledged = Vec::new();
    for it in waiting.receipts {
        if it.is_acknowledged && it.confirms {
            acknowledged.push((it.gateway, it.range));
        }
        moves.push(Move {
            gateway: it.gateway,
            connection: it.connection,
            instance: Arc::clone(&it.instance),
            to: it.range.last,
            reach: reach(&it),
            at: it.finished_at,
            seen_at: Some(now),
        });
        if it.is_attempt() {
            let rows = if it.level == Level::Applied { &mut applied } else { &mut received };
            rows.extend(ledger::cut(it.range).map(|range| Receipts { range, ..it.clone() }));
        }
    }
    for (outcome, rows) in [(Outcome::Received, received), (Outcome::Applied, applied)] {
        if rows.is_empty() {
            continue;
        }
        for (gateway, dead) in conn.insert_receipts(node, outcome, &rows).await? {
            let of = rows.iter().filter(|it| it.gateway == gateway);
            let over = of.filter(|it| it.range.first <= dead.last && dead.first <= it.range.last);
            let instances: Vec<&str> = over.map(|it| &*it.instance).collect();
            revive(conn, gateway, dead, &instances, By::Receipts).await?;
        }
    }
    cursors::raise(conn, &moves).await?;
    reports::acknowledged(conn, acknowledged.into_iter()).await
}

const fn reach(receipts: &Receipts) -> Reach {
    let Receipts { level, confirms, is_acknowledged, .. } = *receipts;
    if is_acknowledged { Reach::Acknowledged { level, confirms } } else { Reach::Position }
}

/// What confirms events that were given up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Receipts of events that were sent.
    Receipts,
    /// The position at which an instance starts. It passes events that were withdrawn before they were
    /// sent, too, so these stay dead letters, unless the gateway states the event's id: then a receipt.
    Position,
}

/// Removes confirmed events from the dead letters if another connection or node has given them up.
/// Called before the confirmation raises the positions. If one confirmation is enough, those that
/// another instance has rejected are removed, too. If all must confirm, those that an admin has
/// skipped or purged stay: the other instances are not sent them any more. Returns whether any was
/// removed.
pub(crate) async fn revive(
    conn: &mut Connection,
    gateway: GatewayKey,
    confirmed: Range,
    instances: &[&str],
    by: By,
) -> Result<bool> {
    let any = confirmation(conn, gateway).await? == Confirmation::Any;
    let by_another = |letter: &DeadLetter| {
        let by = letter.rejected_by.as_deref();
        any && by.is_some_and(|by| instances.iter().any(|instance| *instance != by))
    };
    let is_open = |letter: &DeadLetter| {
        is_given_up(letter)
            && (any || !letter.reason.is_by_admin())
            && !(by == By::Position && letter.reason.is_withdrawn())
    };
    let is_over = |letter: &DeadLetter| is_open(letter) || by_another(letter);
    let revived = ledger::remove_dead_letters(conn, gateway, confirmed, is_over).await?;
    if revived.is_empty() {
        return Ok(false);
    }
    // Those above the position are counted when the position passes them.
    let confirmed = cursors::confirmed(conn, gateway).await?;
    let passed = revived.into_iter().filter_map(|part| cursors::up_to(part, confirmed));
    let count = passed.map(|part| part.last.0 - part.first.0 + 1).sum();
    if count > 0 {
        count_confirmed(conn, gateway, count).await?;
    }
    Ok(true)
}

/// Whether the service gave up a dead letter with this reason. What a gateway reported as failed
/// stays a dead letter when it is confirmed.
pub(crate) fn is_given_up(letter: &DeadLetter) -> bool {
    !letter.reason.is_reported()
}

/// Which instances of a gateway must confirm.
async fn confirmation(conn: &mut Connection, gateway: GatewayKey) -> Result<Confirmation> {
    let name = query_scalar!(
        r#"select confirmation as "confirmation!: String" from streams where gateway = $1"#,
        gateway.0
    )
    .fetch_optional(conn)
    .await?;
    Ok(name.as_deref().map(Confirmation::stored).unwrap_or_default())
}

/// A report confirms everything up to `past.to` that was sent on its connection: that is what lies
/// above the connection's position.
async fn confirm_here(conn: &mut Connection, past: Move) -> Result<()> {
    let position = match cursors::own(conn, past.connection).await? {
        Some((position, _)) => position,
        // Another connection took the position over. It is not above the gateway's.
        None => cursors::confirmed(conn, past.gateway).await?,
    };
    revive_above(conn, past.gateway, position, past.to).await?;
    cursors::raise(conn, &[past]).await
}

/// A report confirms everything up to `to` that was sent on another connection. That is everything
/// above the gateway's position, because no unnamed connection starts above it and each skipped
/// event moves it. If that connection has ended, it is also what its end left unconfirmed.
async fn confirm_elsewhere(
    conn: &mut Connection,
    gateway: GatewayKey,
    to: Sequence,
    at: Timestamp,
) -> Result<()> {
    let mut position = cursors::confirmed(conn, gateway).await?;
    if let Some(first) = first_sent_with(conn, gateway, to).await? {
        position = position.min(first.previous());
    }
    revive_above(conn, gateway, position, to).await?;
    cursors::raise_gateway(conn, gateway, to, at).await
}

async fn revive_above(
    conn: &mut Connection,
    gateway: GatewayKey,
    position: Sequence,
    to: Sequence,
) -> Result<()> {
    if position >= to {
        return Ok(());
    }
    let range = Range { first: position.next(), last: to };
    revive(conn, gateway, range, &[], By::Receipts).await.map(drop)
}

/// The first event that was unconfirmed at the end of the newest ended connection on which
/// `sequence` was unconfirmed, too. `None` if no connection ended so.
async fn first_sent_with(
    conn: &mut Connection,
    gateway: GatewayKey,
    sequence: Sequence,
) -> Result<Option<Sequence>> {
    let ends = query!(
        r#"
        select first_sequence as "first!: Sequence", last_sequence as "last!: Sequence",
            reason as "reason?: Reason", connection as "connection!: ConnectionId"
        from attempts
        where gateway = $1 and first_sequence between $2 and $3 and connection is not null
            and outcome in ('failed', 'unknown')
        order by attempt desc limit $4
        "#,
        gateway.0,
        sequence.0 - ledger::MAX_RANGE_LENGTH,
        sequence.0,
        ENDS_EXAMINED
    )
    .fetch_all(conn)
    .await?;
    // The other attempts are those at events that were skipped or reported.
    let mut ends = ends.into_iter().filter(|end| end.reason.is_none_or(Reason::ends_connections));
    let Some(newest) = ends.find(|end| end.last >= sequence) else { return Ok(None) };
    // An end is recorded in several rows if the gateway's position lies within its range.
    let others = ends.filter(|end| end.connection == newest.connection).map(|end| end.first);
    Ok(others.chain([newest.first]).min())
}

/// Writes a record that is neither a receipt nor a heartbeat.
async fn one(conn: &mut Connection, now: Timestamp, node: NodeId, record: &Record) -> Result<()> {
    match record {
        Record::Confirmed { .. } | Record::Heartbeat { .. } => Ok(()),
        Record::Instance { gateway, connection, instance, outcome, at } => {
            let on = Connected {
                gateway: *gateway,
                connection: *connection,
                instance,
                at: *at,
                seen_at: now,
            };
            instances::outcome(conn, node, &on, outcome).await
        }
        Record::Reported { gateway, connection: on, instance, sequence, result, confirms, at } => {
            reported(conn, node, (*gateway, *on), *sequence, result, *at).await?;
            let Some(to) = *confirms else { return Ok(()) };
            let (gateway, instance) = (*gateway, Arc::clone(instance));
            let (at, seen_at) = (*at, Some(now));
            let (connection, reach) = (*on, Reach::Position);
            let past = Move { gateway, connection, instance, to, reach, at, seen_at };
            confirm_here(conn, past).await
        }
        Record::Unmatched { gateway, connection, instance, key, result, sent_here, at } => {
            let Some(found) = find_deployment(conn, *gateway, key, CANDIDATES_IN_WRITER).await?
            else {
                tracing::warn!(%connection, "dropped a late report on an unknown deployment");
                return Ok(());
            };
            let (gateway, at) = (*gateway, *at);
            reported(conn, node, (gateway, *connection), found.sequence, result, at).await?;
            let (here, elsewhere) = found.confirms_on(*sent_here);
            if let Some(to) = here {
                let (instance, seen_at) = (Arc::clone(instance), Some(now));
                let (connection, reach) = (*connection, Reach::Position);
                let past = Move { gateway, connection, instance, to, reach, at, seen_at };
                confirm_here(conn, past).await?;
            }
            // An instance's own connections confirm what it was sent (see `store::positions`).
            match elsewhere.filter(|_| instance.is_empty()) {
                Some(to) => confirm_elsewhere(conn, gateway, to, at).await,
                None => Ok(()),
            }
        }
        Record::ConfirmedElsewhere { gateway, to, at } => {
            confirm_elsewhere(conn, *gateway, *to, *at).await
        }
        Record::Skipped { gateway, connection: on, instance, range, reason, advance_to, at } => {
            skipped(conn, node, (*gateway, *on), *range, *reason, *at).await?;
            let Some(to) = *advance_to else { return Ok(()) };
            let (gateway, instance) = (*gateway, Arc::clone(instance));
            let (connection, reach, at) = (*on, Reach::Position, *at);
            let past = Move { gateway, connection, instance, to, reach, at, seen_at: None };
            cursors::raise(conn, &[past]).await
        }
        Record::Closed {
            gateway,
            connection: on,
            reason,
            detail,
            unconfirmed,
            is_in_progress,
            give_up_after,
            alive_at,
            at,
        } => {
            let end = super::super::connections::close::End {
                gateway: *gateway,
                connection: *on,
                reason: *reason,
                detail,
                unconfirmed,
                is_in_progress: *is_in_progress,
                give_up_after: *give_up_after,
                alive_at: *alive_at,
                at: *at,
            };
            super::super::connections::close::close(conn, now, node, &end).await
        }
    }
}

async fn reported(
    conn: &mut Connection,
    node: NodeId,
    (gateway, on): (GatewayKey, ConnectionId),
    sequence: Sequence,
    result: &std::result::Result<(), ReportedFailure>,
    at: Timestamp,
) -> Result<()> {
    let range = Range { first: sequence, last: sequence };
    let (how, reason) = match result {
        Ok(()) => (How::Applied(""), None),
        Err(ReportedFailure { reason, detail }) => (How::Failed(*reason, detail), Some(*reason)),
    };
    let earlier = earlier_reports(conn, (gateway, on), sequence, reason).await?;
    if earlier.applied && result.is_err() {
        return Ok(());
    }
    if !earlier.the_same {
        let ended =
            Ended { gateway, connection: Some(on), range, how, started_at: at, finished_at: at };
        ledger::insert_attempts(conn, node, &ended).await?;
    }
    let is_confirmed = cursors::confirmed(conn, gateway).await? >= sequence;
    let Some(reason) = reason else {
        if !earlier.the_same {
            reports::succeeded(conn, gateway, sequence).await?;
        }
        let revived = ledger::remove_dead_letters(conn, gateway, range, |_| true).await?;
        if !revived.is_empty() && is_confirmed {
            count_confirmed(conn, gateway, 1).await?;
        }
        return cursors::applied(conn, gateway, on, sequence).await;
    };
    if earlier.the_same {
        return Ok(());
    }
    reports::failed(conn, gateway, sequence, reason, at).await?;
    // The report replaces the reason for which the event was given up or rejected, so that a later
    // receipt does not revive it.
    let is_replaced = |letter: &DeadLetter| is_given_up(letter) || letter.rejected_by.is_some();
    let given_up = ledger::remove_dead_letters(conn, gateway, range, is_replaced).await?;
    // It was counted as confirmed if its receipt arrived before its report.
    if is_confirmed
        && given_up.is_empty()
        && !ledger::not_dead(conn, gateway, range).await?.is_empty()
    {
        count_confirmed(conn, gateway, -1).await?;
    }
    ledger::dead_letter(conn, gateway, range, reason, at).await
}

/// What earlier reports on a delivery have in common with this one.
struct EarlierReports {
    /// The same as this one, on the same connection.
    the_same: bool,
    /// That it was applied, on any connection.
    applied: bool,
}

async fn earlier_reports(
    conn: &mut Connection,
    (gateway, on): (GatewayKey, ConnectionId),
    sequence: Sequence,
    reason: Option<Reason>,
) -> Result<EarlierReports> {
    let outcome = if reason.is_none() { Outcome::Applied } else { Outcome::Failed };
    let earlier = query!(
        r#"
        select exists (
            select 1 from attempts
            where gateway = $1 and first_sequence = $2 and last_sequence = $2
                and outcome = $3 and reason is not distinct from $4 and connection = $5
        ) as "the_same!: bool", exists (
            select 1 from attempts
            where gateway = $1 and first_sequence = $2 and last_sequence = $2 and outcome = 'applied'
        ) as "applied!: bool"
        "#,
        gateway.0,
        sequence.0,
        outcome as _,
        reason as _,
        on as _
    )
    .fetch_one(conn)
    .await?;
    Ok(EarlierReports { the_same: earlier.the_same, applied: earlier.applied })
}

pub(crate) async fn count_confirmed(
    conn: &mut Connection,
    gateway: GatewayKey,
    by: i64,
) -> Result<()> {
    query!(
        "update streams set confirmed_total = confirmed_total + $2 where gateway = $1 and confirmed_total + $2 >= 0",
        gateway.0,
        by
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Sequences at or below the gateway's confirmed position are delivered, however late this
/// connection is, and dead letters are already recorded.
async fn skipped(
    conn: &mut Connection,
    node: NodeId,
    (gateway, on): (GatewayKey, ConnectionId),
    range: Range,
    reason: Reason,
    at: Timestamp,
) -> Result<()> {
    if reason == Reason::Superseded {
        // That was recorded when it was decided.
        return Ok(());
    }
    let confirmed = cursors::confirmed(conn, gateway).await?;
    let Some(open) = cursors::above(range, confirmed) else { return Ok(()) };
    for part in ledger::not_dead(conn, gateway, open).await? {
        let ended = Ended {
            gateway,
            connection: Some(on),
            range: part,
            how: How::Failed(reason, ""),
            started_at: at,
            finished_at: at,
        };
        ledger::insert_attempts(conn, node, &ended).await?;
        ledger::dead_letter(conn, gateway, part, reason, at).await?;
    }
    Ok(())
}
