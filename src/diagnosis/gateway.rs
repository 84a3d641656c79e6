//! The diagnosis of a gateway.

use std::time::Duration;

use super::Step;
use super::labels::{Difference, differences};
use super::step::{argument, count, gateway_word, label_options, labels_in_words};
use crate::clock::Timestamp;
use crate::event::{EventId, Reason};
use crate::store::{
    Few, GatewayEvidence, GatewayState, GatewayThen, Labels, NamedByRow, ReasonTally, RejectedRow,
    RejectionReason, TokenInfo, VerdictState, reason_in_words, to_the_second,
};

/// A key that expires within this time is about to expire.
const SOON: Duration = Duration::from_hours(7 * 24);
/// Steps that are proposed, at most.
const MOST_STEPS: usize = 12;

/// Events for labels that missed a gateway, although a removed, changed or mistyped label is all
/// that kept them from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The labels of the target.
    pub labels: Labels,
    /// Why it missed.
    pub kind: MissedBy,
    /// Which of these labels the gateway did not have when the last of the events was published.
    pub differences: Vec<Difference>,
    /// How many events there are.
    pub events: usize,
    /// When the first of them was published.
    pub first_at: Timestamp,
    /// When the last of them was published.
    pub last_at: Timestamp,
    /// The last of them.
    pub last_event: EventId,
}

/// Why a target missed a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissedBy {
    /// The gateway had had all of its labels before: they were removed or changed.
    RemovedLabel,
    /// It matched no gateway, and its labels are similar to those of this gateway: it is probably
    /// mistyped.
    MistypedTarget,
}

/// The state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It can be used.
    Valid,
    /// It can be used, and expires within seven days.
    Expiring,
    /// It has expired.
    Expired,
    /// It was revoked.
    Revoked,
}

impl KeyState {
    /// The state of a key at an instant.
    pub fn of(key: &TokenInfo, now: Timestamp) -> Self {
        match key.expires_at {
            _ if key.revoked_at.is_some() => Self::Revoked,
            Some(at) if at <= now => Self::Expired,
            Some(at) if at <= now.plus(SOON) => Self::Expiring,
            _ => Self::Valid,
        }
    }
}

/// The targets of labels that missed the gateway, the last one first.
pub fn missed(evidence: &GatewayEvidence) -> Few<Missed> {
    let mut found: Vec<Missed> = Vec::new();
    for target in &evidence.label_targets {
        let registered_at = evidence.gateway.created_at;
        let then = GatewayState::at(&evidence.history, registered_at, target.appended_at);
        let labels = match then {
            GatewayThen::Was(state) => &state.labels,
            GatewayThen::Unknown => &evidence.gateway.labels,
            GatewayThen::NotRegistered | GatewayThen::Deleted(_) => continue,
        };
        let differences =
            differences(&target.labels, labels, &evidence.history, target.appended_at);
        let kind = if differences.is_empty() {
            continue;
        } else if differences.iter().all(|it| it.until.is_some()) {
            MissedBy::RemovedLabel
        } else if target.matched == 0 && differences.iter().all(Difference::is_explained) {
            MissedBy::MistypedTarget
        } else {
            continue;
        };
        match found.iter_mut().find(|it| it.labels == target.labels && it.kind == kind) {
            Some(same) => {
                same.events += 1;
                same.first_at = target.appended_at;
            }
            None => found.push(Missed {
                labels: target.labels.clone(),
                kind,
                differences,
                events: 1,
                first_at: target.appended_at,
                last_at: target.appended_at,
                last_event: target.event_id.clone(),
            }),
        }
    }
    Few::of(found)
}

/// The rejected rows that name the gateway, by its id, its labels, or as one of all.
pub fn rejected(evidence: &GatewayEvidence) -> Few<RejectedRow> {
    let gateway = &evidence.gateway;
    let names_it = |row: &&RejectedRow| {
        let named = NamedByRow::of(row);
        let has = |labels: &Labels| {
            let at = row.rejected_at;
            let missing = differences(labels, &gateway.labels, &evidence.history, at);
            missing.iter().all(Difference::is_explained)
        };
        named.all || named.ids.contains(&gateway.id) || named.labels.as_ref().is_some_and(has)
    };
    Few::of(evidence.rejected.iter().filter(names_it).cloned().collect())
}

/// What to do next, the most urgent first. Empty if nothing is wrong.
pub fn next(
    evidence: &GatewayEvidence,
    missed: &Few<Missed>,
    rejected: &Few<RejectedRow>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    connection(evidence, &mut steps);
    if evidence.deleted_at.is_none() {
        for tally in &evidence.dead_letters {
            steps.extend(dead_letters(evidence, tally));
        }
    }
    for missed in &missed.list {
        relabel(evidence, missed, &mut steps);
    }
    for row in &rejected.list {
        steps.extend(retry(row));
    }
    let mut unique: Vec<Step> = Vec::new();
    for step in steps {
        if !unique.iter().any(|it| it.command == step.command) && unique.len() < MOST_STEPS {
            unique.push(step);
        }
    }
    unique
}

/// What keeps the gateway from being connected and up to date.
fn connection(evidence: &GatewayEvidence, steps: &mut Vec<Step>) {
    let gateway = &evidence.gateway;
    let name = gateway_word(&gateway.name, gateway.id);
    let verdict = evidence.verdict();
    let log = || format!("gateway log {name} --after {}", gateway.confirmed);
    match verdict.state {
        VerdictState::Deleted => {
            let why = "It was deleted. Register it again, create a key for it, and publish again what it needs.";
            steps.push(Step::new(why, format!("gateway register {}", argument(&gateway.name))));
            return;
        }
        VerdictState::Disabled => {
            let why = "It is disabled. Its events are kept; enable it, and it receives them.";
            steps.push(Step::new(why, format!("gateway enable {name}")));
        }
        VerdictState::Paused => {
            let why = "Its delivery is paused, and its events are kept. Resume it to deliver them.";
            steps.push(Step::new(why, format!("gateway resume {name}")));
            if gateway.connected_since.is_none() && key_fault(evidence).is_none() {
                let why = "It is not connected either. Start it, or look into its log.";
                steps.push(Step::new(why, format!("gateway connections {name} --all")));
            }
        }
        VerdictState::Failing if verdict.failures == 0 => {
            let why = "It is connected and did not handle an event in time. Look at the first event that it has not confirmed, and into the gateway's own log.";
            steps.push(Step::new(why, log()));
        }
        VerdictState::Behind if is_resyncing(evidence) => {
            let why = "It is connected, and reads a snapshot, because a resync was requested. Delivery goes on when it has applied the snapshot; if that takes long, look into the gateway's own log.";
            steps.push(Step::new(why, format!("gateway instances {name}")));
        }
        VerdictState::Behind => {
            let why = "It is connected and confirms slowly or not at all. Look at the first event that it has not confirmed, and into the gateway's own log.";
            steps.push(Step::new(why, log()));
        }
        VerdictState::Failing | VerdictState::Away | VerdictState::Ok => {}
    }
    if let Some(why) = key_fault(evidence) {
        steps.push(Step::new(why, format!("token create --gateway {name}")));
    } else if verdict.state == VerdictState::Away {
        let why = match verdict.reason.as_deref() {
            Some("never_connected") | None => "It has never connected. Start it with its key, and check that it is configured with this service's address.".to_owned(),
            Some(reason) => format!("Its last connection ended ({reason}), and it has not come back. Start the gateway, or look into its log; its events are kept and delivered when it connects."),
        };
        steps.push(Step::new(why, format!("gateway connections {name} --all")));
    }
}

/// Whether an instance of the gateway is reading a snapshot.
fn is_resyncing(evidence: &GatewayEvidence) -> bool {
    let resyncs = &evidence.resyncs.list;
    resyncs.iter().any(|it| it.started.is_some() && it.ended.is_none())
}

/// Why the gateway needs a new key.
fn key_fault(evidence: &GatewayEvidence) -> Option<String> {
    let gateway = &evidence.gateway;
    let state = |key: &TokenInfo| KeyState::of(key, gateway.as_of);
    let keys = &evidence.keys.list;
    let live: Vec<&TokenInfo> = keys
        .iter()
        .filter(|key| matches!(state(key), KeyState::Valid | KeyState::Expiring))
        .collect();
    if live.is_empty() {
        let newest = keys.iter().max_by_key(|key| key.revoked_at.or(key.expires_at));
        return Some(match newest {
            None => "It has no key. Create one, and configure the gateway with it.".to_owned(),
            Some(key) => {
                let what = if key.revoked_at.is_some() { "was revoked" } else { "expired" };
                let at = key.revoked_at.or(key.expires_at).map(to_the_second).unwrap_or_default();
                format!(
                    "It has no valid key: key {} {what} at {at}. Create a new one, and configure the gateway with it.",
                    key.id
                )
            }
        });
    }
    let away_since = gateway.left.map_or(gateway.created_at, |(at, _)| at);
    if let Some(refusal) = &gateway.last_refusal
        && gateway.connected_since.is_none()
        && refusal.at >= away_since
        && refusal.cause.is_some()
    {
        return Some(format!(
            "It was refused at {} ({}), although it has a valid key. Configure the gateway with that one, or with a new one.",
            to_the_second(refusal.at),
            refusal.in_words()
        ));
    }
    let is_expiring = live.iter().all(|key| state(key) == KeyState::Expiring);
    let expires_at = live.iter().filter_map(|key| key.expires_at).max().filter(|_| is_expiring)?;
    Some(format!(
        "Its last valid key expires at {}. Create a new one before then, and configure the gateway with it.",
        to_the_second(expires_at)
    ))
}

/// What to do about dead letters.
fn dead_letters(evidence: &GatewayEvidence, tally: &ReasonTally) -> Option<Step> {
    let gateway = &evidence.gateway;
    let name = gateway_word(&gateway.name, gateway.id);
    let deliveries = count(tally.count, "delivery", "deliveries");
    let since = to_the_second(tally.first_at);
    let reason = tally.reason;
    let filter = format!("--gateway {name} --reason {} --since {since}", argument(reason.as_str()));
    Some(match reason {
        Reason::GatewayDeleted => return None,
        Reason::Purged => Step::new(
            format!(
                "{deliveries} were given up, because an admin purged the payloads. They can't be redriven: list them, and publish what is still needed as new events."
            ),
            format!("delivery failed {filter}"),
        ),
        Reason::Skipped => Step::new(
            format!(
                "{deliveries} were skipped by an admin. Append them again if the gateway needs them after all."
            ),
            format!("delivery redrive {filter}"),
        ),
        Reason::Expired => Step::new(
            format!(
                "{deliveries} expired before the gateway received the event. Expired events can't be redriven: list them, and publish again what is still needed."
            ),
            format!("delivery failed {filter}"),
        ),
        reason if reason.is_reported() => Step::new(
            format!(
                "The gateway refused {deliveries} ({}), the last at {}. Fix the cause at the gateway, then append them again.",
                reason_in_words(reason.as_str()),
                to_the_second(tally.last_at)
            ),
            format!("delivery redrive {filter}"),
        ),
        reason => Step::new(
            format!("{deliveries} failed permanently ({reason}). Append them again."),
            format!("delivery redrive {filter}"),
        ),
    })
}

/// What to do about events whose target missed the gateway.
fn relabel(evidence: &GatewayEvidence, missed: &Missed, steps: &mut Vec<Step>) {
    let gateway = &evidence.gateway;
    let name = gateway_word(&gateway.name, gateway.id);
    let events = count(i64::try_from(missed.events).unwrap_or(i64::MAX), "event", "events");
    let target = labels_in_words(&missed.labels);
    let resend = |why: String| {
        let id = argument(missed.last_event.as_str());
        Step::new(why, format!("event resend {id} --gateway {name}"))
    };
    match missed.kind {
        MissedBy::RemovedLabel => {
            let is_missing =
                |(label, value): &(&String, &String)| gateway.labels.get(*label) != Some(*value);
            let lost = missed.labels.iter().filter(is_missing);
            let lost: Labels = lost.map(|(a, b)| (a.clone(), b.clone())).collect();
            let until = missed.differences.iter().filter_map(|it| it.until).max();
            let until = until.map(to_the_second).unwrap_or_default();
            if !lost.is_empty() {
                steps.push(Step::new(
                    format!(
                        "{events} for {target} missed it, because it lost {} at {until}. Set the label again.",
                        labels_in_words(&lost)
                    ),
                    format!("gateway update {name} {}", label_options(&lost)),
                ));
            }
            steps.push(resend(format!(
                "Send it the last of the {events} for {target} that missed it after {until}."
            )));
        }
        MissedBy::MistypedTarget => {
            let meant = missed.differences.iter().filter_map(|it| it.meant.as_deref());
            let meant = meant.collect::<Vec<_>>().join(", ");
            steps.push(resend(format!(
                "{events} for {target} matched no gateway; {meant} was probably meant. Send the last one to this gateway, and correct the publisher."
            )));
        }
    }
}

/// What to do about a rejected row.
fn retry(row: &RejectedRow) -> Option<Step> {
    let at = to_the_second(row.rejected_at);
    let (reason, id) = (row.reason, row.id);
    Some(match reason {
        RejectionReason::UnknownEventType => Step::new(
            format!(
                "A row of the inbox for it was rejected at {at}, because its event type {} is not registered. Register the type, if the name is right, then put the row back: gateway-events inbox retry {id}. Otherwise correct the row: gateway-events inbox edit {id} --type NAME",
                row.event_type
            ),
            format!("event-type put {}", argument(&row.event_type)),
        ),
        RejectionReason::Expired => return None,
        _ => Step::new(
            format!(
                "A row of the inbox for it was rejected at {at} ({reason}): {} Show it, and then correct and publish it: gateway-events inbox edit {id}",
                row.detail
            ),
            format!("inbox show {id}"),
        ),
    })
}
