//! What may be sent on a connection, and what a receipt, a silence and an end
//! mean. Decides and does nothing else: no clock, no IO; instants are
//! arguments. Everything up to `position` is settled (confirmed or passed
//! over), everything up to `sent` is on its way.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Policy;
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
    /// Attempts before it is poison.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Sent and not confirmed, and when the first of them was sent.
    pub unconfirmed: Option<(Range, Timestamp)>,
    /// The first of them has failed once too often.
    pub give_up: bool,
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
    /// The event that came first, and how often it had failed before.
    tried_before: (Sequence, u32),
}

impl Window {
    /// Starts behind `position`, whose successor has failed this often before.
    pub fn new(limits: Limits, position: Sequence, failed_attempts: u32) -> Self {
        Self {
            limits,
            position,
            sent: position,
            in_flight: VecDeque::new(),
            bytes: 0,
            progress_at: None,
            tried_before: (position.next(), failed_attempts),
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
        let Some(oldest) = self.in_flight.front().filter(|oldest| oldest.sequence <= sequence) else {
            return Receipt::Stale;
        };
        let (first, started_at) = (oldest.sequence, oldest.started_at);
        while let Some(sent) = self.in_flight.pop_front_if(|sent| sent.sequence <= sequence) {
            self.bytes -= sent.bytes;
        }
        self.position = sequence;
        self.progress_at = Some(now);
        Receipt::Confirmed { range: Range { first, last: sequence }, started_at }
    }

    /// Until when the oldest unconfirmed event must be confirmed: its time
    /// runs from when it was sent, or from the last progress, for its turn
    /// may have come only then.
    pub fn confirmation_deadline(&self, confirmation_timeout: Duration) -> Option<Instant> {
        let oldest = self.in_flight.front()?;
        let since = self.progress_at.map_or(oldest.instant, |at| at.max(oldest.instant));
        Some(since + confirmation_timeout)
    }

    /// The connection has ended. Blame falls on the oldest unconfirmed event:
    /// the gateway was at that one.
    pub fn close(self, reason: Reason, patience: Patience) -> Closing {
        let Some(oldest) = self.in_flight.front() else {
            return Closing { unconfirmed: None, give_up: false };
        };
        let failed_before = match self.tried_before {
            (sequence, failed) if sequence == oldest.sequence => failed,
            _ => 0,
        };
        let range = Range { first: oldest.sequence, last: self.sent };
        Closing {
            unconfirmed: Some((range, oldest.started_at)),
            give_up: patience.poison == Policy::DeadLetter
                && reason.blames_the_event()
                && failed_before.saturating_add(1) >= patience.max_attempts,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { events: 4, bytes: 100 };
    const TIMEOUT: Duration = Duration::from_secs(60);
    const PATIENCE: Patience = Patience { max_attempts: 3, poison: Policy::DeadLetter };

    fn at(base: Instant, secs: u64) -> (Instant, Timestamp) {
        let stamp = Timestamp::from_micros(0).plus(Duration::from_secs(secs));
        (base + Duration::from_secs(secs), stamp)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Offer { distance: i64, bytes: usize },
        Receipt { distance: i64 },
        Skip { count: i64 },
        Wait { secs: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (prop_oneof![9 => Just(1), 1 => -2..4_i64], 1..150_usize)
                .prop_map(|(distance, bytes)| Step::Offer { distance, bytes }),
            4 => (-6..3_i64).prop_map(|distance| Step::Receipt { distance }),
            1 => (-1..5_i64).prop_map(|count| Step::Skip { count }),
            1 => (0..100_u64).prop_map(|secs| Step::Wait { secs }),
        ]
    }

    proptest! {
        #[test]
        fn any_interleaving_keeps_the_account(
            start in 0..1000_i64,
            steps in prop::collection::vec(step(), 0..200),
            reason in prop::sample::select(Reason::ALL),
        ) {
            let base = Instant::now();
            let mut secs = 0;
            let mut window = Window::new(LIMITS, Sequence(start), 0);
            let (mut sent, mut settled) = (BTreeSet::new(), BTreeSet::new());
            let mut unconfirmed = BTreeSet::new();
            for step in steps {
                let (now, stamp) = at(base, secs);
                let before = window.position();
                match step {
                    Step::Offer { distance, bytes } => {
                        let sequence = Sequence(window.sent().0 + distance);
                        let taken = window.offer(sequence, bytes, now, stamp);
                        prop_assert!(taken.is_err() || distance == 1);
                        if taken.is_ok() {
                            prop_assert!(sent.insert(sequence), "{sequence} was sent twice");
                            unconfirmed.insert(sequence);
                        }
                    }
                    Step::Receipt { distance } => {
                        let sequence = Sequence(window.sent().0 + distance);
                        match window.receipt(sequence, now) {
                            Receipt::Confirmed { range, .. } => {
                                prop_assert_eq!(range.last, sequence);
                                for number in range.first.0..=range.last.0 {
                                    prop_assert!(unconfirmed.remove(&Sequence(number)), "never sent");
                                    settled.insert(Sequence(number));
                                }
                            }
                            Receipt::Stale => {
                                prop_assert!(unconfirmed.first().is_none_or(|first| *first > sequence));
                            }
                            Receipt::BeyondSent => prop_assert!(distance > 0),
                        }
                    }
                    Step::Skip { count } => {
                        let last = Sequence(window.sent().0 + count);
                        if let Ok(range) = window.skip(last) {
                            prop_assert!(unconfirmed.is_empty());
                            for number in range.first.0..=range.last.0 {
                                prop_assert!(sent.insert(Sequence(number)));
                                settled.insert(Sequence(number));
                            }
                        }
                    }
                    Step::Wait { secs: more } => secs += more,
                }
                prop_assert!(window.position() >= before, "the position went back");
                prop_assert!(window.in_flight.len() <= LIMITS.events);
                prop_assert!(window.bytes <= LIMITS.bytes || window.in_flight.len() == 1);
                prop_assert_eq!(window.in_flight.len(), unconfirmed.len());
                prop_assert_eq!(settled.len() + unconfirmed.len(), sent.len());
                prop_assert_eq!(
                    window.in_flight.iter().map(|sent| sent.bytes).sum::<usize>(), window.bytes
                );
                prop_assert_eq!(window.position().0, start + i64::try_from(settled.len())?);
                prop_assert_eq!(window.sent().0, start + i64::try_from(sent.len())?);
                prop_assert_eq!(window.confirmation_deadline(TIMEOUT).is_some(), !unconfirmed.is_empty());
            }
            let closing = window.close(reason, PATIENCE);
            let range = closing.unconfirmed.map(|(range, _)| (range.first, range.last));
            let expected = unconfirmed.first().copied().zip(unconfirmed.last().copied());
            prop_assert_eq!(range, expected);
            prop_assert!(!closing.give_up, "one attempt of three");
        }
    }

    #[test]
    fn the_deadline_runs_from_the_last_progress() {
        let base = Instant::now();
        let mut window = Window::new(LIMITS, Sequence::ZERO, 0);
        assert_eq!(window.confirmation_deadline(TIMEOUT), None);
        for (sequence, secs) in [(1, 0), (2, 5)] {
            let (now, stamp) = at(base, secs);
            assert_eq!(window.offer(Sequence(sequence), 1, now, stamp), Ok(()));
        }
        assert_eq!(window.confirmation_deadline(TIMEOUT), Some(base + TIMEOUT));
        let (now, _) = at(base, 50);
        window.receipt(Sequence(1), now);
        assert_eq!(window.confirmation_deadline(TIMEOUT), Some(now + TIMEOUT));
        // Receipts that confirm nothing buy no time.
        window.receipt(Sequence(1), at(base, 70).0);
        assert_eq!(window.confirmation_deadline(TIMEOUT), Some(now + TIMEOUT));
    }

    #[test]
    fn an_event_larger_than_the_window_goes_alone() {
        let (now, stamp) = at(Instant::now(), 0);
        let mut window = Window::new(LIMITS, Sequence::ZERO, 0);
        assert_eq!(window.offer(Sequence(1), 1000, now, stamp), Ok(()));
        assert_eq!(window.offer(Sequence(2), 1, now, stamp), Err(Refusal::Full));
        window.receipt(Sequence(1), now);
        assert_eq!(window.offer(Sequence(2), 1, now, stamp), Ok(()));
    }

    fn ended(failed_before: u32, confirmed: i64, reason: Reason, poison: Policy) -> Closing {
        let (now, stamp) = at(Instant::now(), 0);
        let mut window = Window::new(LIMITS, Sequence::ZERO, failed_before);
        for sequence in 1..=3 {
            assert_eq!(window.offer(Sequence(sequence), 1, now, stamp), Ok(()));
        }
        window.receipt(Sequence(confirmed), now);
        window.close(reason, Patience { poison, ..PATIENCE })
    }

    #[test]
    fn poison_is_the_event_that_failed_once_too_often() {
        let (lost, shutdown) = (Reason::ConnectionLost, Reason::Shutdown);
        assert!(ended(2, 0, lost, Policy::DeadLetter).give_up);
        assert!(!ended(1, 0, lost, Policy::DeadLetter).give_up, "two attempts of three");
        assert!(!ended(2, 1, lost, Policy::DeadLetter).give_up, "another event's attempts");
        assert!(!ended(2, 0, shutdown, Policy::DeadLetter).give_up, "our own doing");
        assert!(!ended(2, 0, lost, Policy::Block).give_up, "never given up");
        assert_eq!(ended(2, 3, lost, Policy::DeadLetter).unconfirmed, None);
    }
}
