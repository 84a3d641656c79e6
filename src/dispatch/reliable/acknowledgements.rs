//! How a lane of reliable mode handles acknowledgements.

use std::time::Duration;

use tokio::time::Instant;

use super::super::Policy;
use super::window::{Acknowledged, Nacked, Settled};
use super::{Lane, State};
use crate::backoff::Backoff;
use crate::clock::Timestamp;
use crate::event::Sequence;
use crate::store::{InstanceOutcome, Level, Range};
use crate::transport::{Nack, Violation};

/// The time before an event is sent again that the peer could not apply, unless the peer states one.
/// Doubled each time, up to `LAST_RETRY_PAUSE`.
const FIRST_RETRY_PAUSE: Duration = Duration::from_secs(1);
const LAST_RETRY_PAUSE: Duration = Duration::from_mins(1);
/// The time before an event is sent again at least, from its second retry on, whatever the peer states.
/// Doubled each time, up to `LAST_MIN_PAUSE`: each retry reads the log again, so that a peer
/// that rejects continuously must not set the pace.
const FIRST_MIN_PAUSE: Duration = Duration::from_millis(100);
const LAST_MIN_PAUSE: Duration = Duration::from_secs(1);
/// How often a negative acknowledgement of an event is recorded that was rejected
/// `delivery.max_attempts` times before, and is retried for ever.
const RECORDED_EVERY: Duration = Duration::from_mins(1);

impl Lane {
    pub(super) fn received(
        &mut self,
        state: &mut State,
        sequence: Sequence,
        now: Instant,
    ) -> Result<(), Violation> {
        let acknowledged = self.window.received(sequence, now)?;
        self.acknowledged(state, acknowledged, Level::Received, now);
        Ok(())
    }

    pub(super) fn applied(
        &mut self,
        state: &mut State,
        sequence: Sequence,
        now: Instant,
    ) -> Result<(), Violation> {
        let acknowledged = self.window.applied(sequence, now)?;
        self.acknowledged(state, acknowledged, Level::Applied, now);
        Ok(())
    }

    fn acknowledged(
        &mut self,
        state: &mut State,
        Acknowledged { settled, also }: Acknowledged,
        level: Level,
        now: Instant,
    ) {
        self.settled(state, settled, now);
        let at = Timestamp::now();
        for (range, started_at) in also {
            let started_at = started_at.unwrap_or(at);
            let confirms = false;
            let outcome = InstanceOutcome::Acknowledged { level, confirms, range, started_at };
            self.outcomes.instance(outcome, at);
        }
    }

    /// Hands what is settled to the recorder.
    pub(super) fn settled(&mut self, state: &mut State, settled: Vec<Settled>, now: Instant) {
        if settled.is_empty() {
            return;
        }
        let at = Timestamp::now();
        for one in settled {
            match one {
                Settled::Confirmed { range, started_at } => {
                    let confirmed = state.in_flight.confirmed(range.last);
                    state.metrics.receipts.increment(u64::try_from(confirmed.len()).unwrap_or(0));
                    for sent_at in confirmed {
                        state.metrics.receipt_delay.record(now.duration_since(sent_at));
                    }
                    let (level, confirms) = (self.window.confirms(), true);
                    let outcome =
                        InstanceOutcome::Acknowledged { level, confirms, range, started_at };
                    self.outcomes.instance(outcome, at);
                }
                // It is a dead letter. Only the position moves.
                Settled::Rejected(range, reason) | Settled::Skipped(range, reason) => {
                    self.outcomes.skipped(range, reason);
                }
                Settled::Filtered(range) => {
                    let advance_to = Some(range.last);
                    self.outcomes.instance(InstanceOutcome::Filtered { range, advance_to }, at);
                }
                Settled::Gap(range) => {
                    if let Some(reason) = state.gap.take() {
                        let resume_at = range.last;
                        let outcome = InstanceOutcome::Covered { reason, resume_at };
                        self.outcomes.instance(outcome, at);
                    }
                }
            }
        }
    }

    pub(super) fn nack(
        &mut self,
        state: &mut State,
        nack: Nack,
        now: Instant,
    ) -> Result<(), Violation> {
        let Nack { sequence, reason: code, retryable, retry_after, detail } = nack;
        let nacks = self.window.nacks(sequence);
        let give_up = self.timing.give_up;
        let is_poison =
            give_up.poison == Policy::DeadLetter && nacks.saturating_add(1) >= give_up.max_attempts;
        let at = Timestamp::now();
        let retry_at = retryable.then(|| {
            let wait =
                retry_after.map_or_else(|| retry_pause(nacks), |stated| stated.max(pace(nacks)));
            // An event that expires meanwhile holds back those after it no longer.
            let expires_at = state.in_flight.expires_at(sequence);
            now + expires_at.map_or(wait, |expires_at| wait.min(expires_at.since(at)))
        });
        match self.window.nack(sequence, code, retry_at)? {
            Nacked::Stale => {}
            Nacked::Passed => {
                state.in_flight.remove_from(sequence);
                self.reader.rewind(self.window.sent());
            }
            Nacked::Retry { started_at } => {
                if let Some(event) = state.in_flight.named(sequence) {
                    self.outcomes.name(event);
                }
                state.in_flight.remove_from(sequence);
                self.reader.rewind(self.window.sent());
                if is_poison {
                    self.window.give_up(sequence, code);
                    let advance_to = None;
                    let outcome = InstanceOutcome::Rejected {
                        sequence,
                        code,
                        detail,
                        started_at,
                        advance_to,
                    };
                    self.outcomes.instance(outcome, at);
                    return Ok(());
                }
                // A peer that rejects continuously must not fill the memory while the database is
                // unavailable, nor the ledger if its events are never given up.
                let is_recent = state.retried_at.is_some_and(|at| now - at < RECORDED_EVERY);
                let is_recorded = nacks < give_up.max_attempts || !is_recent;
                if is_recorded && self.outcomes.has_room() {
                    state.retried_at = Some(now);
                    let outcome = InstanceOutcome::Retried { sequence, code, detail, started_at };
                    self.outcomes.instance(outcome, at);
                }
            }
            Nacked::Rejected { started_at } => {
                if let Some(event) = state.in_flight.named(sequence) {
                    self.outcomes.name(event);
                }
                state.in_flight.remove(sequence);
                let mut settled = self.window.settle_rejected(now);
                let only = Settled::Rejected(Range { first: sequence, last: sequence }, code);
                let is_oldest = settled.first() == Some(&only);
                if is_oldest {
                    settled.remove(0);
                }
                let advance_to = is_oldest.then_some(sequence);
                let outcome =
                    InstanceOutcome::Rejected { sequence, code, detail, started_at, advance_to };
                self.outcomes.instance(outcome, at);
                self.settled(state, settled, now);
            }
        }
        Ok(())
    }
}

/// The shortest time before an event is sent again that was rejected so many times before.
fn pace(nacks: u32) -> Duration {
    if nacks == 0 {
        Duration::ZERO
    } else {
        Backoff::new(FIRST_MIN_PAUSE, LAST_MIN_PAUSE).without_jitter(nacks)
    }
}

/// The time before an event is sent again that was rejected so many times before, unless the peer states
/// one.
fn retry_pause(nacks: u32) -> Duration {
    Backoff::new(FIRST_RETRY_PAUSE, LAST_RETRY_PAUSE).without_jitter(nacks.saturating_add(1))
}
