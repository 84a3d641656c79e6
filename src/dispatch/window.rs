//! What may be sent on a connection, and what a receipt, a silence and an end
//! mean. Decides and does nothing else: no clock, no IO; instants are
//! arguments. Everything up to `position` is settled (confirmed or passed
//! over), everything up to `sent` is on its way.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Policy;
use super::cadence::{Cadence, Slot};
use crate::clock::Timestamp;
use crate::event::{EventType, Reason, Sequence};
use crate::socket::PingBefore;
use crate::store::Range;

/// How much may be on its way unconfirmed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Events.
    pub events: usize,
    /// Bytes of frames; a single larger event may go alone.
    pub bytes: usize,
}

/// When attempts at an event end.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Attempts before it is poison, on whichever connections.
    pub max_attempts: u32,
    /// What becomes of poison.
    pub poison: Policy,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: Sequence,
    bytes: usize,
    instant: Instant,
    started_at: Timestamp,
    /// Whether it may share a ping with the event before it.
    shares_ping: bool,
    /// Where its handling time is measured.
    slot: Slot,
}

/// Why the window does not take what it is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another number is next.
    NotNext,
    /// Something must be confirmed first.
    Full,
}

/// What a receipt means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// These are confirmed by it.
    Confirmed {
        /// These.
        range: Range,
        /// When the first of them was sent.
        started_at: Timestamp,
    },
    /// Nothing new: a repeat, or an older one.
    Stale,
    /// A number that was never sent: it confirms nothing.
    BeyondSent,
}

/// What an end leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closing {
    /// Sent and not confirmed, and when the first of them was sent.
    pub unconfirmed: Option<(Range, Timestamp)>,
    /// After so many attempts the first of them is given up; `None`: never.
    pub give_up_after: Option<u32>,
}

/// One connection's window.
#[derive(Debug)]
pub struct Window {
    limits: Limits,
    position: Sequence,
    sent: Sequence,
    in_flight: VecDeque<Sent>,
    bytes: usize,
    /// When the position last moved.
    progress_at: Option<Instant>,
    /// An event up to here may have made an earlier connection fail.
    suspect: Sequence,
    cadence: Cadence,
}

impl Window {
    /// Starts behind `position`. Events up to `suspect` share no ping, so that it is
    /// known which of them makes a connection fail.
    pub fn new(limits: Limits, position: Sequence, suspect: Sequence, cadence: Cadence) -> Self {
        Self {
            limits,
            position,
            sent: position,
            in_flight: VecDeque::new(),
            bytes: 0,
            progress_at: None,
            suspect,
            cadence,
        }
    }

    /// Everything up to here is settled.
    pub const fn position(&self) -> Sequence {
        self.position
    }

    /// Everything up to here was sent or passed over.
    pub const fn sent(&self) -> Sequence {
        self.sent
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether a frame of this size may go now.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.in_flight.is_empty()
            || (self.in_flight.len() < self.limits.events
                && self.bytes.saturating_add(bytes) <= self.limits.bytes)
    }

    /// Takes an event that is about to be sent, and answers which ping must
    /// precede it.
    pub fn offer(
        &mut self,
        sequence: Sequence,
        event_type: &EventType,
        bytes: usize,
        sent_at: Instant,
        started_at: Timestamp,
    ) -> Result<PingBefore, Refusal> {
        if self.sent >= Sequence::MAX || sequence != self.sent.next() {
            return Err(Refusal::NotNext);
        }
        if !self.has_room(bytes) {
            return Err(Refusal::Full);
        }
        let is_idle = self.in_flight.is_empty();
        let (mut ping, slot) = self.cadence.plan(event_type, is_idle, sent_at);
        if ping == PingBefore::Unneeded && sequence <= self.suspect.next() {
            ping = PingBefore::Between;
        }
        self.sent = sequence;
        self.bytes += bytes;
        self.in_flight.push_back(Sent {
            sequence,
            bytes,
            instant: sent_at,
            started_at,
            shares_ping: ping == PingBefore::Unneeded,
            slot,
        });
        Ok(ping)
    }

    /// Passes over what will never be sent, up to `last`. Only with nothing on
    /// its way: so ranges that are confirmed or lost contain no gaps.
    pub fn skip(&mut self, last: Sequence) -> Result<Range, Refusal> {
        if !self.in_flight.is_empty() {
            return Err(Refusal::Full);
        }
        if last <= self.sent || last > Sequence::MAX {
            return Err(Refusal::NotNext);
        }
        let range = Range { first: self.sent.next(), last };
        self.sent = last;
        self.position = last;
        Ok(range)
    }

    /// The peer has handled everything up to `sequence`.
    pub fn receipt(&mut self, sequence: Sequence, now: Instant) -> Receipt {
        if sequence > self.sent {
            return Receipt::BeyondSent;
        }
        let count = self.in_flight.iter().take_while(|sent| sent.sequence <= sequence).count();
        let (Some(oldest), Some(newest)) =
            (self.in_flight.front(), count.checked_sub(1).and_then(|at| self.in_flight.get(at)))
        else {
            return Receipt::Stale;
        };
        let (first, started_at) = (oldest.sequence, oldest.started_at);
        let (took, newest_sent_at) = (now.duration_since(self.since(oldest)), newest.instant);
        let bytes = &mut self.bytes;
        let slots = self.in_flight.drain(..count).map(|sent| {
            *bytes -= sent.bytes;
            sent.slot
        });
        self.cadence.confirmed(slots, took, newest_sent_at, now);
        self.position = sequence;
        self.progress_at = Some(now);
        Receipt::Confirmed { range: Range { first, last: sequence }, started_at }
    }

    /// When the oldest unconfirmed event's turn came: when it was sent, or at the
    /// last progress.
    fn since(&self, oldest: &Sent) -> Instant {
        self.progress_at.map_or(oldest.instant, |at| at.max(oldest.instant))
    }

    /// Until when there must be progress. Events that share a ping have no more
    /// time than a single one: the [`cadence`](super::cadence) groups no more
    /// of them than fit well into it.
    pub fn confirmation_deadline(&self, confirmation_timeout: Duration) -> Option<Instant> {
        let oldest = self.in_flight.front()?;
        Some(self.since(oldest) + confirmation_timeout)
    }

    /// The connection has ended. The oldest unconfirmed event is to blame, because
    /// the gateway was handling it. If it shares a ping with the next one, either
    /// may be to blame, and neither is given up: the next connection begins with
    /// a ping for each event.
    pub fn close(self, reason: Reason, patience: Patience) -> Closing {
        let Some(oldest) = self.in_flight.front() else {
            return Closing { unconfirmed: None, give_up_after: None };
        };
        let may_give_up = patience.poison == Policy::DeadLetter
            && self.in_flight.get(1).is_none_or(|next| !next.shares_ping)
            && reason.blames_the_event();
        let range = Range { first: oldest.sequence, last: self.sent };
        Closing {
            unconfirmed: Some((range, oldest.started_at)),
            give_up_after: may_give_up.then_some(patience.max_attempts),
        }
    }
}

#[cfg(test)]
mod tests;
