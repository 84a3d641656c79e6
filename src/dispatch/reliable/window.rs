//! What may be sent to a gateway that acknowledges events, and what its messages mean. Makes
//! decisions only: no clock, no I/O; instants are arguments.
//!
//! Sequences pass through in order. Those between `position` and `sent` are *open*: events that wait
//! for a confirmation, skipped ones that wait for the events before them, or a gap. The oldest ones
//! are *settled* as soon as they can be, which moves the position.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::super::Policy;
use super::super::window::{Closing, GiveUpPolicy, Limits};
use crate::clock::Timestamp;
use crate::event::{Reason, Sequence};
use crate::store::{EarlierNacks, Level, Range, Unconfirmed};
use crate::transport::{Credit, Violation};

/// The most runs of events that are received and not applied, on a connection that confirms the
/// former, and of those that are unconfirmed at its end. What exceeds them is not recorded.
const MAX_RUNS: usize = 256;

/// Consecutive open sequences with the same fate.
#[derive(Clone, Debug)]
struct Open {
    range: Range,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// A single event that was sent.
    Sent {
        bytes: usize,
        instant: Instant,
        started_at: Timestamp,
        /// The last sequence that was announced to the peer before it.
        previous: Sequence,
    },
    /// A single event that the peer has rejected, or that failed too often. That is recorded.
    Rejected(Reason),
    /// Not sent, because the peer filters these types.
    Filtered,
    /// Not sent, for this reason.
    Skipped(Reason),
    /// Can't be sent. The peer reads a snapshot instead, and applies the last sequence then.
    Gap,
}

/// An event that an admin has skipped while it was in flight.
#[derive(Clone, Copy, Debug)]
struct SkippedSent {
    sequence: Sequence,
    started_at: Timestamp,
    /// The last sequence that was announced to the peer before it.
    previous: Sequence,
}

/// The history of an event that is to be sent again.
#[derive(Clone, Copy, Debug, Default)]
struct Repeat {
    /// How many times it was sent.
    sent: u32,
    /// How many of these times the peer could not apply it.
    nacked: u32,
}

/// What has been settled, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Confirmed by the peer.
    Confirmed {
        /// The confirmed sequences.
        range: Range,
        /// When the first of them was sent.
        started_at: Timestamp,
    },
    /// Given up before, for a reason that the peer stated.
    Rejected(Range, Reason),
    /// Filtered by the peer.
    Filtered(Range),
    /// Skipped for a reason.
    Skipped(Range, Reason),
    /// The peer has read its snapshot.
    Gap(Range),
}

/// An event that may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offered {
    /// The last sequence that was announced to the peer before it.
    pub(crate) previous: Sequence,
    /// How many times it has been sent, this time and those that earlier connections rejected included.
    pub(crate) attempt: u32,
}

/// Why the window takes no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is not the next sequence.
    NotNext,
    /// Something must be confirmed first, or there is no credit.
    Full,
}

/// What an acknowledgement means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    /// What it settles.
    pub(crate) settled: Vec<Settled>,
    /// What it acknowledges besides, at the level that settles nothing, and when the first event of
    /// each run was sent, if that is known.
    pub(crate) also: Vec<(Range, Option<Timestamp>)>,
}

/// What a negative acknowledgement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nacked {
    /// Nothing: it repeats an earlier one, or rejects an event that was skipped meanwhile.
    Stale,
    /// The event was skipped meanwhile. Only those after it are sent again.
    Passed,
    /// The event and all after it are sent again.
    Retry {
        /// When the event was sent.
        started_at: Timestamp,
    },
    /// The event is given up.
    Rejected {
        /// When the event was sent.
        started_at: Timestamp,
    },
}

/// One connection's window.
#[derive(Debug)]
pub(crate) struct Window {
    /// The server's limits.
    most: Limits,
    /// The current limits. Zero pauses delivery.
    limits: Limits,
    /// The level whose acknowledgement settles events.
    confirms: Level,
    position: Sequence,
    sent: Sequence,
    /// The highest sequence that was ever announced to the peer. It may acknowledge up to here.
    highest: Sequence,
    /// What the peer has acknowledged.
    received: Sequence,
    applied: Sequence,
    /// Runs of events that are received and not applied, if that is what the peer confirms.
    unapplied: VecDeque<Range>,
    /// The last sequence that was announced to the peer: the `previous` of the next event.
    announced: Sequence,
    open: VecDeque<Open>,
    in_flight: usize,
    bytes: usize,
    /// When the peer last confirmed something, or said that it is still busy.
    progress_at: Option<Instant>,
    /// When the next event may be sent, after a negative acknowledgement.
    retry_at: Option<Instant>,
    /// The history of events that are to be sent again.
    repeats: BTreeMap<Sequence, Repeat>,
    /// Events that were rejected or given up, and lie after what is sent next. They are passed over.
    rejected: BTreeMap<Sequence, Reason>,
    /// An event up to here may have made an earlier connection fail. Each is sent alone.
    suspect: Sequence,
    /// Events in flight that an admin has skipped, in order. The peer may still be handling them, and
    /// confirm them or ask for a retry.
    skipped: VecDeque<SkippedSent>,
    /// Events in flight on which the peer has reported progress.
    busy: BTreeSet<Sequence>,
    /// Whether the peer waits for an event to be sent again, or for the one after it. It ignores marks,
    /// because they may be some from before its negative acknowledgement.
    awaits_repeat: bool,
}

impl Window {
    /// Starts after `position`.
    pub(crate) fn new(
        most: Limits,
        confirms: Level,
        position: Sequence,
        suspect: Sequence,
    ) -> Self {
        Self {
            most,
            limits: most,
            confirms,
            position,
            sent: position,
            highest: position,
            received: position,
            applied: position,
            unapplied: VecDeque::new(),
            announced: position,
            open: VecDeque::new(),
            in_flight: 0,
            bytes: 0,
            progress_at: None,
            retry_at: None,
            repeats: BTreeMap::new(),
            rejected: BTreeMap::new(),
            suspect,
            skipped: VecDeque::new(),
            busy: BTreeSet::new(),
            awaits_repeat: false,
        }
    }

    /// Continues the history of events that earlier connections could not apply. Those that were given
    /// up are not sent again, even if the peer starts before them.
    pub(crate) fn nacked_before(&mut self, nacked: &[EarlierNacks], give_up: GiveUpPolicy) {
        for EarlierNacks { sequence, count, reason, is_given_up } in nacked.iter().copied() {
            let is_poison = give_up.poison == Policy::DeadLetter && count >= give_up.max_attempts;
            if is_given_up || is_poison {
                self.rejected.insert(sequence, reason);
            } else {
                self.repeats.insert(sequence, Repeat { sent: count, nacked: count });
            }
        }
    }

    /// Everything up to here is settled.
    pub(crate) const fn position(&self) -> Sequence {
        self.position
    }

    /// Everything up to here was sent or skipped.
    pub(crate) const fn sent(&self) -> Sequence {
        self.sent
    }

    /// The level whose acknowledgement settles events.
    pub(crate) const fn confirms(&self) -> Level {
        self.confirms
    }

    /// The last sequence that was announced to the peer.
    pub(crate) const fn announced(&self) -> Sequence {
        self.announced
    }

    /// Whether no event is unconfirmed.
    pub(crate) const fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// Whether the peer has yet to read its snapshot.
    pub(crate) fn has_gap(&self) -> bool {
        self.open.back().is_some_and(|open| matches!(open.what, What::Gap))
    }

    /// When the next event may be sent, if that is after a pause that the peer has asked for.
    pub(crate) const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Ends the pause after a negative acknowledgement.
    pub(crate) fn retry(&mut self) {
        self.retry_at = None;
    }

    /// Whether an event of this size may be sent now.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        if self.retry_at.is_some() || self.has_gap() {
            return false;
        }
        if self.limits.events == 0 || self.limits.bytes == 0 {
            return false;
        }
        if self.in_flight == 0 {
            return true;
        }
        self.sent > self.suspect
            && !self.is_crowded()
            && self.in_flight < self.limits.events
            && self.bytes.saturating_add(bytes) <= self.limits.bytes
    }

    /// Takes an event that is about to be sent.
    pub(crate) fn offer(
        &mut self,
        sequence: Sequence,
        bytes: usize,
        instant: Instant,
        started_at: Timestamp,
    ) -> Result<Offered, Refusal> {
        if self.sent >= Sequence::MAX || sequence != self.sent.next() {
            return Err(Refusal::NotNext);
        }
        if !self.has_room(bytes) {
            return Err(Refusal::Full);
        }
        let previous = self.announced;
        let attempt = self.repeats.get(&sequence).map_or(1, |it| it.sent.saturating_add(1));
        self.in_flight += 1;
        self.bytes += bytes;
        let range = Range { first: sequence, last: sequence };
        let what = What::Sent { bytes, instant, started_at, previous };
        self.open.push_back(Open { range, what });
        self.announced = sequence;
        self.awaits_repeat = false;
        self.pass(sequence);
        Ok(Offered { previous, attempt })
    }

    /// Passes over sequences up to `last` whose types the peer does not want. Returns what is
    /// settled by that.
    pub(crate) fn filter(&mut self, last: Sequence) -> Result<Vec<Settled>, Refusal> {
        self.pass_over(last, What::Filtered)
    }

    /// Passes over sequences up to `last` that will never be sent.
    pub(crate) fn skip(&mut self, last: Sequence, reason: Reason) -> Result<Vec<Settled>, Refusal> {
        // What comes next is the event that was to be sent again.
        self.retry_at = None;
        self.pass_over(last, What::Skipped(reason))
    }

    /// The peer is to be sent all events after this one again, but not this one, of which it has asked
    /// for a retry: it was rejected too often. [`nack`](Self::nack) precedes.
    pub(crate) fn give_up(&mut self, sequence: Sequence, reason: Reason) {
        self.rejected.insert(sequence, reason);
        self.retry_at = None;
    }

    /// Whether an event was rejected or given up before it is its turn.
    pub(crate) fn was_rejected(&self, sequence: Sequence) -> bool {
        self.rejected.contains_key(&sequence)
    }

    /// Passes over an event that [was rejected](Self::was_rejected).
    pub(crate) fn skip_rejected(&mut self, sequence: Sequence) -> Result<Vec<Settled>, Refusal> {
        let reason = self.rejected.get(&sequence).copied().ok_or(Refusal::NotNext)?;
        let settled = self.pass_over(sequence, What::Rejected(reason))?;
        self.rejected.remove(&sequence);
        Ok(settled)
    }

    fn pass_over(&mut self, last: Sequence, what: What) -> Result<Vec<Settled>, Refusal> {
        if last <= self.sent || last > Sequence::MAX {
            return Err(Refusal::NotNext);
        }
        if self.retry_at.is_some() || self.has_gap() || self.is_crowded() && !self.continues(&what)
        {
            return Err(Refusal::Full);
        }
        let first = self.sent.next();
        match self.open.back_mut() {
            Some(open) if same(&open.what, &what) => open.range.last = last,
            _ => self.open.push_back(Open { range: Range { first, last }, what }),
        }
        self.pass(last);
        Ok(self.settle())
    }

    /// Whether too much waits for the oldest event, such as events that were rejected out of order.
    fn is_crowded(&self) -> bool {
        self.open.len() >= self.most.events.saturating_mul(4)
    }

    /// Whether this can be added without taking more memory.
    fn continues(&self, what: &What) -> bool {
        self.open.back().is_some_and(|open| same(&open.what, what))
    }

    fn pass(&mut self, last: Sequence) {
        self.sent = last;
        self.highest = self.highest.max(last);
    }

    /// Begins a gap up to `last`. Refused while events are unconfirmed.
    pub(crate) fn gap(&mut self, last: Sequence) -> Result<Range, Refusal> {
        if last < self.sent || last > Sequence::MAX {
            return Err(Refusal::NotNext);
        }
        if !self.open.is_empty() {
            return Err(Refusal::Full);
        }
        Ok(self.begin_gap(last))
    }

    /// Begins a gap up to `last` that replaces everything that is open.
    pub(crate) fn resync(&mut self, last: Sequence) -> Range {
        self.open.clear();
        self.rejected.clear();
        self.skipped.clear();
        self.busy.clear();
        (self.in_flight, self.bytes) = (0, 0);
        self.retry_at = None;
        self.begin_gap(last.max(self.highest))
    }

    fn begin_gap(&mut self, last: Sequence) -> Range {
        // Empty if the log is: then `last` is the position.
        let range = Range { first: self.position.next(), last };
        self.open.push_back(Open { range, what: What::Gap });
        self.announced = last;
        self.awaits_repeat = false;
        self.pass(last);
        range
    }

    /// Whether the last sequences were not announced to the peer, because they were skipped.
    pub(crate) fn owes_mark(&self) -> bool {
        self.announced < self.sent && self.takes_mark()
    }

    /// Whether the peer understands a mark now.
    pub(crate) fn takes_mark(&self) -> bool {
        self.retry_at.is_none() && !self.awaits_repeat && !self.has_gap()
    }

    /// Marks everything up to `sent` as complete.
    pub(crate) fn mark(&mut self) -> Sequence {
        self.announced = self.sent;
        self.sent
    }

    /// The peer has received everything up to `sequence`.
    pub(crate) fn received(
        &mut self,
        sequence: Sequence,
        now: Instant,
    ) -> Result<Acknowledged, Violation> {
        if sequence > self.highest {
            return Err(Violation::BeyondSent(sequence));
        }
        // What is to be sent again is confirmed only after that.
        let (before, sequence) = (self.received, sequence.min(self.sent));
        if sequence <= before {
            return Ok(Acknowledged::default());
        }
        self.received = sequence;
        Ok(match self.confirms {
            Level::Received => Acknowledged { settled: self.confirmed(now), also: Vec::new() },
            Level::Applied => {
                Acknowledged { settled: Vec::new(), also: self.in_flight_within(before, sequence) }
            }
        })
    }

    /// The peer has applied everything up to `sequence`.
    pub(crate) fn applied(
        &mut self,
        sequence: Sequence,
        now: Instant,
    ) -> Result<Acknowledged, Violation> {
        if sequence > self.highest {
            return Err(Violation::BeyondSent(sequence));
        }
        let sequence = sequence.min(self.sent);
        // The end of a gap may have been applied before, in another epoch.
        if sequence < self.applied || sequence == self.applied && !self.has_gap() {
            return Ok(Acknowledged::default());
        }
        self.applied = sequence;
        self.received = self.received.max(sequence);
        let settled = self.confirmed(now);
        let also = match self.confirms {
            Level::Received => self.take_unapplied(sequence),
            Level::Applied => Vec::new(),
        };
        Ok(Acknowledged { settled, also })
    }

    /// The runs of events in flight after `before`, up to `last`.
    fn in_flight_within(
        &self,
        before: Sequence,
        last: Sequence,
    ) -> Vec<(Range, Option<Timestamp>)> {
        let mut runs: Vec<(Range, Option<Timestamp>)> = Vec::new();
        for Open { range, what } in &self.open {
            let What::Sent { started_at, .. } = *what else { continue };
            if range.first <= before || range.last > last {
                continue;
            }
            match runs.last_mut() {
                Some((run, _)) if run.last.next() == range.first => run.last = range.last,
                _ => runs.push((*range, Some(started_at))),
            }
        }
        runs
    }

    /// Takes the runs of events up to `last` that were received and are applied now.
    fn take_unapplied(&mut self, last: Sequence) -> Vec<(Range, Option<Timestamp>)> {
        let mut runs = Vec::new();
        while let Some(run) = self.unapplied.front_mut().filter(|run| run.first <= last) {
            if run.last > last {
                runs.push((Range { first: run.first, last }, None));
                run.first = last.next();
                break;
            }
            runs.push((*run, None));
            self.unapplied.pop_front();
        }
        runs
    }

    fn note_unapplied(&mut self, range: Range) {
        if range.last <= self.applied {
            return;
        }
        match self.unapplied.back_mut() {
            Some(run) if run.last.next() == range.first => run.last = range.last,
            _ => {
                if self.unapplied.len() >= MAX_RUNS {
                    self.unapplied.pop_front();
                }
                self.unapplied.push_back(range);
            }
        }
    }

    fn confirmed(&mut self, now: Instant) -> Vec<Settled> {
        let mut settled = self.settle();
        if !settled.is_empty() {
            self.progress_at = Some(now);
        }
        let confirmation = self.confirmation();
        let count = self.skipped.partition_point(|it| it.sequence <= confirmation);
        settled.extend(self.skipped.drain(..count).map(|it| {
            let range = Range { first: it.sequence, last: it.sequence };
            Settled::Confirmed { range, started_at: it.started_at }
        }));
        settled
    }

    /// The last sequence whose confirmation settles events.
    fn confirmation(&self) -> Sequence {
        match self.confirms {
            Level::Received => self.received,
            Level::Applied => self.applied,
        }
    }

    /// Settles the oldest open sequences, as far as possible.
    fn settle(&mut self) -> Vec<Settled> {
        let confirmation = self.confirmation();
        let mut all: Vec<Settled> = Vec::new();
        while let Some(open) = self.open.front() {
            let range = open.range;
            let settled = match open.what {
                What::Sent { bytes, started_at, .. } if range.last <= confirmation => {
                    self.in_flight -= 1;
                    self.bytes -= bytes;
                    Settled::Confirmed { range, started_at }
                }
                What::Gap if range.last <= self.applied => Settled::Gap(range),
                What::Sent { .. } | What::Gap => break,
                What::Rejected(reason) => Settled::Rejected(range, reason),
                What::Filtered => Settled::Filtered(range),
                What::Skipped(reason) => Settled::Skipped(range, reason),
            };
            self.open.pop_front();
            self.position = range.last;
            if matches!(settled, Settled::Confirmed { .. }) && self.confirms == Level::Received {
                self.note_unapplied(range);
            }
            if let (
                Some(Settled::Confirmed { range: before, .. }),
                Settled::Confirmed { range, .. },
            ) = (all.last_mut(), settled)
            {
                before.last = range.last;
            } else {
                all.push(settled);
            }
        }
        if !self.repeats.is_empty() {
            self.repeats = self.repeats.split_off(&self.position.next());
        }
        if !self.rejected.is_empty() {
            self.rejected = self.rejected.split_off(&self.position.next());
        }
        if !self.busy.is_empty() {
            self.busy = self.busy.split_off(&self.position.next());
        }
        all
    }

    /// An admin has skipped an event that may have been sent. Returns what is settled by that, and
    /// nothing if it is not in flight.
    pub(crate) fn skip_sent(&mut self, sequence: Sequence, now: Instant) -> Vec<Settled> {
        let Some(place) = self.place(sequence) else { return Vec::new() };
        if let Some(open) = self.open.get_mut(place)
            && let What::Sent { bytes, started_at, previous, .. } = open.what
        {
            open.what = What::Skipped(Reason::Skipped);
            self.in_flight -= 1;
            self.bytes -= bytes;
            self.progress_at = Some(now);
            // A peer that confirms nothing must not make this list long.
            if self.skipped.len() >= self.most.events {
                self.skipped.pop_front();
            }
            let place = self.skipped.partition_point(|it| it.sequence < sequence);
            self.skipped.insert(place, SkippedSent { sequence, started_at, previous });
        }
        self.settle()
    }

    /// How many times the peer could not apply an event that was sent again.
    pub(crate) fn nacks(&self, sequence: Sequence) -> u32 {
        self.repeats.get(&sequence).map_or(0, |it| it.nacked)
    }

    /// The place of an event in flight.
    fn place(&self, sequence: Sequence) -> Option<usize> {
        let place = self.open.partition_point(|open| open.range.last < sequence);
        let open = self.open.get(place)?;
        let is_in_flight = matches!(open.what, What::Sent { .. }) && open.range.first == sequence;
        is_in_flight.then_some(place)
    }

    /// The peer could not apply an event, for this reason. If it is to be sent again, nothing is sent
    /// until `retry_at`. Otherwise [`settle_rejected`](Self::settle_rejected) follows.
    pub(crate) fn nack(
        &mut self,
        sequence: Sequence,
        reason: Reason,
        retry_at: Option<Instant>,
    ) -> Result<Nacked, Violation> {
        if sequence > self.highest {
            return Err(Violation::BeyondSent(sequence));
        }
        let Some(place) = self.place(sequence) else {
            if sequence <= self.confirmation() {
                return Err(Violation::Confirmed(sequence));
            }
            // It is to be sent again, was rejected before, or was skipped.
            let place = self.skipped.iter().position(|it| it.sequence == sequence);
            let Some(skipped) = place.and_then(|place| self.skipped.remove(place)) else {
                return Ok(Nacked::Stale);
            };
            // What precedes a gap does not matter to the peer any more.
            if retry_at.is_none() || self.has_gap() {
                return Ok(Nacked::Stale);
            }
            self.go_back(sequence.next());
            self.announced = skipped.previous;
            return Ok(Nacked::Passed);
        };
        let Some(Open { what: What::Sent { bytes, started_at, previous, .. }, .. }) =
            self.open.get(place).cloned()
        else {
            return Ok(Nacked::Stale);
        };
        let Some(retry_at) = retry_at else {
            if let Some(open) = self.open.get_mut(place) {
                open.what = What::Rejected(reason);
            }
            self.in_flight -= 1;
            self.bytes -= bytes;
            return Ok(Nacked::Rejected { started_at });
        };
        self.go_back(sequence);
        let repeat = self.repeats.entry(sequence).or_default();
        repeat.nacked = repeat.nacked.saturating_add(1);
        self.announced = previous;
        self.retry_at = Some(retry_at);
        Ok(Nacked::Retry { started_at })
    }

    /// Everything from `first` on is sent again, unless it is settled: the peer drops it, because it
    /// waits for an earlier event.
    fn go_back(&mut self, first: Sequence) {
        let place = self.open.partition_point(|open| open.range.first < first);
        for open in self.open.drain(place..) {
            match open.what {
                What::Sent { bytes, .. } => {
                    self.in_flight -= 1;
                    self.bytes -= bytes;
                    let repeat = self.repeats.entry(open.range.first).or_default();
                    repeat.sent = repeat.sent.saturating_add(1);
                }
                What::Rejected(reason) => {
                    self.rejected.insert(open.range.first, reason);
                }
                What::Filtered | What::Skipped(_) | What::Gap => {}
            }
        }
        // The peer forgets them, and they are not sent again.
        self.skipped.retain(|it| it.sequence < first);
        self.busy.retain(|it| *it < first);
        // Skipped events may share a range with the one before `first`.
        self.sent = self.open.back().map_or(self.position, |open| open.range.last);
        self.awaits_repeat = true;
    }

    /// Settles what a rejected event no longer holds back.
    pub(crate) fn settle_rejected(&mut self, now: Instant) -> Vec<Settled> {
        self.confirmed(now)
    }

    /// The peer is still busy with an event.
    pub(crate) fn progress(&mut self, sequence: Sequence, now: Instant) -> Result<(), Violation> {
        self.postpone(sequence, now)?;
        if self.place(sequence).is_some() {
            self.busy.insert(sequence);
        }
        Ok(())
    }

    /// The deadline of the confirmation of an event begins again.
    pub(crate) fn postpone(&mut self, sequence: Sequence, now: Instant) -> Result<(), Violation> {
        if sequence > self.highest {
            return Err(Violation::BeyondSent(sequence));
        }
        // It need not be in flight any more: an admin may have skipped it while the peer handles it.
        if sequence > self.confirmation() {
            self.progress_at = Some(now);
        }
        Ok(())
    }

    /// Sets the limits that the peer asks for, within those of the server.
    pub(crate) fn credit(&mut self, Credit { events, bytes }: Credit) {
        if let Some(events) = events {
            self.limits.events =
                usize::try_from(events).unwrap_or(usize::MAX).min(self.most.events);
        }
        if let Some(bytes) = bytes {
            self.limits.bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.most.bytes);
        }
    }

    /// Until when the peer must confirm something, or say that it is busy: since the oldest event in
    /// flight was sent, or since the last time.
    pub(crate) fn confirmation_deadline(&self, confirmation_timeout: Duration) -> Option<Instant> {
        let oldest = self.open.iter().find_map(|open| match open.what {
            What::Sent { instant, .. } => Some(instant),
            _ => None,
        })?;
        let since = self.progress_at.map_or(oldest, |at| at.max(oldest));
        Some(since + confirmation_timeout)
    }

    /// The transport has not sent the events from `first` on. They are passed again.
    pub(crate) fn take_back(&mut self, first: Sequence) {
        let place = self.open.partition_point(|open| open.range.first < first);
        for open in self.open.drain(place..) {
            match open.what {
                What::Sent { bytes, previous, .. } => {
                    self.in_flight -= 1;
                    self.bytes -= bytes;
                    self.announced = self.announced.min(previous);
                }
                What::Rejected(reason) => {
                    self.rejected.insert(open.range.first, reason);
                }
                What::Filtered | What::Skipped(_) | What::Gap => {}
            }
        }
        self.skipped.retain(|it| it.sequence < first);
        self.busy.retain(|it| *it < first);
        self.sent = self.open.back().map_or(self.position, |open| open.range.last);
    }

    /// Forgets the events from `first` on. The connection is ending, and its transport has not sent
    /// them.
    pub(crate) fn withdraw(&mut self, first: Sequence) {
        let Self { open, in_flight, bytes: total, .. } = self;
        open.retain(|open| match open.what {
            What::Sent { bytes, .. } if open.range.first >= first => {
                *in_flight -= 1;
                *total -= bytes;
                false
            }
            _ => true,
        });
        self.skipped.retain(|it| it.sequence < first);
    }

    /// The connection has ended. The failure is attributed to the oldest event only if no other one
    /// was in flight: otherwise the next connection sends each alone. It is not attributed to an event
    /// on which the peer has reported progress, unless the peer then exceeded its deadline or violated the
    /// protocol.
    pub(crate) fn close(self, reason: Reason, give_up: GiveUpPolicy) -> Closing {
        let mut unconfirmed: Vec<Unconfirmed> = Vec::new();
        for Open { range, what } in &self.open {
            let What::Sent { started_at, .. } = *what else { continue };
            let is_full = unconfirmed.len() >= MAX_RUNS;
            match unconfirmed.last_mut() {
                Some(run) if run.range.last.next() == range.first => run.range.last = range.last,
                // The attempts at the others are not recorded. They are sent again.
                _ if is_full => break,
                _ => unconfirmed.push(Unconfirmed { range: *range, started_at }),
            }
        }
        let Some(oldest) = unconfirmed.first() else { return Closing::default() };
        let is_in_progress = self.busy.contains(&oldest.range.first)
            && !matches!(reason, Reason::ConfirmationTimeout | Reason::ProtocolError);
        let may_give_up = give_up.poison == Policy::DeadLetter
            && self.in_flight == 1
            && self.skipped.is_empty()
            && !is_in_progress
            && reason.is_attributed_to_the_event();
        Closing {
            unconfirmed,
            is_in_progress,
            give_up_after: may_give_up.then_some(give_up.max_attempts),
        }
    }
}

/// Whether neighbours can be kept as one.
fn same(one: &What, other: &What) -> bool {
    match (one, other) {
        (What::Filtered, What::Filtered) => true,
        (What::Skipped(one), What::Skipped(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
