//! The events in flight on a connection, and the last confirmed ones, so that a failure is logged
//! with its event.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::event::{Event, Sequence};
use crate::store::LoggedEvent;

/// Events that are logged when a connection ends with more unconfirmed.
const NAMED: usize = 5;
/// Confirmed events that can still be looked up: a report on one may arrive after its receipt.
const NAMED_AFTERWARDS: usize = 8;

/// Events that were sent and not confirmed, oldest first.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    events: VecDeque<(Sequence, Arc<Event>, Instant)>,
    confirmed: VecDeque<LoggedEvent>,
}

impl InFlight {
    /// Adds an event that was sent at this instant.
    pub(super) fn sent(&mut self, sequence: Sequence, event: &Arc<Event>, at: Instant) {
        self.events.push_back((sequence, Arc::clone(event), at));
    }

    /// Removes those up to `last`, which were confirmed. Returns when each was sent.
    pub(super) fn confirmed(&mut self, last: Sequence) -> impl ExactSizeIterator<Item = Instant> {
        let count = self.events.partition_point(|(sequence, ..)| *sequence <= last);
        let named = self.events.range(count.saturating_sub(NAMED_AFTERWARDS)..count);
        self.confirmed.extend(named.map(|(sequence, event, _)| logged(*sequence, event)));
        let surplus = self.confirmed.len().saturating_sub(NAMED_AFTERWARDS);
        self.confirmed.drain(..surplus);
        self.events.drain(..count).map(|(.., sent_at)| sent_at)
    }

    /// Removes an event for whose receipt nothing waits any more.
    pub(super) fn remove(&mut self, sequence: Sequence) {
        self.events.retain(|(other, ..)| *other != sequence);
    }

    /// Removes an event and all after it, which will be sent again.
    pub(super) fn remove_from(&mut self, sequence: Sequence) {
        self.events.retain(|(other, ..)| *other < sequence);
    }

    /// An event by its sequence, if it is in flight or was confirmed recently.
    pub(super) fn named(&self, sequence: Sequence) -> Option<LoggedEvent> {
        let on_its_way = self.events.iter().find(|(other, ..)| *other == sequence);
        let confirmed = || self.confirmed.iter().find(|event| event.sequence == sequence).cloned();
        on_its_way.map(|(_, event, _)| logged(sequence, event)).or_else(confirmed)
    }

    /// When an event in flight expires.
    pub(super) fn expires_at(&self, sequence: Sequence) -> Option<Timestamp> {
        self.events.iter().find(|(other, ..)| *other == sequence)?.1.expires_at
    }

    /// The first unconfirmed ones.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = LoggedEvent> {
        self.events.iter().take(NAMED).map(|(sequence, event, _)| logged(*sequence, event))
    }
}

/// An event as it appears in log lines.
pub(super) fn logged(sequence: Sequence, event: &Event) -> LoggedEvent {
    LoggedEvent { sequence, id: event.id.clone(), event_type: event.event_type.clone() }
}
