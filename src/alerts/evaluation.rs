//! What an evaluation decides, without I/O: which alerts begin, fire and are resolved, and which
//! notifications are sent about them.
//!
//! An alert fires once its condition has been true for `forSeconds`, and is resolved once it has been
//! false for `keepFiringSeconds`. A notification that it fires is stored at that moment, or when the
//! silence of its rule ends. The destinations of that notification are also notified of its end, even
//! while the rule is silent, so that no thread stays open. To an Alertmanager, which resolves what it
//! has not received for a while, a firing alert is sent again from time to time.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::alertmanager::REFRESH;
use super::conditions::{Finding, Findings};
use super::message::{Message, StoredFinding};
use super::rules::Rule;
use crate::clock::Timestamp;
use crate::store::{AlertChange, AlertEvent, AlertState, NewNotification, StoredAlert};

/// What a rule found: by group, or why that is not known.
pub(super) type Evaluated<'a> = (&'a Rule, Option<Findings>);

/// A destination of an organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its id.
    pub(super) id: String,
    /// Whether firing alerts are sent to it again.
    pub(super) is_alertmanager: bool,
}

/// The changes of an organisation's alerts. `destinations` are all its destinations.
pub(super) fn decide(
    rules: &[Evaluated<'_>],
    known: Vec<StoredAlert>,
    destinations: &[Target],
    now: Timestamp,
) -> Vec<AlertChange> {
    let mut known: BTreeMap<(String, String), StoredAlert> =
        known.into_iter().map(|it| ((it.rule.clone(), it.group.clone()), it)).collect();
    let mut changes = Vec::new();
    for (rule, findings) in rules {
        let Some(findings) = findings else {
            // What it would find is not known, so its alerts stay as they are.
            known.retain(|(id, _), _| *id != rule.id);
            continue;
        };
        for (group, finding) in &findings.groups {
            let before = known.remove(&(rule.id.clone(), group.clone()));
            changes.extend(found(rule, group, finding, before, destinations, now));
        }
        let gone: Vec<_> = known.keys().filter(|(id, _)| *id == rule.id).cloned().collect();
        for key in gone {
            let Some(before) = known.remove(&key) else { continue };
            let why = findings.why_clear(rule, &key.1);
            changes.extend(cleared(rule, before, &why, findings.is_selecting(&key.1), now));
        }
    }
    for (_, before) in known {
        changes.extend(removed(before, now));
    }
    changes
}

/// The condition is true for a group.
fn found(
    rule: &Rule,
    group: &str,
    finding: &Finding,
    before: Option<StoredAlert>,
    destinations: &[Target],
    now: Timestamp,
) -> Option<AlertChange> {
    let open = before.filter(|alert| alert.state != AlertState::Resolved);
    let mut alert = open.clone().unwrap_or_else(|| StoredAlert {
        rule: rule.id.clone(),
        group: group.to_owned(),
        state: AlertState::Pending,
        since: now,
        fired_at: None,
        clear_since: None,
        resolved_at: None,
        found: String::new(),
        notified: Vec::new(),
        notified_at: None,
    });
    let stored_finding = StoredFinding::new(rule, finding.shown());
    alert.found = to_json(&stored_finding);
    alert.clear_since = None;
    let hold = Duration::from_secs(rule.definition.for_seconds);
    if alert.state == AlertState::Pending && now.since(alert.since) >= hold {
        alert.state = AlertState::Firing;
        alert.fired_at = Some(now);
    }
    let mut new = Vec::new();
    if alert.state == AlertState::Firing {
        let to = if alert.notified.is_empty() {
            alert.notified = first_destinations(rule, destinations, now);
            alert.notified.clone()
        } else {
            outdated(&alert, destinations, now)
        };
        if !to.is_empty() {
            alert.notified_at = Some(now);
            new = notifications(&alert, &to, stored_finding, AlertEvent::Firing, now);
        }
    }
    (open.as_ref() != Some(&alert)).then_some(AlertChange {
        alert,
        is_forgotten: false,
        notifications: new,
    })
}

/// The destinations of a rule that are notified that an alert fires; none while it is silent.
fn first_destinations(rule: &Rule, destinations: &[Target], now: Timestamp) -> Vec<String> {
    if rule.is_silent(now) {
        return Vec::new();
    }
    match &rule.definition.destinations {
        None => destinations.iter().map(|it| it.id.clone()).collect(),
        Some(chosen) => {
            let exists = |id: &&String| destinations.iter().any(|it| it.id == **id);
            chosen.iter().filter(exists).cloned().collect()
        }
    }
}

/// The Alertmanagers that an alert is sent to again, also while its rule is silent: otherwise they
/// would resolve it.
fn outdated(alert: &StoredAlert, destinations: &[Target], now: Timestamp) -> Vec<String> {
    if alert.notified_at.is_none_or(|at| now.since(at) < REFRESH) {
        return Vec::new();
    }
    let alertmanagers = destinations.iter().filter(|it| it.is_alertmanager);
    let known = alertmanagers.filter(|it| alert.notified.contains(&it.id));
    known.map(|it| it.id.clone()).collect()
}

/// The condition is not true any more. Nothing is waited for if the rule selects nothing of the group.
fn cleared(
    rule: &Rule,
    before: StoredAlert,
    why: &str,
    is_selecting: bool,
    now: Timestamp,
) -> Option<AlertChange> {
    let mut alert = before;
    match alert.state {
        AlertState::Resolved => None,
        AlertState::Pending => {
            Some(AlertChange { alert, is_forgotten: true, notifications: Vec::new() })
        }
        AlertState::Firing => {
            let is_new = alert.clear_since.is_none();
            let since = *alert.clear_since.get_or_insert(now);
            let hold = Duration::from_secs(rule.definition.keep_firing_seconds);
            if is_selecting && now.since(since) < hold {
                return is_new.then_some(AlertChange {
                    alert,
                    is_forgotten: false,
                    notifications: Vec::new(),
                });
            }
            Some(resolved(alert, why, now))
        }
    }
}

/// The rule was deleted or disabled.
fn removed(before: StoredAlert, now: Timestamp) -> Option<AlertChange> {
    match before.state {
        AlertState::Resolved => None,
        AlertState::Pending => {
            Some(AlertChange { alert: before, is_forgotten: true, notifications: Vec::new() })
        }
        AlertState::Firing => Some(resolved(before, "The rule was deleted or disabled.", now)),
    }
}

fn resolved(before: StoredAlert, why: &str, now: Timestamp) -> AlertChange {
    let mut alert = before;
    alert.state = AlertState::Resolved;
    alert.resolved_at = Some(now);
    let mut stored_finding = StoredFinding::read(&alert.found);
    why.clone_into(&mut stored_finding.finding.summary);
    alert.found = to_json(&stored_finding);
    let notifications =
        notifications(&alert, &alert.notified, stored_finding, AlertEvent::Resolved, now);
    AlertChange { alert, is_forgotten: false, notifications }
}

/// A notification for each destination.
fn notifications(
    alert: &StoredAlert,
    destinations: &[String],
    stored_finding: StoredFinding,
    event: AlertEvent,
    now: Timestamp,
) -> Vec<NewNotification> {
    let body = to_json(&Message::new(alert, stored_finding, event, now));
    let notify = |destination: &String| NewNotification {
        id: Uuid::now_v7().to_string(),
        destination: destination.clone(),
        event,
        body: body.clone(),
    };
    destinations.iter().map(notify).collect()
}

/// These types are made of texts and numbers, so this does not fail.
fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned())
}

#[cfg(test)]
mod tests;
