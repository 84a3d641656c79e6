//! The receipts of plain mode: which written events wait for a pong, and where pings are between
//! them.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::super::OutgoingEvent;
use super::cadence::{Cadence, PingBefore, Slot};
use crate::event::Sequence;

/// The maximum number of events that wait for a pong. A lane's window is smaller, so only a peer
/// that reports on deployments and answers no pings reaches it.
const MAX_WRITTEN_EVENTS: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Written {
    sequence: Sequence,
    at: Instant,
    /// The slot in which its type's handling time is measured.
    slot: Slot,
    /// Whether there is no ping between it and the next event.
    is_shared: bool,
}

/// The written events of one connection that no pong has confirmed.
#[derive(Debug)]
pub(super) struct Receipts {
    cadence: Cadence,
    written: VecDeque<Written>,
    last: Option<Sequence>,
    /// When a pong last confirmed something.
    progress_at: Option<Instant>,
}

impl Receipts {
    pub(super) fn new(confirmation_timeout: Duration) -> Self {
        Self {
            cadence: Cadence::new(confirmation_timeout),
            written: VecDeque::new(),
            last: None,
            progress_at: None,
        }
    }

    /// The last event that was written. Pings carry its sequence.
    pub(super) const fn last(&self) -> Option<Sequence> {
        self.last
    }

    /// Plans the ping before an event that is written now. `is_pinged` says that a ping was the
    /// last frame written.
    pub(super) fn plan(
        &mut self,
        outgoing: &OutgoingEvent,
        is_pinged: bool,
        now: Instant,
    ) -> PingBefore {
        let event_type = &outgoing.event.event_type;
        let (mut ping, slot) = self.cadence.plan(event_type, self.written.is_empty(), now);
        if ping == PingBefore::Unneeded && outgoing.own_receipt {
            ping = PingBefore::Between;
        }
        if ping == PingBefore::Unneeded
            && !is_pinged
            && let Some(previous) = self.written.back_mut()
        {
            previous.is_shared = true;
        }
        if self.written.len() >= MAX_WRITTEN_EVENTS {
            self.written.pop_front();
        }
        let sequence = outgoing.sequence;
        self.written.push_back(Written { sequence, at: now, slot, is_shared: false });
        ping
    }

    /// Records that an event was written to the socket.
    pub(super) fn wrote(&mut self, sequence: Sequence) {
        self.last = Some(sequence);
    }

    /// Handles a pong with this sequence.
    pub(super) fn pong(&mut self, sequence: Sequence, now: Instant) {
        let count = self.written.iter().take_while(|it| it.sequence <= sequence).count();
        let (Some(oldest), Some(newest)) =
            (self.written.front(), count.checked_sub(1).and_then(|at| self.written.get(at)))
        else {
            return;
        };
        let began = self.progress_at.map_or(oldest.at, |at| at.max(oldest.at));
        let (took, newest_at) = (now.duration_since(began), newest.at);
        let slots = self.written.drain(..count).map(|written| written.slot);
        self.cadence.confirmed(slots, took, newest_at, now);
        self.progress_at = Some(now);
    }

    /// The unconfirmed events that share a pong with the event after them.
    pub(super) fn shared(&self) -> Vec<Sequence> {
        self.written.iter().filter(|it| it.is_shared).map(|it| it.sequence).collect()
    }
}
