//! One lane's outcomes before the recorder takes them. They are merged while they wait, so that
//! they stay few while the database is unavailable, and are logged and counted when they are handed
//! over.

use std::collections::VecDeque;
use std::sync::Arc;

use super::failure_log::{Failed, FailureLog};
use super::recorder::{QueueSlot, Recorder};
use super::reports::Unmatched;
use super::window::Closing;
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, GatewayKey, Reason, Sequence};
use crate::metric;
use crate::store::{DeploymentMatch, InstanceOutcome, LoggedEvent, Range, Record, ReportedFailure};

/// At this many queued outcomes, the lane stops skipping events and matching reports. Receipts are
/// still accepted, because they merge with the last one.
const MAX_WAITING: usize = 256;

/// The connection that outcomes belong to.
#[derive(Clone, Debug)]
pub(super) struct ConnectionInfo {
    pub(super) gateway: GatewayKey,
    pub(super) gateway_id: GatewayId,
    pub(super) gateway_name: Arc<str>,
    pub(super) connection: ConnectionId,
    pub(super) instance: Arc<str>,
}

/// Outcomes that were not handed over yet, oldest first.
#[derive(Debug)]
pub(super) struct Outcomes {
    info: ConnectionInfo,
    records: VecDeque<Record>,
    /// The last activity; earlier activity does not matter.
    heartbeat: Option<Timestamp>,
    failures: Arc<FailureLog>,
    /// Events of failures that were not handed over yet.
    named: VecDeque<LoggedEvent>,
    /// Expired events up to here were logged and counted when they expired.
    expired_before: Sequence,
}

impl Outcomes {
    pub(super) fn new(info: ConnectionInfo, failures: Arc<FailureLog>) -> Self {
        Self {
            info,
            records: VecDeque::new(),
            heartbeat: None,
            failures,
            named: VecDeque::new(),
            expired_before: Sequence::ZERO,
        }
    }

    /// Adds an event whose failure is recorded next, for its log line.
    pub(super) fn name(&mut self, event: LoggedEvent) {
        if self.named.len() < MAX_WAITING {
            self.named.push_back(event);
        }
    }

    fn take_named(&mut self, range: Range) -> Vec<LoggedEvent> {
        let is_in = |event: &LoggedEvent| (range.first..=range.last).contains(&event.sequence);
        let (taken, left): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.named).into_iter().partition(is_in);
        self.named = left;
        taken.into()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.heartbeat.is_none()
    }

    /// Whether outcomes other than receipts may be added.
    pub(super) fn has_room(&self) -> bool {
        self.records.len() < MAX_WAITING
    }

    pub(super) fn confirmed(&mut self, confirmed: Range, started_at: Timestamp, at: Timestamp) {
        if let Some(Record::Confirmed { range, finished_at, .. }) = self.records.back_mut()
            && range.last.next() == confirmed.first
        {
            range.last = confirmed.last;
            *finished_at = at;
            return;
        }
        let ConnectionInfo { gateway, connection, .. } = self.info;
        self.records.push_back(Record::Confirmed {
            gateway,
            connection,
            instance: Arc::clone(&self.info.instance),
            range: confirmed,
            started_at,
            finished_at: at,
        });
    }

    pub(super) fn reported(
        &mut self,
        DeploymentMatch { sequence, confirms }: DeploymentMatch,
        result: Result<(), ReportedFailure>,
        event: Option<LoggedEvent>,
    ) {
        if let Some(event) = event.filter(|_| result.is_err()) {
            self.name(event);
        }
        let ConnectionInfo { gateway, connection, .. } = self.info;
        let (instance, at) = (Arc::clone(&self.info.instance), Timestamp::now());
        self.records.push_back(Record::Reported {
            gateway,
            connection,
            instance,
            sequence,
            result,
            confirms,
            at,
        });
    }

    /// A report confirms everything up to `to`, which was sent on another connection.
    pub(super) fn confirmed_elsewhere(&mut self, to: Sequence) {
        // An instance's own connections confirm what it was sent (see `store::positions`).
        if self.info.instance.is_empty() {
            let (gateway, at) = (self.info.gateway, Timestamp::now());
            self.records.push_back(Record::ConfirmedElsewhere { gateway, to, at });
        }
    }

    /// A report whose event is looked up when it is recorded. `sent_here`: the last
    /// sequence that was sent on this connection.
    pub(super) fn unmatched(&mut self, unmatched: Unmatched, sent_here: Sequence) {
        let Unmatched { key, result } = unmatched;
        let ConnectionInfo { gateway, connection, .. } = self.info;
        let (instance, at) = (Arc::clone(&self.info.instance), Timestamp::now());
        self.records.push_back(Record::Unmatched {
            gateway,
            connection,
            instance,
            key,
            result,
            sent_here,
            at,
        });
    }

    pub(super) fn skipped(&mut self, skipped: Range, why: Reason) {
        if let Some(Record::Skipped { range, reason, advance_to, .. }) = self.records.back_mut()
            && range.last.next() == skipped.first
            && *reason == why
        {
            range.last = skipped.last;
            *advance_to = Some(skipped.last);
            return;
        }
        let ConnectionInfo { gateway, connection, .. } = self.info;
        self.records.push_back(Record::Skipped {
            gateway,
            connection,
            instance: Arc::clone(&self.info.instance),
            range: skipped,
            reason: why,
            advance_to: Some(skipped.last),
            at: Timestamp::now(),
        });
    }

    /// The events skipped up to here expired before the connection was opened: they were logged and
    /// counted then.
    pub(super) fn expired_before(&mut self, last: Sequence) {
        self.expired_before = last;
    }

    /// Adds an outcome of reliable mode.
    pub(super) fn instance(&mut self, outcome: InstanceOutcome, at: Timestamp) {
        // Acknowledgements at both levels may alternate.
        let last = self.records.iter_mut().rev().take(2);
        for record in last {
            let Record::Instance { outcome: before, at: before_at, .. } = record else { break };
            if merge(before, &outcome) {
                *before_at = at;
                return;
            }
            if !matches!(before, InstanceOutcome::Acknowledged { .. }) {
                break;
            }
        }
        let ConnectionInfo { gateway, connection, .. } = self.info;
        let instance = Arc::clone(&self.info.instance);
        self.records.push_back(Record::Instance { gateway, connection, instance, outcome, at });
    }

    pub(super) fn alive(&mut self) {
        self.heartbeat = Some(Timestamp::now());
    }

    /// Adds the end of the connection. `alive_at` is its last activity.
    pub(super) fn closed(
        &mut self,
        reason: Reason,
        detail: String,
        Closing { unconfirmed, is_in_progress, give_up_after }: Closing,
        alive_at: Option<Timestamp>,
    ) {
        let ConnectionInfo { gateway, connection, .. } = self.info;
        let at = Timestamp::now();
        self.heartbeat = None;
        self.records.push_back(Record::Closed {
            gateway,
            connection,
            reason,
            detail,
            unconfirmed,
            is_in_progress,
            give_up_after,
            alive_at,
            at,
        });
    }

    /// Hands over the last activity, which is rare and might otherwise wait forever behind
    /// receipts, or else the oldest outcome.
    pub(super) fn hand_in(&mut self, slot: QueueSlot<'_>) {
        if let Some(at) = self.heartbeat.take() {
            slot.put(Record::Heartbeat { connection: self.info.connection, at });
        } else if let Some(record) = self.records.pop_front() {
            self.log_outcome(&record);
            slot.put(record);
        }
    }

    /// Hands over all outcomes.
    pub(super) async fn hand_in_all(&mut self, recorder: &Recorder) {
        while !self.is_empty() {
            let Some(slot) = recorder.reserve().await else {
                tracing::error!(
                    connection = %self.info.connection,
                    lost = self.records.len(),
                    "the recorder has stopped; outcomes are lost"
                );
                return;
            };
            self.hand_in(slot);
        }
    }

    /// Writes one line and one count per range.
    fn log_outcome(&mut self, record: &Record) {
        match record {
            Record::Confirmed { range, .. } => self.succeeded(*range, "received"),
            Record::Reported { sequence, result, .. } => {
                let range = Range { first: *sequence, last: *sequence };
                match result {
                    Ok(()) => self.succeeded(range, "applied"),
                    Err(ReportedFailure { reason, detail }) => {
                        self.failed(range, *reason, detail);
                    }
                }
            }
            // Which event it answers is not known yet.
            Record::Unmatched {
                result: Err(ReportedFailure { reason, .. }), sent_here, ..
            } => {
                let one = Range { first: *sent_here, last: *sent_here };
                self.failures.count(one, *reason, []);
            }
            Record::Skipped { range, reason, .. } if self.is_logged(*range, *reason) => {}
            Record::Skipped { range, reason, .. } => self.failed(*range, *reason, "skipped"),
            Record::Closed { unconfirmed, reason, detail, is_in_progress, .. } => {
                let is_unknown = *is_in_progress || *reason == Reason::NodeLost;
                for run in unconfirmed {
                    if is_unknown {
                        self.unknown(run.range, *reason);
                    } else {
                        self.failed(run.range, *reason, detail);
                    }
                }
            }
            Record::Instance { outcome, .. } => match outcome {
                InstanceOutcome::Acknowledged { level, confirms: true, range, .. } => {
                    self.succeeded(*range, level.as_str());
                }
                InstanceOutcome::Retried { sequence, code, detail, .. }
                | InstanceOutcome::Rejected { sequence, code, detail, .. } => {
                    let range = Range { first: *sequence, last: *sequence };
                    self.failed(range, *code, detail);
                }
                InstanceOutcome::Covered { reason, resume_at } => tracing::info!(
                    gateway = %self.info.gateway_id,
                    connection = %self.info.connection,
                    instance = &*self.info.instance,
                    reason = reason.as_str(),
                    resume_at = resume_at.0,
                    "the gateway has read a snapshot"
                ),
                InstanceOutcome::Acknowledged { confirms: false, .. }
                | InstanceOutcome::Filtered { .. } => {}
            },
            Record::ConfirmedElsewhere { .. }
            | Record::Unmatched { result: Ok(()), .. }
            | Record::Heartbeat { .. } => {}
        }
    }

    /// Whether skipped events were logged and counted before: when they expired, or by the action of
    /// an admin.
    fn is_logged(&self, range: Range, reason: Reason) -> bool {
        match reason {
            Reason::Expired => range.last <= self.expired_before,
            Reason::Skipped | Reason::Purged | Reason::Superseded => true,
            // The gateway has rejected it.
            reason => reason.is_reported(),
        }
    }

    fn succeeded(&self, range: Range, outcome: &'static str) {
        tracing::info!(
            target: "delivery",
            gateway = %self.info.gateway_id,
            connection = %self.info.connection,
            first = range.first.0,
            last = range.last.0,
            outcome,
            "delivered"
        );
    }

    /// Logs and counts it as the ledger records it: neither delivered nor failed, and sent again.
    fn unknown(&self, range: Range, reason: Reason) {
        metrics::counter!(metric::DELIVERY_UNKNOWN).increment(length(range));
        tracing::info!(
            target: "delivery",
            gateway = %self.info.gateway_id,
            connection = %self.info.connection,
            first = range.first.0,
            last = range.last.0,
            outcome = "unknown",
            %reason,
            "the outcome of a delivery is unknown; the event is sent again"
        );
    }

    fn failed(&mut self, range: Range, reason: Reason, detail: &str) {
        let events = self.take_named(range);
        // Events removed by retention were counted when they were removed.
        if reason != Reason::Retention {
            let types = events.iter().map(|event| (&event.event_type, 1));
            self.failures.count(range, reason, types);
        }
        self.failures.log(&Failed {
            gateway_id: self.info.gateway_id,
            gateway_name: &self.info.gateway_name,
            connection: Some(self.info.connection),
            range,
            reason,
            detail,
            events: &events,
        });
    }
}

/// Extends an outcome by the next one, if both are one.
fn merge(before: &mut InstanceOutcome, next: &InstanceOutcome) -> bool {
    use InstanceOutcome::{Acknowledged, Filtered};

    match (before, next) {
        (
            Acknowledged { level, confirms, range, .. },
            Acknowledged { level: next_level, confirms: next_confirms, range: next, .. },
        ) if (*level, *confirms) == (*next_level, *next_confirms)
            && range.last.next() == next.first =>
        {
            range.last = next.last;
            true
        }
        (Filtered { range, advance_to }, Filtered { range: next, advance_to: next_advance })
            if range.last.next() == next.first =>
        {
            range.last = next.last;
            *advance_to = *next_advance;
            true
        }
        _ => false,
    }
}

fn length(range: Range) -> u64 {
    u64::try_from(range.last.0 - range.first.0 + 1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Sequence;

    fn range(first: i64, last: i64) -> Range {
        Range { first: Sequence(first), last: Sequence(last) }
    }

    #[test]
    fn neighbouring_receipts_and_skips_become_one() {
        let info = ConnectionInfo {
            gateway: GatewayKey(1),
            gateway_id: GatewayId::new(),
            gateway_name: "one".into(),
            connection: ConnectionId::new(),
            instance: "".into(),
        };
        let mut outcomes = Outcomes::new(info, Arc::default());
        let now = Timestamp::now();
        for number in 1..=1000 {
            outcomes.confirmed(range(number, number), now, now);
        }
        outcomes.skipped(range(1001, 1001), Reason::Expired);
        outcomes.skipped(range(1002, 1010), Reason::Expired);
        outcomes.skipped(range(1011, 1011), Reason::Retention);
        outcomes.confirmed(range(1012, 1012), now, now);
        let ranges: Vec<_> = outcomes
            .records
            .iter()
            .map(|record| match record {
                Record::Confirmed { range, .. } | Record::Skipped { range, .. } => *range,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            ranges,
            [range(1, 1000), range(1001, 1010), range(1011, 1011), range(1012, 1012)]
        );
    }
}
