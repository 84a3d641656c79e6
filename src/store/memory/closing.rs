//! The end of a connection.

use super::ledger::{Ended, How};
use super::positions::Move;
use super::tables::Tables;
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayKey, Reason, Sequence};
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

impl Tables {
    /// Closes it; a connection that is closed already stays as it is, but one
    /// whose node was taken for dead still tells what became of what was on its way.
    pub(super) fn close(&mut self, now: Timestamp, end: &End<'_>) -> Result<()> {
        let is_owed = self.is_owed(end);
        let own = self.own(end.connection).map(|(position, _)| position);
        let Some(row) = self.connections.get_mut(&end.connection) else { return Ok(()) };
        let was_open = row.closed.is_none();
        if !was_open && !is_owed {
            return Ok(());
        }
        if was_open {
            row.closed = Some((now, end.reason));
            row.confirmed = own;
        }
        if let Some((range, started_at)) = end.unconfirmed {
            let how = match end.reason {
                Reason::NodeLost => How::Unknown(end.reason.as_str()),
                reason => How::Failed(reason, end.detail),
            };
            self.write_attempts(&Ended {
                gateway: end.gateway,
                connection: Some(end.connection),
                range,
                how,
                started_at,
                finished_at: end.at,
            })?;
            let stream = self.stream(end.gateway)?;
            stream.missed = stream.missed.max(range.last.0.min(stream.head));
            if end.give_up && was_open {
                self.give_up(end, range.first)?;
            }
        }
        if was_open {
            self.stream(end.gateway)?.left = Some((now, end.reason));
        }
        let own = self.cursors.get_mut(&(end.gateway, end.connection.to_string()));
        if let Some(own) = own.filter(|_| was_open) {
            own.left_at = Some(now);
        }
        Ok(())
    }

    /// Whether a connection that was lost with its node has deliveries of which
    /// nobody has said what became of them.
    fn is_owed(&self, end: &End<'_>) -> bool {
        let Some((range, _)) = end.unconfirmed else { return false };
        let closed = self.connections.get(&end.connection).and_then(|row| row.closed);
        closed.is_some_and(|(_, reason)| reason == Reason::NodeLost)
            && !self.attempts.values().any(|row| {
                row.gateway == end.gateway
                    && row.first == range.first.0
                    && row.connection == Some(end.connection)
                    && matches!(row.outcome, "failed" | "unknown")
            })
    }

    /// Buries the event that failed once too often, unless another connection
    /// has confirmed it, and passes it where it was the next one.
    fn give_up(&mut self, end: &End<'_>, sequence: Sequence) -> Result<()> {
        if self.confirmed(end.gateway) < sequence.0 {
            let range = Range { first: sequence, last: sequence };
            self.bury(end.gateway, range, end.reason, end.at)?;
        }
        let own = self.own(end.connection);
        let Some((_, instance)) = own.filter(|(position, _)| position + 1 == sequence.0) else {
            return Ok(());
        };
        let (gateway, connection) = (end.gateway, end.connection);
        self.raise(&[Move { gateway, connection, instance, to: sequence.0, at: end.at }])?;
        if let Some(row) = self.connections.get_mut(&connection) {
            row.confirmed = Some(sequence.0);
        }
        Ok(())
    }
}
