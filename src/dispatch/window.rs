//! What may be sent on a connection, and what receipts, silence and the end of the connection mean.
//! Makes decisions only: no clock, no I/O; instants are arguments. Everything up to `position` is
//! settled (confirmed or skipped), and everything up to `sent` was passed to the transport.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Policy;
use crate::clock::Timestamp;
use crate::event::{Reason, Sequence};
use crate::store::{Range, Unconfirmed};

/// How much may be unconfirmed at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Events.
    pub events: usize,
    /// Their size in bytes. A single larger event is sent alone.
    pub bytes: usize,
}

/// When delivery of an event is given up.
#[derive(Clone, Copy, Debug)]
pub struct GiveUpPolicy {
    /// Attempts, on any connections, before the event counts as poison.
    pub max_attempts: u32,
    /// What happens to poison events.
    pub poison: Policy,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: Sequence,
    bytes: usize,
    instant: Instant,
    started_at: Timestamp,
}

/// Why the window refuses an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not the next sequence.
    NotNext,
    /// Something must be confirmed first.
    Full,
}

/// The effect of a receipt on the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// It confirms events.
    Confirmed {
        /// The confirmed sequences.
        range: Range,
        /// When the first of them was sent.
        started_at: Timestamp,
    },
    /// Nothing: it repeats an earlier one, or is older.
    Stale,
    /// A sequence that was never sent. It confirms nothing.
    BeyondSent,
}

/// What the end of a connection leaves unconfirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closing {
    /// The unconfirmed events, in order.
    pub unconfirmed: Vec<Unconfirmed>,
    /// Whether the gateway has reported progress on the first of them.
    pub is_in_progress: bool,
    /// The first of them is given up after this many attempts; `None`: it is not.
    pub give_up_after: Option<u32>,
}

/// The events that one connection in plain mode was sent and has not confirmed, and the limits on
/// them. Decides what may be sent and what a receipt confirms; does no I/O.
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
    /// Events that were settled without a receipt, in order, and when each was sent. The gateway may
    /// still be handling them, and confirm them.
    settled: VecDeque<(Sequence, Timestamp)>,
}

impl Window {
    /// Starts after `position`. Events up to `suspect` get receipts of their own, so
    /// that it is known which of them makes a connection fail.
    pub fn new(limits: Limits, position: Sequence, suspect: Sequence) -> Self {
        Self {
            limits,
            position,
            sent: position,
            in_flight: VecDeque::new(),
            bytes: 0,
            progress_at: None,
            suspect,
            settled: VecDeque::new(),
        }
    }

    /// Everything up to here was confirmed or skipped.
    pub const fn position(&self) -> Sequence {
        self.position
    }

    /// Everything up to here was sent or skipped.
    pub const fn sent(&self) -> Sequence {
        self.sent
    }

    /// Whether nothing is unconfirmed.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether the receipt of the events before `sequence` must not include it.
    pub fn needs_own_receipt(&self, sequence: Sequence) -> bool {
        sequence <= self.suspect.next()
    }

    /// Whether an event of this size may be sent now.
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
        self.in_flight.push_back(Sent { sequence, bytes, instant: sent_at, started_at });
        Ok(())
    }

    /// Skips what will never be sent, up to `last`. Refused while anything is
    /// unconfirmed, so that confirmed and lost ranges contain no gaps.
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

    /// Settles an unconfirmed event without a receipt: an admin has skipped it. This
    /// restarts the confirmation timeout of the events after it. Returns false if it is not in flight.
    pub fn settle(&mut self, sequence: Sequence, now: Instant) -> bool {
        let Some(place) = self.in_flight.iter().position(|sent| sent.sequence == sequence) else {
            return false;
        };
        let Some(sent) = self.in_flight.remove(place) else { return false };
        self.bytes -= sent.bytes;
        self.progress_at = Some(now);
        // A gateway that confirms nothing must not make this list long.
        if self.settled.len() >= self.limits.events {
            self.settled.pop_front();
        }
        let place = self.settled.partition_point(|(other, _)| *other < sequence);
        self.settled.insert(place, (sequence, sent.started_at));
        true
    }

    /// Moves the position past events that were settled without a receipt, and that nothing before
    /// them holds back any more. Returns them.
    pub fn pass_settled(&mut self) -> Option<Range> {
        let first = self.position.next();
        for (sequence, _) in &self.settled {
            if *sequence == self.position.next() {
                self.position = *sequence;
            }
        }
        (self.position >= first).then_some(Range { first, last: self.position })
    }

    /// Removes and returns the events up to `sequence` that were settled without a receipt, and when
    /// each was sent: the gateway has confirmed them, too.
    pub fn take_settled(
        &mut self,
        sequence: Sequence,
    ) -> impl Iterator<Item = (Sequence, Timestamp)> {
        let count = self.settled.partition_point(|(settled, _)| *settled <= sequence);
        self.settled.drain(..count)
    }

    /// The peer has handled everything up to `sequence`.
    pub fn receipt(&mut self, sequence: Sequence, now: Instant) -> Receipt {
        if sequence > self.sent {
            return Receipt::BeyondSent;
        }
        let count = self.in_flight.iter().take_while(|sent| sent.sequence <= sequence).count();
        let Some(oldest) = self.in_flight.front().filter(|_| count > 0) else {
            return Receipt::Stale;
        };
        let (first, started_at) = (oldest.sequence, oldest.started_at);
        self.bytes -= self.in_flight.drain(..count).map(|sent| sent.bytes).sum::<usize>();
        self.position = sequence;
        self.progress_at = Some(now);
        Receipt::Confirmed { range: Range { first, last: sequence }, started_at }
    }

    /// Until when there must be progress: since the oldest unconfirmed event was
    /// sent, or since the last receipt. Events that share a receipt have no more
    /// time than a single one, so a transport groups no more of them than fit well
    /// into it.
    pub fn confirmation_deadline(&self, confirmation_timeout: Duration) -> Option<Instant> {
        let oldest = self.in_flight.front()?;
        let since = self.progress_at.map_or(oldest.instant, |at| at.max(oldest.instant));
        Some(since + confirmation_timeout)
    }

    /// The connection has ended. The failure is attributed to the oldest unconfirmed
    /// event, which the gateway was handling. If it was to share a receipt with the
    /// next one (`shared`), either may be the cause, and neither is given up: the next
    /// connection gives each event a receipt of its own. `None` means that the
    /// transport did not say, with the same consequence; so has an event that was settled without a
    /// receipt, which may be the cause, too.
    pub fn close(
        self,
        reason: Reason,
        shared: Option<&[Sequence]>,
        give_up: GiveUpPolicy,
    ) -> Closing {
        let Some(oldest) = self.in_flight.front() else {
            return Closing::default();
        };
        let is_alone = self.in_flight.len() == 1
            || shared.is_some_and(|shared| !shared.contains(&oldest.sequence));
        let may_give_up = give_up.poison == Policy::DeadLetter
            && is_alone
            && self.settled.is_empty()
            && reason.is_attributed_to_the_event();
        let range = Range { first: oldest.sequence, last: self.sent };
        Closing {
            unconfirmed: vec![Unconfirmed { range, started_at: oldest.started_at }],
            is_in_progress: false,
            give_up_after: may_give_up.then_some(give_up.max_attempts),
        }
    }
}

#[cfg(test)]
mod tests;
