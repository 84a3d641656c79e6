//! What may be sent on a connection, and what a receipt, a silence and an end
//! mean. Decides and does nothing else: no clock, no IO; instants are
//! arguments. Everything up to `position` is settled (confirmed or passed
//! over), everything up to `sent` is on its way.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Policy;
use super::rhythm::Rhythm;
use crate::clock::Timestamp;
use crate::event::{Reason, Sequence};
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
    /// One answer may stand for so many events, this one among them.
    stride: u8,
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
    rhythm: Rhythm,
}

impl Window {
    /// Starts behind `position`. Events up to `suspect` are confirmed one by one, so
    /// that it is known which of them makes a connection fail.
    pub fn new(limits: Limits, position: Sequence, suspect: Sequence, rhythm: Rhythm) -> Self {
        Self {
            limits,
            position,
            sent: position,
            in_flight: VecDeque::new(),
            bytes: 0,
            progress_at: None,
            suspect,
            rhythm,
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

    /// One of so many events, of which this is the first, is to be followed by a
    /// question for its receipt.
    pub fn stride(&self, sequence: Sequence) -> u8 {
        if sequence <= self.suspect { 1 } else { self.rhythm.stride() }
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

    /// Takes an event that is about to be sent.
    pub fn offer(
        &mut self,
        sequence: Sequence,
        bytes: usize,
        sent_at: Instant,
        started_at: Timestamp,
    ) -> Result<(), Refusal> {
        if self.sent >= Sequence::MAX || sequence != self.sent.next() {
            return Err(Refusal::NotNext);
        }
        if !self.has_room(bytes) {
            return Err(Refusal::Full);
        }
        self.sent = sequence;
        self.bytes += bytes;
        self.in_flight.push_back(Sent {
            sequence,
            bytes,
            instant: sent_at,
            started_at,
            stride: self.stride(sequence),
        });
        Ok(())
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
        let Some(oldest) = self.in_flight.front().filter(|oldest| oldest.sequence <= sequence)
        else {
            return Receipt::Stale;
        };
        let Sent { sequence: first, started_at, instant, .. } = *oldest;
        while let Some(sent) = self.in_flight.pop_front_if(|sent| sent.sequence <= sequence) {
            self.bytes -= sent.bytes;
        }
        self.position = sequence;
        self.progress_at = Some(now);
        self.rhythm.answered(now.duration_since(instant));
        Receipt::Confirmed { range: Range { first, last: sequence }, started_at }
    }

    /// Until when the oldest unconfirmed event must be confirmed: its time
    /// runs from when it was sent, or from the last progress, for its turn
    /// may have come only then. Those that may be confirmed together have the
    /// time of all of them.
    pub fn confirmation_deadline(&self, confirmation_timeout: Duration) -> Option<Instant> {
        let oldest = self.in_flight.front()?;
        let since = self.progress_at.map_or(oldest.instant, |at| at.max(oldest.instant));
        let together = u32::try_from(self.in_flight.len()).unwrap_or(u32::MAX);
        Some(since + confirmation_timeout * together.min(oldest.stride.into()))
    }

    /// The connection has ended. Blame falls on the oldest unconfirmed event: the
    /// gateway was at that one. If it was one of several that would have been
    /// confirmed together, nobody can say that, and none of them is given up:
    /// the next connection begins with asking after each one.
    pub fn close(self, reason: Reason, patience: Patience) -> Closing {
        let Some(oldest) = self.in_flight.front() else {
            return Closing { unconfirmed: None, give_up_after: None };
        };
        let may_give_up = patience.poison == Policy::DeadLetter
            && oldest.stride == 1
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
