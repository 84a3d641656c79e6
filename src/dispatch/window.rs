//! What may be sent, and what a receipt, a time-out and a close mean. A pure
//! state machine: it has no clock and does no IO; instants are arguments.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::event::{Reason, Sequence};
use crate::store::Range;

/// Bounds of a window.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Events on their way at the most.
    pub events: usize,
    /// Bytes on their way at the most; a single event may exceed it.
    pub bytes: usize,
    /// How long the peer may go without confirming anything that is due.
    pub confirmation: Duration,
    /// Failed attempts after which an event is given up; `None` never does.
    pub max_attempts: Option<u32>,
}

#[derive(Debug)]
struct Sent {
    sequence: Sequence,
    bytes: usize,
    at: Timestamp,
}

/// A run of events confirmed by one receipt, without the skipped ones between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Which.
    pub range: Range,
    /// When the first of them was handed over.
    pub started_at: Timestamp,
}

/// A receipt for what was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeverSent;

/// What is left when a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Sent and not confirmed, from the first to the last.
    pub unconfirmed: Option<(Range, Timestamp)>,
    /// The first of them has failed once too often.
    pub give_up: bool,
}

/// One connection's position in its gateway's log.
#[derive(Debug)]
pub struct Window {
    limits: Limits,
    /// The last sequence sent or skipped.
    last: Sequence,
    /// Where the connection started, and how often the event after it failed before.
    start: (Sequence, u32),
    in_flight: VecDeque<Sent>,
    bytes: usize,
    /// Since when a confirmation is due.
    waiting_since: Option<Instant>,
}

impl Window {
    /// A window that continues after `position`.
    pub fn new(limits: Limits, position: Sequence, failed_attempts: u32) -> Self {
        Self {
            limits,
            last: position,
            start: (position, failed_attempts),
            in_flight: VecDeque::new(),
            bytes: 0,
            waiting_since: None,
        }
    }

    /// The sequence that must come next.
    pub fn next(&self) -> Sequence {
        self.last.next()
    }

    /// Whether another event may be sent now.
    pub fn has_room(&self) -> bool {
        self.in_flight.is_empty()
            || (self.in_flight.len() < self.limits.events && self.bytes < self.limits.bytes)
    }

    /// How many more may be sent at the most.
    pub fn room(&self) -> usize {
        if self.has_room() {
            self.limits.events.saturating_sub(self.in_flight.len()).max(1)
        } else {
            0
        }
    }

    /// Takes the next event as sent. The caller has asked [`Window::has_room`].
    pub fn sent(&mut self, bytes: usize, at: Timestamp, now: Instant) {
        self.last = self.last.next();
        self.bytes += bytes;
        self.waiting_since.get_or_insert(now);
        self.in_flight.push_back(Sent { sequence: self.last, bytes, at });
    }

    /// Passes over everything up to `last`. Returns the position to store at
    /// once when nothing before it is unconfirmed.
    pub fn skip(&mut self, last: Sequence) -> Option<Sequence> {
        self.last = self.last.max(last);
        self.in_flight.is_empty().then_some(self.last)
    }

    /// Takes a cumulative receipt. Going backwards confirms nothing; a number
    /// never sent is refused and moves nothing.
    pub fn receipt(&mut self, upto: Sequence, now: Instant) -> Result<Vec<Confirmed>, NeverSent> {
        if upto > self.last {
            return Err(NeverSent);
        }
        let mut runs: Vec<Confirmed> = Vec::new();
        while let Some(sent) = self.in_flight.pop_front_if(|sent| sent.sequence <= upto) {
            self.bytes -= sent.bytes;
            match runs.last_mut() {
                Some(run) if run.range.last.next() == sent.sequence => {
                    run.range.last = sent.sequence;
                }
                _ => runs.push(Confirmed {
                    range: Range { first: sent.sequence, last: sent.sequence },
                    started_at: sent.at,
                }),
            }
        }
        if !runs.is_empty() {
            self.waiting_since = (!self.in_flight.is_empty()).then_some(now);
        }
        Ok(runs)
    }

    /// When the peer's confirmation is overdue; `None` while none is due. Each
    /// confirmation gives the next one its full time, because handlers are serial.
    pub fn confirmation_due(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + self.limits.confirmation)
    }

    /// What is left when the connection ends for `reason`.
    pub fn close(&self, reason: Reason) -> Remains {
        let unconfirmed =
            self.in_flight.front().zip(self.in_flight.back()).map(|(first, last)| {
                (Range { first: first.sequence, last: last.sequence }, first.at)
            });
        let give_up = unconfirmed.is_some_and(|(range, _)| {
            let (start, failed_before) = self.start;
            let before = if range.first == start.next() { failed_before } else { 0 };
            reason.blames_the_event()
                && self.limits.max_attempts.is_some_and(|most| before + 1 >= most)
        });
        Remains { unconfirmed, give_up }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Send(usize),
        Skip(i64),
        Receipt(i64),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1usize..2000).prop_map(Step::Send),
            1 => (1i64..4).prop_map(Step::Skip),
            3 => (-3i64..40).prop_map(Step::Receipt),
            1 => (0u64..100).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Whatever the interleaving: what is confirmed was sent, once, in
        /// order; the bounds hold; and a close finds exactly the rest.
        #[test]
        fn any_interleaving_keeps_the_books(
            start in 0i64..1000,
            failed in 0u32..6,
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let limits = Limits { events: 8, bytes: 4000, confirmation: Duration::from_mins(1), max_attempts: Some(5) };
            let mut window = Window::new(limits, Sequence(start), failed);
            let mut now = Instant::now();
            let mut sent: Vec<i64> = Vec::new();
            let mut confirmed: Vec<i64> = Vec::new();
            for step in steps {
                match step {
                    Step::Send(bytes) => if window.has_room() {
                        sent.push(window.next().0);
                        window.sent(bytes, Timestamp::from_micros(0), now);
                        prop_assert!(sent.len() - confirmed.len() <= 8);
                    },
                    Step::Skip(count) => {
                        let upto = Sequence(window.next().0 + count - 1);
                        let stored = window.skip(upto);
                        prop_assert_eq!(stored.is_some(), sent.len() == confirmed.len());
                    }
                    Step::Receipt(ahead) => {
                        let upto = start + ahead + i64::try_from(confirmed.len()).unwrap_or(0);
                        let known = window.next().0 - 1;
                        match window.receipt(Sequence(upto), now) {
                            Err(NeverSent) => prop_assert!(upto > known),
                            Ok(runs) => {
                                prop_assert!(upto <= known);
                                for run in runs {
                                    confirmed.extend(run.range.first.0..=run.range.last.0);
                                }
                                prop_assert!(confirmed.last().is_none_or(|last| *last <= upto.max(*last)));
                            }
                        }
                        prop_assert_eq!(&confirmed[..], &sent[..confirmed.len()]);
                    }
                    Step::Wait(secs) => now += Duration::from_secs(secs),
                }
                prop_assert_eq!(window.confirmation_due().is_some(), sent.len() > confirmed.len());
            }
            let remains = window.close(Reason::ConnectionLost);
            let rest = &sent[confirmed.len()..];
            prop_assert_eq!(remains.unconfirmed.map(|(range, _)| (range.first.0, range.last.0)),
                            rest.first().copied().zip(rest.last().copied()));
            let blamed = rest.first().is_some_and(|first| *first == start + 1 && failed + 1 >= 5);
            prop_assert_eq!(remains.give_up, blamed);
            prop_assert!(!window.close(Reason::Shutdown).give_up);
        }
    }

    #[test]
    fn each_confirmation_gives_the_next_its_full_time() {
        let limits = Limits {
            events: 8,
            bytes: 4000,
            confirmation: Duration::from_mins(1),
            max_attempts: None,
        };
        let mut window = Window::new(limits, Sequence::ZERO, 0);
        let start = Instant::now();
        window.sent(1, Timestamp::from_micros(0), start);
        window.sent(1, Timestamp::from_micros(0), start);
        let later = start + Duration::from_secs(50);
        window.receipt(Sequence(1), later).expect("it was sent");
        assert_eq!(window.confirmation_due(), Some(later + Duration::from_mins(1)));
    }
}
