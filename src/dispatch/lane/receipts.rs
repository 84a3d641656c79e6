//! How a lane handles receipts and reports.

use tokio::time::Instant;

use super::super::outcomes::Outcomes;
use super::super::reports::{Matched, Reports};
use super::super::window::{Receipt, Window};
use super::{Lane, State};
use crate::clock::Timestamp;
use crate::event::Sequence;
use crate::store::{DeploymentMatch, Range};
use crate::transport::InvalidMessage;

/// A report that contains nothing new.
pub(super) const REPEATED: &str = "repeated_report";
/// A report for which the queue has no room.
pub(super) const TOO_MANY_REPORTS: &str = "too_many_reports";
/// A report that matches no event.
const UNKNOWN_DEPLOYMENT: &str = "unknown_deployment";
/// A receipt beyond what was sent.
const NOT_SENT: &str = "receipt_not_sent";

/// All kinds of invalid messages, as metrics name them.
pub const INVALID_MESSAGES: [&str; 7] = [
    InvalidMessage::Binary.as_str(),
    InvalidMessage::Malformed.as_str(),
    InvalidMessage::UnknownType.as_str(),
    NOT_SENT,
    REPEATED,
    TOO_MANY_REPORTS,
    UNKNOWN_DEPLOYMENT,
];

impl Lane {
    pub(super) fn receipt(&mut self, state: &mut State, sequence: Sequence, now: Instant) {
        match handled(&mut self.window, state, sequence, now) {
            Receipt::BeyondSent => return self.invalid(state, NOT_SENT),
            receipt => confirm(&mut self.window, &mut self.outcomes, sequence, receipt),
        }
        self.pass_settled();
    }

    pub(super) fn reported(&mut self, state: &mut State, matched: &Matched) {
        let Self { window, reports, outcomes, .. } = self;
        if let Err(what) = reported(window, reports, outcomes, state, matched) {
            self.invalid(state, what);
        }
        self.pass_settled();
    }
}

/// The gateway has handled everything up to `sequence`.
fn handled(window: &mut Window, state: &mut State, sequence: Sequence, now: Instant) -> Receipt {
    let receipt = window.receipt(sequence, now);
    if let Receipt::Confirmed { range, .. } = receipt {
        let confirmed = state.in_flight.confirmed(range.last);
        state.metrics.receipts.increment(u64::try_from(confirmed.len()).unwrap_or(u64::MAX));
        for sent_at in confirmed {
            state.metrics.receipt_delay.record(now.duration_since(sent_at));
        }
    }
    receipt
}

/// Hands what a receipt up to `sequence` confirms to the recorder: also events that an admin has
/// skipped since they were sent.
fn confirm(window: &mut Window, outcomes: &mut Outcomes, sequence: Sequence, receipt: Receipt) {
    let at = Timestamp::now();
    let first = match receipt {
        Receipt::Confirmed { range, .. } => range.first,
        Receipt::Stale | Receipt::BeyondSent => sequence.next(),
    };
    // The range contains the later ones.
    for (skipped, started_at) in window.take_settled(sequence).filter(|(it, _)| *it < first) {
        outcomes.confirmed(Range { first: skipped, last: skipped }, started_at, at);
    }
    if let Receipt::Confirmed { range, started_at } = receipt {
        outcomes.confirmed(range, started_at, at);
    }
}

/// Handles a report. It is also a receipt: the gateway has handled what it was sent before the
/// reported event. The event itself is delivered, or failed for the given reason. The error says
/// why the report is invalid.
pub(super) fn reported(
    window: &mut Window,
    reports: &mut Reports,
    outcomes: &mut Outcomes,
    state: &mut State,
    matched: &Matched,
) -> Result<(), &'static str> {
    let found = matched.found.ok_or(UNKNOWN_DEPLOYMENT)?;
    let result = matched.result();
    let event = state.in_flight.named(found.sequence);
    if !reports.is_new(found.sequence, result.is_ok()) {
        return Err(REPEATED);
    }
    let (here, elsewhere) = found.confirms_on(window.sent());
    if let Some(through) = here {
        let now = Instant::now();
        let has_failed = result.is_err() && through == found.sequence;
        let delivered = if has_failed { Sequence(through.0 - 1) } else { through };
        let receipt = handled(window, state, delivered, now);
        confirm(window, outcomes, delivered, receipt);
        if has_failed {
            handled(window, state, through, now);
        }
    }
    outcomes.reported(DeploymentMatch { confirms: here, ..found }, result, event);
    if let Some(to) = elsewhere {
        outcomes.confirmed_elsewhere(to);
    }
    Ok(())
}
