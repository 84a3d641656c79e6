//! Closing connections.

use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, GatewayKey, Reason, Sequence};
use gateway_events::store::ranges::{above, up_to};
use gateway_events::store::{Outcome, Range, Result, Unconfirmed};

use super::feed::ConnectionChange;
use super::ledger::{Ended, How};
use super::positions::{Move, Reach};
use super::tables::{AttemptRow, Tables, next};

/// The end of a connection.
pub(super) struct End<'a> {
    pub(super) gateway: GatewayKey,
    pub(super) connection: ConnectionId,
    pub(super) reason: Reason,
    pub(super) detail: &'a str,
    pub(super) unconfirmed: &'a [Unconfirmed],
    pub(super) is_in_progress: bool,
    pub(super) give_up_after: Option<u32>,
    pub(super) alive_at: Option<Timestamp>,
    pub(super) at: Timestamp,
}

impl Tables {
    /// Closes a connection. One that is closed already stays unchanged, but if its node was
    /// declared dead, the outcome of its deliveries is recorded now.
    pub(super) fn close(&mut self, now: Timestamp, end: &End<'_>) -> Result<()> {
        let lacks_outcome = self.lacks_outcome(end);
        let own = self.own(end.connection).map(|(position, _)| position);
        let Some(row) = self.connections.get_mut(&end.connection) else { return Ok(()) };
        let was_open = row.closed.is_none();
        if !was_open && !lacks_outcome {
            return Ok(());
        }
        if was_open {
            row.closed = Some((now, end.reason));
            row.confirmed = own;
            let change = ConnectionChange {
                connection: end.connection,
                gateway: end.gateway,
                closed: true,
                at: now,
            };
            self.connection_changes.insert(next(&mut self.last.connection_change), change);
        }
        if let Some(oldest) = end.unconfirmed.first().map(|run| run.range.first) {
            self.unconfirmed(end)?;
            let most = end.give_up_after.filter(|_| was_open);
            if most
                .is_some_and(|most| self.count_attributed_attempts(end.gateway, oldest.0) >= most)
            {
                self.give_up(end, oldest)?;
            }
        }
        if was_open {
            let stream = self.stream(end.gateway)?;
            (stream.left, stream.attended) = (Some((now, end.reason)), stream.head);
            self.leave(now, end);
        }
        Ok(())
    }

    /// Deliveries that the gateway has confirmed on another connection have not failed.
    fn unconfirmed(&mut self, end: &End<'_>) -> Result<()> {
        let unknown = How::Unknown(end.reason.as_str());
        let interrupted = Outcome::interrupted(end.reason);
        let confirmed = Sequence(self.confirmed(end.gateway));
        for Unconfirmed { range, started_at } in end.unconfirmed.iter().copied() {
            let parts = if end.is_in_progress {
                [Some((range, How::Unknown(&interrupted))), None]
            } else if end.reason == Reason::NodeLost {
                [Some((range, unknown)), None]
            } else {
                let failed = How::Failed(end.reason, end.detail);
                [
                    up_to(range, confirmed).map(|part| (part, unknown)),
                    above(range, confirmed).map(|part| (part, failed)),
                ]
            };
            for (range, how) in parts.into_iter().flatten() {
                self.write_attempts(&Ended {
                    gateway: end.gateway,
                    connection: Some(end.connection),
                    range,
                    how,
                    started_at,
                    finished_at: end.at,
                })?;
            }
            let stream = self.stream(end.gateway)?;
            stream.missed = stream.missed.max(range.last.0.min(stream.head));
        }
        Ok(())
    }

    /// Keeps its position for its replica, and its last activity on both rows.
    fn leave(&mut self, now: Timestamp, end: &End<'_>) {
        let Some(row) = self.connections.get_mut(&end.connection) else { return };
        let alive_at = end.alive_at.map(|at| at.min(now));
        let mut seen_at = row.last_heartbeat_at.max(alive_at.unwrap_or(row.last_heartbeat_at));
        let named = self.cursors.get_mut(&(end.gateway, row.instance.clone()));
        if let Some(named) = named.filter(|cursor| cursor.confirm.is_some()) {
            named.updated_at = named.updated_at.max(seen_at);
        }
        let own = self.cursors.get_mut(&(end.gateway, end.connection.to_string()));
        if let Some(own) = own.filter(|cursor| cursor.confirm.is_none()) {
            seen_at = seen_at.max(own.updated_at);
            own.updated_at = seen_at;
            own.left_at = Some(now);
        }
        row.last_heartbeat_at = seen_at;
    }

    /// Counts the attempts at an event that ended for a reason that the event may have caused.
    fn count_attributed_attempts(&self, gateway: GatewayKey, sequence: i64) -> u32 {
        let is_attributed = |attempt: &&AttemptRow| {
            let unknown = attempt.detail.as_deref().filter(|_| attempt.outcome == Outcome::Unknown);
            let reason = attempt.reason.or_else(|| unknown?.parse().ok());
            attempt.gateway == gateway
                && attempt.first == sequence
                && reason.is_some_and(Reason::is_attributed_to_the_event)
        };
        u32::try_from(self.attempts.values().filter(is_attributed).count()).unwrap_or(u32::MAX)
    }

    /// Whether a connection that was lost with its node has deliveries without a recorded outcome.
    fn lacks_outcome(&self, end: &End<'_>) -> bool {
        let Some(oldest) = end.unconfirmed.first() else { return false };
        let closed = self.connections.get(&end.connection).and_then(|row| row.closed);
        closed.is_some_and(|(_, reason)| reason == Reason::NodeLost)
            && !self.attempts.values().any(|row| {
                row.gateway == end.gateway
                    && row.first == oldest.range.first.0
                    && row.connection == Some(end.connection)
                    && matches!(row.outcome, Outcome::Failed | Outcome::Unknown)
            })
    }

    /// Records an event that failed too often as a dead letter, unless another connection has
    /// confirmed it, and moves the position past it if it is the next one.
    fn give_up(&mut self, end: &End<'_>, sequence: Sequence) -> Result<()> {
        if self.confirmed(end.gateway) < sequence.0 {
            let range = Range { first: sequence, last: sequence };
            self.dead_letter(end.gateway, range, end.reason, end.at)?;
        }
        let own = self.own(end.connection);
        let Some((_, instance)) = own.filter(|(position, _)| position + 1 == sequence.0) else {
            return Ok(());
        };
        let (gateway, connection) = (end.gateway, end.connection);
        let (to, at) = (sequence.0, end.at);
        let reach = Reach::Position;
        self.raise(&[Move { gateway, connection, instance, to, reach, at, seen_at: None }])?;
        if let Some(row) = self.connections.get_mut(&connection) {
            row.confirmed = Some(sequence.0);
        }
        Ok(())
    }
}
