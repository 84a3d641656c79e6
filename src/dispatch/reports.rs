//! Matches a gateway's reports on deployments to the events that they answer. A report contains no
//! event id, so the log is queried; the lane does not wait for that. A repeated report is matched
//! once.
//!
//! Reports are matched in the order in which they arrived. While the database is unavailable, the
//! oldest one is retried. One whose query fails for a permanent reason, or fails repeatedly while
//! the store is healthy, is discarded, logged and counted, so that it does not hold up the others.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::backoff::{Backoff, is_passing};
use crate::event::{GatewayKey, Reason, Sequence};
use crate::metric;
use crate::store::{
    DeploymentKey, DeploymentMatch, Health, Log, ReportedFailure, Result, StatementFailures,
    StoreError,
};
use crate::transport::{DeploymentReport, DeploymentStatus};

/// The maximum number of reports that wait for the database: additional ones are refused. As many of
/// the newest ones are remembered, to recognise repeats.
const MAX_REPORTS: usize = 256;
/// The maximum number of reports of an ended connection that are matched when they are recorded.
/// A gateway handles one event after another, so it rarely leaves more than one.
const UNMATCHED: usize = 16;

type Found = Option<DeploymentMatch>;

/// A running query for the event of the oldest report. Returns the failures so far.
type Lookup = BoxFuture<'static, (StatementFailures, Result<Found, Failure>)>;

/// Why a report could not be matched.
struct Failure {
    error: StoreError,
    /// Whether the report itself is the cause, so that a retry would fail, too.
    is_permanent: bool,
}

/// The reports of a lane that wait to be matched.
pub(super) struct Reports {
    log: Arc<dyn Log>,
    health: Arc<dyn Health>,
    gateway: GatewayKey,
    /// Each with the last sequence that had been sent when it arrived.
    waiting: VecDeque<(DeploymentReport, Sequence)>,
    lookup: Option<Lookup>,
    backoff: Backoff,
    /// Failures of the oldest report.
    failures: StatementFailures,
    /// Hashes of received reports.
    received: Recent<u64>,
    /// Reported events, and whether each was reported as applied.
    matched: Matches,
}

/// The newest distinct values.
#[derive(Debug)]
struct Recent<T>(VecDeque<T>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: PartialEq> Recent<T> {
    fn contains(&self, one: &T) -> bool {
        self.0.contains(one)
    }

    /// Adds a value; false if it is one of the newest already.
    fn insert(&mut self, one: T) -> bool {
        if self.contains(&one) {
            return false;
        }
        if self.0.len() >= MAX_REPORTS {
            self.0.pop_front();
        }
        self.0.push_back(one);
        true
    }
}

/// The newest matched reports: the event, and whether it was applied.
#[derive(Debug, Default)]
struct Matches(Recent<(Sequence, bool)>);

impl Matches {
    /// Returns true if this result is new for the event. Once an event was reported as applied,
    /// later reports are repeats.
    fn is_new(&mut self, sequence: Sequence, is_applied: bool) -> bool {
        !self.0.contains(&(sequence, true)) && self.0.insert((sequence, is_applied))
    }
}

/// What happened to a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits to be matched.
    Waiting,
    /// It was received before.
    Repeated,
    /// Too many reports wait.
    Refused,
}

/// A report, and the event that it answers, if that had been sent before.
#[derive(Debug)]
pub(super) struct Matched {
    pub(super) report: DeploymentReport,
    pub(super) found: Found,
}

impl Matched {
    /// `Ok` if it was applied, or why not.
    pub(super) fn result(&self) -> Result<(), ReportedFailure> {
        result(&self.report)
    }
}

fn result(report: &DeploymentReport) -> Result<(), ReportedFailure> {
    if report.status == DeploymentStatus::Success {
        return Ok(());
    }
    let code = report.error_code.as_deref().unwrap_or_default();
    let reason = match code {
        "GATEWAY_PROCESSING_ERROR" => Reason::GatewayProcessingError,
        "DEPLOYMENT_ID_MISMATCH" => Reason::DeploymentIdMismatch,
        _ => Reason::ApplyFailed,
    };
    Err(ReportedFailure::new(reason, code.escape_debug().take(200).collect()))
}

/// The deployment that a report names, and the sequence that had been `sent` when it arrived.
fn key(report: &DeploymentReport, sent: Sequence) -> DeploymentKey {
    DeploymentKey {
        artifact_id: report.artifact_id.clone(),
        deployment_id: report.deployment_id.clone(),
        suffix: report.action.suffix(),
        performed_at: report.performed_at,
        sent,
    }
}

/// A report that is left unmatched.
#[derive(Debug)]
pub(super) struct Unmatched {
    pub(super) key: DeploymentKey,
    /// Applied, or why not.
    pub(super) result: Result<(), ReportedFailure>,
}

impl Reports {
    pub(super) fn new(log: Arc<dyn Log>, health: Arc<dyn Health>, gateway: GatewayKey) -> Self {
        Self {
            log,
            health,
            gateway,
            waiting: VecDeque::new(),
            lookup: None,
            backoff: Backoff::default(),
            failures: StatementFailures::default(),
            received: Recent::default(),
            matched: Matches::default(),
        }
    }

    /// Adds a report that arrived when `sent` was the last sent sequence.
    pub(super) fn push(&mut self, report: DeploymentReport, sent: Sequence) -> Pushed {
        if self.waiting.len() >= MAX_REPORTS {
            return Pushed::Refused;
        }
        let mut hasher = DefaultHasher::new();
        // A report may answer an event that was sent since its last copy.
        (&report, sent).hash(&mut hasher);
        if !self.received.insert(hasher.finish()) {
            return Pushed::Repeated;
        }
        self.waiting.push_back((report, sent));
        Pushed::Waiting
    }

    /// Whether an event is reported like this for the first time.
    pub(super) fn is_new(&mut self, sequence: Sequence, is_applied: bool) -> bool {
        self.matched.is_new(sequence, is_applied)
    }

    /// Takes the newest [`UNMATCHED`] of the reports that are not matched yet, oldest first.
    pub(super) fn take_unmatched(&mut self) -> Vec<Unmatched> {
        self.lookup = None;
        let dropped = self.waiting.len().saturating_sub(UNMATCHED);
        if dropped > 0 {
            tracing::warn!(
                gateway = self.gateway.0,
                dropped,
                "dropped reports that were not matched before their connection ended"
            );
            self.waiting.drain(..dropped);
        }
        let unmatched = |(report, sent): (DeploymentReport, Sequence)| Unmatched {
            key: key(&report, sent),
            result: result(&report),
        };
        self.waiting.drain(..).map(unmatched).collect()
    }

    /// How many are not matched yet.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Matches the oldest report, retrying until the database answers. `None` if the report was
    /// discarded. Does not return while none waits. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Matched> {
        loop {
            let (failures, found) = match self.look_up() {
                Some(lookup) => lookup.await,
                None => std::future::pending().await,
            };
            self.lookup = None;
            self.failures = failures;
            if let Err(Failure { error, is_permanent: false }) = found {
                let wait = self.backoff.next_pause();
                tracing::warn!(%error, "failed to match a report; retrying");
                self.lookup = self.ask(wait);
                continue;
            }
            self.backoff.reset();
            self.failures.reset();
            let (report, _) = self.waiting.pop_front()?;
            return match found {
                Ok(found) => Some(Matched { report, found }),
                Err(Failure { error, .. }) => {
                    self.discard(&report, &error);
                    None
                }
            };
        }
    }

    /// Discards a report that can't be matched. Its event is confirmed by the pong that follows.
    fn discard(&self, report: &DeploymentReport, error: &StoreError) {
        metrics::counter!(metric::OUTCOMES_DISCARDED).increment(1);
        tracing::error!(
            %error,
            gateway = self.gateway.0,
            ?report,
            "failed to match a report; it is discarded"
        );
    }

    fn look_up(&mut self) -> Option<&mut Lookup> {
        if self.lookup.is_none() {
            self.lookup = self.ask(Duration::ZERO);
        }
        self.lookup.as_mut()
    }

    fn ask(&self, wait: Duration) -> Option<Lookup> {
        let (report, sent) = self.waiting.front()?;
        let key = key(report, *sent);
        let (log, health) = (Arc::clone(&self.log), Arc::clone(&self.health));
        let gateway = self.gateway;
        let mut failures = self.failures;
        Some(Box::pin(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let found = match log.find_deployment(gateway, &key).await {
                Ok(found) => Ok(found),
                Err(error) => {
                    let is_cause = failures.lie_in_the_work(&error, health.as_ref()).await;
                    let is_permanent = is_cause || !is_passing(&error);
                    Err(Failure { error, is_permanent })
                }
            };
            (failures, found)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_new_once_and_none_is_after_the_event_was_applied() {
        let mut matches = Matches::default();
        let reports = [(1, false), (1, false), (1, true), (1, true), (1, false), (2, true)];
        let new = reports.map(|(sequence, applied)| matches.is_new(Sequence(sequence), applied));
        assert_eq!(new, [true, false, true, false, false, true]);
        for sequence in 3..3 + 2 * i64::try_from(MAX_REPORTS).unwrap() {
            assert!(matches.is_new(Sequence(sequence), true));
        }
        assert_eq!(matches.0.0.len(), MAX_REPORTS, "bounded");
    }
}
