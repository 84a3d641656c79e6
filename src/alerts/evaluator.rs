//! The job that evaluates rules. Each node runs it, and stores what only it can measure. The node that
//! holds the evaluation lease evaluates; the lease ends if it is not renewed for three intervals.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Measure;
use super::conditions::{Facts, Findings};
use super::evaluation::{Evaluated, Target, decide};
use super::message::StoredFinding;
use super::rules::{Rule, Rules};
use crate::api::{AlertDestinationKind, AlertDestinationSettings, AlertSeverity};
use crate::event::OrganisationKey;
use crate::jobs::{Job, Next};
use crate::metric;
use crate::store::{
    AlertState, Alerts, EvaluationLease, Result, StoreError, StoredAlert, StoredDestination,
};

/// The shortest lease.
const MIN_LEASE: Duration = Duration::from_secs(5);
/// Changes that one transaction stores, at most.
const CHANGES: usize = 100;

pub(super) struct Evaluator {
    store: Arc<dyn Alerts>,
    measure: Measure,
    interval: Duration,
}

impl Evaluator {
    pub(super) fn new(store: Arc<dyn Alerts>, measure: Measure, interval: Duration) -> Self {
        Self { store, measure, interval }
    }

    /// Evaluates the rules of an organisation. Returns its alerts as they were before, and `None` if
    /// another node has acquired the lease.
    async fn evaluate(
        &self,
        lease: EvaluationLease,
        organisation: OrganisationKey,
    ) -> Result<Option<Vec<StoredAlert>>> {
        let Rules { in_force, unreadable } =
            Rules::new(self.store.alert_rules(organisation).await?);
        let destinations = self.store.alert_destinations(organisation).await?;
        let destinations: Vec<Target> = destinations.into_iter().map(target).collect();
        let known = self.store.alerts(organisation).await?;
        let mut facts = Facts::new(&self.store, organisation, lease.at);
        let mut evaluated: Vec<Evaluated<'_>> = Vec::with_capacity(in_force.len());
        for rule in in_force.iter().filter(|rule| rule.definition.enabled) {
            evaluated.push((rule, findings(&mut facts, rule).await?));
        }
        let mut decidable = known.clone();
        decidable.retain(|alert| !unreadable.contains(&alert.rule));
        let changes = decide(&evaluated, decidable, &destinations, lease.at);
        for part in changes.chunks(CHANGES) {
            if !self.store.change_alerts(lease, organisation, part).await? {
                return Ok(None);
            }
        }
        for change in &changes {
            let (rule, group, state) =
                (&change.alert.rule, &change.alert.group, change.alert.state);
            if !change.notifications.is_empty() || change.alert.resolved_at == Some(lease.at) {
                let summary = StoredFinding::read(&change.alert.found).finding.summary;
                tracing::info!(rule, group, state = state.as_str(), summary, "alert");
            }
        }
        Ok(Some(known))
    }
}

/// What an evaluation needs of a destination.
fn target(stored: StoredDestination) -> Target {
    let settings: Option<AlertDestinationSettings> = serde_json::from_str(&stored.definition).ok();
    let kind = settings.map(|settings| settings.kind);
    Target { id: stored.id, is_alertmanager: kind == Some(AlertDestinationKind::Alertmanager) }
}

/// What a rule finds. `None` if its query took too long or failed for a reason that lies in it: other
/// rules are evaluated nevertheless.
async fn findings(facts: &mut Facts<'_>, rule: &Rule) -> Result<Option<Findings>> {
    match facts.evaluate(&rule.definition).await {
        Ok(findings) => Ok(Some(findings)),
        Err(
            error @ (StoreError::TooLong(_)
            | StoreError::StatementFailed(_)
            | StoreError::Corrupt(_)),
        ) => {
            metrics::counter!(metric::ALERT_RULE_FAILURES).increment(1);
            tracing::warn!(rule = rule.id, %error, "failed to evaluate an alert rule");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Job for Evaluator {
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Next> {
        let begin = Instant::now();
        self.store.note_node_health((self.measure)()).await?;
        let length = (self.interval * 3).max(MIN_LEASE);
        let Some(lease) = self.store.acquire_evaluation_lease(length).await? else {
            count(&[]);
            return Ok(Next::Wait);
        };
        let mut alerts = Vec::new();
        for organisation in self.store.organisations().await? {
            match self.evaluate(lease, organisation).await? {
                Some(mut known) => alerts.append(&mut known),
                None => return Ok(Next::Wait),
            }
        }
        count(&alerts);
        metrics::histogram!(metric::ALERT_EVALUATION_DURATION).record(begin.elapsed());
        Ok(Next::Wait)
    }
}

/// Sets the metric of firing alerts. On a node without the lease it is 0.
fn count(alerts: &[StoredAlert]) {
    for severity in AlertSeverity::ALL {
        let firing = alerts.iter().filter(|alert| {
            alert.state == AlertState::Firing
                && StoredFinding::read(&alert.found).severity == severity
        });
        let firing = u32::try_from(firing.count()).unwrap_or(u32::MAX);
        metrics::gauge!(metric::ALERTS_FIRING, "severity" => severity.as_str()).set(firing);
    }
}
