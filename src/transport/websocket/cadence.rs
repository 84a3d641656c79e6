//! Decides where pings are sent between the events of one connection. A plain gateway closes its
//! connection when it has read no ping for 35 s, and it reads nothing while a handler runs. So the
//! handlers between two pings must be expected to take much less than that in total.
//!
//! A ping also requests a receipt, and every receipt costs the gateway a write. So events of types
//! that this connection has just handled quickly share one, up to [`MAX_GROUP_EVENTS`]. Any other
//! event has its own ping.
//!
//! Handling times are measured by receipts, per connection and event type. Makes decisions only: no
//! clock, no I/O; instants are arguments.

use std::time::Duration;

use tokio::time::Instant;

use crate::event::EventType;

/// The maximum expected handling time between two pings. The gateway's limit is 35 s.
const BUDGET: Duration = Duration::from_secs(15);
/// The maximum number of events that share a ping.
const MAX_GROUP_EVENTS: u16 = 8;
/// Quick events required for each event of a group. Groups grow slowly, because a gateway that was
/// quick a few times may still become slow.
const EVIDENCE_PER_EVENT: u16 = 16;
/// The number of event types that are measured at the same time. Events of other types have their
/// own pings.
const MEASURED_TYPES: usize = 64;

/// The ping that an event needs before it. A ping always follows the last event
/// that is written for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PingBefore {
    /// No ping.
    Unneeded,
    /// A ping between it and the event before it.
    Between,
    /// A ping right before it, even if no event was written since the last ping.
    Always,
}

/// The measurements of one event type on this connection.
#[derive(Debug)]
struct Measured {
    event_type: EventType,
    /// Events handled quickly since the last slow one.
    quick: u16,
    /// When the last of them was confirmed.
    at: Option<Instant>,
}

/// The index of an event's type among the measured ones; `None` if it is not measured.
pub(super) type Slot = Option<u8>;

/// The ping cadence of one connection.
#[derive(Debug)]
pub(super) struct Cadence {
    budget: Duration,
    measured: Vec<Measured>,
    /// Events sent since the last planned ping.
    group: u16,
    /// Maximum size of the current group.
    group_limit: u16,
    /// The gateway has read a ping no earlier than this.
    ping_read_at: Option<Instant>,
}

impl Cadence {
    /// Starts without measurements, and therefore with a ping for each event. A group must also fit
    /// into the time that a gateway has to confirm an event.
    pub(super) fn new(confirmation_timeout: Duration) -> Self {
        Self {
            budget: BUDGET.min(confirmation_timeout / 4),
            measured: Vec::new(),
            group: 0,
            group_limit: 1,
            ping_read_at: None,
        }
    }

    /// The longest handling time that counts as quick: a whole group of such events stays within
    /// the budget.
    fn quick(&self) -> Duration {
        self.budget / u32::from(MAX_GROUP_EVENTS)
    }

    /// Plans the ping before an event that is sent now. `is_idle` says that nothing sent before is
    /// unconfirmed.
    pub(super) fn plan(
        &mut self,
        event_type: &EventType,
        is_idle: bool,
        now: Instant,
    ) -> (PingBefore, Slot) {
        let slot = self.slot(event_type, is_idle);
        let limit = self.limit(slot, now);
        let shares = !is_idle && self.group < self.group_limit.min(limit);
        if shares {
            self.group += 1;
            self.group_limit = self.group_limit.min(limit);
            return (PingBefore::Unneeded, slot);
        }
        self.group = 1;
        self.group_limit = limit;
        // After a pause, the last ping may have been read long ago. A new one gives the handler the
        // gateway's whole 35 s.
        let is_fresh = self.ping_read_at.is_some_and(|at| now.duration_since(at) <= self.quick());
        let ping = match (is_idle, is_fresh) {
            (false, _) => PingBefore::Between,
            (true, false) => PingBefore::Always,
            (true, true) => PingBefore::Unneeded,
        };
        (ping, slot)
    }

    /// Measures a receipt that arrived `took` after the handling of the first of these events could
    /// begin. The ping that requested it was sent after `sent_at`, when the last of them was sent.
    pub(super) fn confirmed(
        &mut self,
        slots: impl Iterator<Item = Slot>,
        took: Duration,
        sent_at: Instant,
        now: Instant,
    ) {
        self.ping_read_at = self.ping_read_at.max(Some(sent_at));
        let (is_quick, lifetime) = (took <= self.quick(), self.budget);
        for slot in slots.flatten() {
            let Some(measured) = self.measured.get_mut(usize::from(slot)) else { continue };
            let is_old = measured.at.is_none_or(|at| now.duration_since(at) > lifetime);
            if is_old || !is_quick {
                measured.quick = 0;
            }
            measured.quick = measured.quick.saturating_add(u16::from(is_quick));
            measured.at = Some(now);
        }
    }

    /// How many events may share a ping with one of this type. Measurements expire, because what a
    /// gateway did before a pause says little about now.
    fn limit(&self, slot: Slot, now: Instant) -> u16 {
        let measured = slot.and_then(|slot| self.measured.get(usize::from(slot)));
        let recent = measured
            .filter(|measured| measured.at.is_some_and(|at| now.duration_since(at) <= self.budget));
        recent.map_or(1, |it| (it.quick / EVIDENCE_PER_EVENT).clamp(1, MAX_GROUP_EVENTS))
    }

    fn slot(&mut self, event_type: &EventType, is_idle: bool) -> Slot {
        let known = self.measured.iter().position(|it| it.event_type == *event_type);
        let place = known.or_else(|| {
            if self.measured.len() >= MEASURED_TYPES {
                // Slots of events in flight are in use.
                if !is_idle {
                    return None;
                }
                self.measured.clear();
            }
            let event_type = event_type.clone();
            self.measured.push(Measured { event_type, quick: 0, at: None });
            Some(self.measured.len() - 1)
        });
        place.and_then(|place| u8::try_from(place).ok())
    }
}

#[cfg(test)]
mod tests;
