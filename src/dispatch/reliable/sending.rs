//! What a lane of reliable mode sends, and when.

use tokio::sync::mpsc::Permit;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use super::super::in_flight::logged;
use super::super::lane::{LATE_EXPIRY, size};
use super::super::log_reader::Item;
use super::window::Refusal;
use super::{Lane, State};
use crate::clock::Timestamp;
use crate::event::{Event, Reason, Sequence};
use crate::store::{Gap, GapReason, OutboxRow};
use crate::transport::{self, Mark, Outgoing, OutgoingEvent, Resumed};

/// What happened to an item that was ready.
enum Sent {
    Done,
    LinkFull,
    /// It must wait for a confirmation, or the connection is ending.
    Refused,
}

/// What is to be done with an item.
enum Step {
    PassOver,
    Filter(Sequence),
    Skip(Sequence, Reason),
    SkipRejected(Sequence),
    SkipExpired(OutboxRow),
    Gap(Sequence, GapReason),
    Send(OutboxRow, Option<std::time::Instant>),
}

impl Lane {
    /// Sends what is ready and fits; nothing new while delivery is paused. Returns true if only the
    /// link has no room.
    pub(super) fn send_ready(&mut self, state: &mut State) -> bool {
        if state.wind_down.is_some() {
            return false;
        }
        // First of all, because the reader does not wait while it is outdated.
        self.reader.refresh(match &self.gap {
            Some(gap) => gap.resume_at,
            None if self.window.has_gap() => self.window.sent(),
            None => self.window.position(),
        });
        if let Some(is_full) = self.begin(state) {
            return is_full;
        }
        let (now, at) = (Timestamp::now(), Instant::now());
        while let Some(step) = self.next_step(now) {
            let sent = match step {
                Step::PassOver => {
                    self.pass_over(state);
                    Sent::Done
                }
                Step::Filter(last) => self.filter(state, last),
                Step::Skip(last, reason) => self.skip(state, last, reason),
                Step::SkipRejected(sequence) => {
                    self.pass(state, |window| window.skip_rejected(sequence))
                }
                Step::SkipExpired(row) => self.skip_expired(state, &row),
                Step::Gap(last, reason) => self.send_gap(state, last, reason),
                Step::Send(row, committed_at) => {
                    let sent = self.send(state, row, now, at);
                    if let (Sent::Done, Some(committed_at)) = (&sent, committed_at) {
                        state.metrics.dispatch_delay.record(committed_at.elapsed());
                    }
                    sent
                }
            };
            match sent {
                Sent::Done => {}
                Sent::LinkFull => return true,
                Sent::Refused => return false,
            }
        }
        self.mark(state)
    }

    /// What is to be done with the next item. `None` if there is none, or delivery is paused.
    fn next_step(&self, now: Timestamp) -> Option<Step> {
        let item = self.reader.front()?;
        if item.last() <= self.window.sent() {
            return Some(Step::PassOver);
        }
        if self.reader.is_paused() {
            return None;
        }
        Some(match item {
            Item::Lost(range, Reason::Retention) => Step::Gap(range.last, GapReason::Retention),
            Item::Lost(range, reason) => Step::Skip(range.last, *reason),
            Item::Event(row, committed_at) => {
                if !self.wants(&row.event) {
                    Step::Filter(row.sequence)
                } else if let Some(reason) = row.withheld {
                    match reason {
                        Reason::Purged => Step::Gap(self.last_purged(), GapReason::Purged),
                        reason => Step::Skip(row.sequence, reason),
                    }
                } else if self.window.was_rejected(row.sequence) {
                    Step::SkipRejected(row.sequence)
                } else if row.event.expires_at.is_some_and(|at| at <= now) {
                    Step::SkipExpired(row.clone())
                } else {
                    Step::Send(row.clone(), *committed_at)
                }
            }
        })
    }

    /// The last of the purged events that are next. One snapshot replaces them all.
    fn last_purged(&self) -> Sequence {
        let mut last = self.window.sent();
        for item in self.reader.ready() {
            match item {
                Item::Event(row, _)
                    if row.withheld == Some(Reason::Purged) && self.wants(&row.event) =>
                {
                    last = row.sequence;
                }
                _ => break,
            }
        }
        last
    }

    fn wants(&self, event: &Event) -> bool {
        self.types.as_ref().is_none_or(|types| types.contains(&event.event_type))
    }

    /// Announces to the peer what can't be delivered, and where delivery starts. `None` once it has,
    /// or whether the link has no room.
    fn begin(&mut self, state: &mut State) -> Option<bool> {
        if let Some(gap) = self.gap {
            let Some(slot) = self.slot() else { return Some(true) };
            slot.send(Box::new(self.gap_message(gap)));
            self.gap = None;
            self.window.resync(gap.resume_at);
            state.gap = Some(gap.reason);
        }
        if self.window.has_gap() {
            return Some(false);
        }
        if !state.is_resumed {
            let Some(slot) = self.slot() else { return Some(true) };
            let (from, head) = (self.window.announced(), self.reader.head());
            let resumed = Resumed { from, head, epoch: self.epoch };
            slot.send(Box::new(Outgoing::Resumed(resumed)));
            state.is_resumed = true;
        }
        None
    }

    /// The transport has not sent the events from `first` on. They are read from the log again.
    pub(super) fn take_back(&mut self, state: &mut State, first: Sequence) {
        self.window.take_back(first);
        state.in_flight.remove_from(first);
        self.reader.rewind(self.window.sent());
        state.is_resumed = false;
    }

    /// Room in the link. `None` if there is none, or if the transport is gone, which it reports.
    fn slot(&self) -> Option<Permit<'_, Box<Outgoing>>> {
        self.link.events.try_reserve().ok()
    }

    fn gap_message(&self, gap: Gap) -> Outgoing {
        let Gap { reason, from, to, resume_at } = gap;
        Outgoing::Gap(Box::new(transport::Gap {
            from,
            to,
            reason: match reason {
                GapReason::Retention => transport::GapReason::Retention,
                GapReason::Epoch => transport::GapReason::Epoch,
                GapReason::Purged => transport::GapReason::Purged,
                GapReason::Resync => transport::GapReason::Resync,
            },
            snapshot_url: self.snapshot_url.clone(),
            resume_at,
            epoch: self.epoch,
        }))
    }

    /// Announces to the peer that the next events up to `last` can't be delivered, once everything
    /// before them is settled.
    fn send_gap(&mut self, state: &mut State, last: Sequence, reason: GapReason) -> Sent {
        if !self.outcomes.has_room() {
            return Sent::Refused;
        }
        let Some(slot) = self.slot() else { return Sent::LinkFull };
        let from = self.window.sent().next();
        let message = self.gap_message(Gap { reason, from, to: last, resume_at: last });
        drop(slot);
        if self.window.gap(last).is_err() {
            return Sent::Refused;
        }
        let _ = self.link.events.try_send(Box::new(message));
        if reason == GapReason::Retention {
            tracing::warn!(
                gateway = %self.info.gateway_id,
                instance = &*self.info.instance,
                first = from.0,
                last = last.0,
                "retention has removed events that were never delivered"
            );
        }
        state.gap = Some(reason);
        while self.reader.front().is_some_and(|item| item.last() <= last) {
            self.reader.pop();
        }
        Sent::Done
    }

    /// Drops a row that was sent before it was read again. If an admin has skipped it meanwhile, the
    /// lane no longer waits for its confirmation.
    fn pass_over(&mut self, state: &mut State) {
        let Some(Item::Event(OutboxRow { sequence, withheld: Some(Reason::Skipped), .. }, _)) =
            self.reader.pop()
        else {
            return;
        };
        let settled = self.window.skip_sent(sequence, Instant::now());
        state.in_flight.remove(sequence);
        self.settled(state, settled, Instant::now());
    }

    fn send(&mut self, state: &mut State, row: OutboxRow, now: Timestamp, at: Instant) -> Sent {
        let OutboxRow { sequence, event, .. } = row;
        let bytes = size(&event);
        if !self.window.has_room(bytes) || !self.outcomes.has_room() {
            return Sent::Refused;
        }
        let slot = match self.link.events.try_reserve() {
            Ok(slot) => slot,
            Err(TrySendError::Full(())) => return Sent::LinkFull,
            // The transport reports why it has ended.
            Err(TrySendError::Closed(())) => return Sent::Refused,
        };
        let offered = match self.window.offer(sequence, bytes, at, now) {
            Ok(offered) => offered,
            Err(refusal) => {
                tracing::error!(
                    sequence = sequence.0,
                    ?refusal,
                    "failed to add an event to the window of unconfirmed events"
                );
                return Sent::Refused;
            }
        };
        self.registration.note_sent(sequence);
        state.in_flight.sent(sequence, &event, at);
        let (previous, attempt) = (offered.previous, offered.attempt);
        let outgoing = OutgoingEvent { sequence, previous, attempt, event, own_receipt: false };
        slot.send(Box::new(Outgoing::Event(outgoing)));
        self.reader.pop();
        state.metrics.written.increment(1);
        Sent::Done
    }

    fn filter(&mut self, state: &mut State, last: Sequence) -> Sent {
        self.pass(state, |window| window.filter(last))
    }

    fn skip(&mut self, state: &mut State, last: Sequence, reason: Reason) -> Sent {
        self.pass(state, |window| window.skip(last, reason))
    }

    fn skip_expired(&mut self, state: &mut State, row: &OutboxRow) -> Sent {
        let sent = self.skip(state, row.sequence, Reason::Expired);
        if let Sent::Done = sent {
            let before = state.connected_at.minus(LATE_EXPIRY);
            if row.event.expires_at.is_some_and(|at| at < before) {
                self.outcomes.expired_before(row.sequence);
            } else {
                self.outcomes.name(logged(row.sequence, &row.event));
            }
        }
        sent
    }

    /// Passes over what comes next.
    fn pass(
        &mut self,
        state: &mut State,
        step: impl FnOnce(&mut super::Window) -> Result<Vec<super::window::Settled>, Refusal>,
    ) -> Sent {
        if !self.outcomes.has_room() {
            return Sent::Refused;
        }
        let Ok(settled) = step(&mut self.window) else { return Sent::Refused };
        self.reader.pop();
        self.settled(state, settled, Instant::now());
        Sent::Done
    }

    /// Marks what was sent as complete, if the peer can't know: after skipped events, when it has
    /// caught up, and from time to time. Called when nothing is ready. Returns true if the link has
    /// no room.
    fn mark(&mut self, state: &mut State) -> bool {
        let (sent, head) = (self.window.sent(), self.reader.head());
        let needs_mark = state.wants_mark && sent > state.marked && sent >= head;
        if self.reader.front().is_some()
            || !self.window.takes_mark()
            || !(self.window.owes_mark() || needs_mark)
        {
            return false;
        }
        let Some(slot) = self.slot() else { return true };
        let mark = Mark { sequence: sent, head: head.max(sent) };
        slot.send(Box::new(Outgoing::Mark(mark)));
        self.window.mark();
        state.marked = sent;
        state.wants_mark = false;
        false
    }
}
