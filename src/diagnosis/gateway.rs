//! The diagnosis of a gateway.

use std::time::Duration;

use super::Step;
use super::labels::{Difference, differences, mistyped};
use super::step::{argument, count, gateway_word, label_options, labels_in_words, quoted};
use crate::clock::Timestamp;
use crate::event::{EventId, EventType, Reason};
use crate::names::{closest, is_misspelling};
use crate::store::{
    Gateway, GatewayEvidence, GatewayState, GatewayThen, LabelTarget, Labels, NamedByRow,
    ReasonTally, RejectedRow, RejectionReason, TokenInfo, TruncatedList, VerdictState,
    reason_in_words, to_the_second,
};

/// A key that expires within this time is about to expire.
const SOON: Duration = Duration::from_hours(7 * 24);
/// Events that missed a gateway and are listed, at most.
pub const MAX_LISTED_EVENTS: usize = 100;
/// Steps that are proposed, at most.
const MAX_STEPS: usize = 12;

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
    /// Which labels of the gateway are probably mistyped; only then.
    pub mistyped: Labels,
    /// How many events there are.
    pub events: usize,
    /// When the first of them was published.
    pub first_at: Timestamp,
    /// When the last of them was published.
    pub last_at: Timestamp,
    /// The last of them.
    pub last_event: EventId,
    /// The oldest of them, oldest first, at most [`MAX_LISTED_EVENTS`].
    pub oldest: Vec<MissedEvent>,
}

/// An event that missed a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissedEvent {
    /// The event.
    pub id: EventId,
    /// Its type.
    pub event_type: EventType,
    /// When it was appended.
    pub appended_at: Timestamp,
}

/// Why a target missed a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissedBy {
    /// The gateway had had all of its labels before: they were removed or changed.
    RemovedLabel,
    /// It matched no gateway, and its labels are similar to those of this gateway: it is probably
    /// mistyped.
    MistypedTarget,
    /// It matched other gateways, and a label of this gateway that no other gateway has and no event
    /// targets is similar to one of its labels: the gateway's label is probably mistyped.
    MistypedLabel,
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
pub fn missed(evidence: &GatewayEvidence) -> TruncatedList<Missed> {
    let mut found: Vec<Missed> = Vec::new();
    for target in evidence.label_targets.iter().filter(|target| !target.is_logged) {
        let Some((kind, differences, mistyped)) = why_missed(evidence, target) else { continue };
        let event = MissedEvent {
            id: target.event_id.clone(),
            event_type: target.event_type.clone(),
            appended_at: target.appended_at,
        };
        match found.iter_mut().find(|it| it.labels == target.labels && it.kind == kind) {
            Some(same) => {
                same.events += 1;
                same.first_at = target.appended_at;
                same.oldest.push(event);
            }
            None => found.push(Missed {
                labels: target.labels.clone(),
                kind,
                differences,
                mistyped,
                events: 1,
                first_at: target.appended_at,
                last_at: target.appended_at,
                last_event: target.event_id.clone(),
                oldest: vec![event],
            }),
        }
    }
    for missed in &mut found {
        missed.oldest.reverse();
        missed.oldest.truncate(MAX_LISTED_EVENTS);
    }
    TruncatedList::of(found)
}

/// Why a target missed the gateway, in which labels it differs, and which labels of the gateway are
/// mistyped. `None` if it was probably not for the gateway.
fn why_missed(
    evidence: &GatewayEvidence,
    target: &LabelTarget,
) -> Option<(MissedBy, Vec<Difference>, Labels)> {
    let (gateway, at) = (&evidence.gateway, target.appended_at);
    let labels = match GatewayState::at(&evidence.history, gateway.created_at, at) {
        GatewayThen::Was(state) => &state.labels,
        GatewayThen::Unknown => &gateway.labels,
        GatewayThen::NotRegistered | GatewayThen::Deleted(_) => return None,
    };
    let differences = differences(&target.labels, labels, &evidence.history, at);
    if differences.is_empty() {
        return None;
    }
    if differences.iter().all(|it| it.until.is_some()) {
        return Some((MissedBy::RemovedLabel, differences, Labels::new()));
    }
    if target.matched == 0 {
        let is_explained = differences.iter().all(Difference::is_explained);
        return is_explained.then_some((MissedBy::MistypedTarget, differences, Labels::new()));
    }
    let mistyped = mistyped(&target.labels, labels)?;
    let is_asked_for = |(name, value): (&String, &String)| {
        evidence.label_targets.iter().any(|other| other.labels.get(name) == Some(value))
    };
    // Labels of older states were not looked up.
    let own = GatewayEvidence::own_labels(&gateway.labels, &evidence.history);
    let is_shared = |(name, value): (&String, &String)| {
        let label = (name.clone(), value.clone());
        !own.contains(&label) || evidence.shared_labels.contains(&label)
    };
    let is_deliberate = mistyped.iter().any(|label| is_shared(label) || is_asked_for(label));
    (!is_deliberate).then_some((MissedBy::MistypedLabel, differences, mistyped))
}

/// A rejected row that is for the gateway, or was probably meant for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The row.
    pub row: RejectedRow,
    /// Whether its target does not select the gateway, and has labels that are similar to those of
    /// the gateway, or that the gateway has lost.
    pub is_similar: bool,
    /// A registered event type with a similar name, if the row's is not registered.
    pub did_you_mean: Option<String>,
    /// Whether it was rejected because its event type was not registered, and the type is now.
    pub is_registered_now: bool,
}

/// The rejected rows that name the gateway, by its id, its labels, or as one of all; also by similar
/// labels. `types` are the names of the event types that can be published.
pub fn rejected(evidence: &GatewayEvidence, types: &[String]) -> TruncatedList<Rejected> {
    let gateway = &evidence.gateway;
    let found = evidence.rejected.iter().filter_map(|row| {
        let named = NamedByRow::of(row);
        let is_similar = if named.all || named.ids.contains(&gateway.id) {
            false
        } else {
            let wanted = named.labels.as_ref()?;
            let missing = differences(wanted, &gateway.labels, &evidence.history, row.rejected_at);
            if !missing.iter().all(Difference::is_explained) {
                return None;
            }
            !missing.is_empty()
        };
        let is_unknown = row.reason == RejectionReason::UnknownEventType;
        let is_registered_now = is_unknown && types.contains(&row.event_type);
        let similar = types.iter().map(String::as_str).filter(|_| !is_registered_now);
        let similar = similar.filter(|name| is_unknown && is_misspelling(name, &row.event_type));
        let did_you_mean = closest(&row.event_type, similar).map(str::to_owned);
        Some(Rejected { row: row.clone(), is_similar, did_you_mean, is_registered_now })
    });
    TruncatedList::of(found.collect())
}

/// What to do next, the most urgent first. Empty if nothing is wrong.
pub fn next(
    evidence: &GatewayEvidence,
    missed: &TruncatedList<Missed>,
    rejected: &TruncatedList<Rejected>,
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
    let registered_now = rejected.list.iter().filter(|it| it.is_registered_now).count();
    for row in &rejected.list {
        steps.extend(retry(row, registered_now));
    }
    let mut unique: Vec<Step> = Vec::new();
    for step in steps {
        if !unique.iter().any(|it| it.command == step.command) && unique.len() < MAX_STEPS {
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
                let why = "It is not connected either. Start it, or check its log.";
                steps.push(Step::new(why, format!("gateway connections {name} --all")));
            }
        }
        VerdictState::Failing if verdict.failures == 0 => {
            steps.push(Step::new(unhandled(evidence), log()));
        }
        VerdictState::Behind if is_resyncing(evidence) => {
            let why = "It is connected, and reads a snapshot, because a resync was requested. Delivery continues when it has applied the snapshot; if that takes long, check the gateway's log.";
            steps.push(Step::new(why, format!("gateway instances {name}")));
        }
        VerdictState::Behind => {
            let why = "It is connected and confirms slowly or not at all. Look at the first event that it has not confirmed, and check the gateway's log.";
            steps.push(Step::new(why, log()));
        }
        VerdictState::Failing | VerdictState::Away | VerdictState::Ok => {}
    }
    if let Some(why) = key_fault(evidence) {
        steps.push(Step::new(why, format!("token create --gateway {name}")));
    } else if verdict.state == VerdictState::Away {
        let why = match verdict.reason.as_deref() {
            Some("never_connected") | None => "It has never connected. Start it with its key, and check that it is configured with this service's address.".to_owned(),
            Some(reason) => format!("Its last connection ended ({reason}), and it has not reconnected. Start the gateway, or check its log; its events are kept and delivered when it connects."),
        };
        steps.push(Step::new(why, format!("gateway connections {name} --all")));
    }
}

/// Why a connected gateway is failing without a failed report.
fn unhandled(evidence: &GatewayEvidence) -> String {
    let refused = evidence.gateway.last_failure.map(|(_, reason)| reason);
    match refused.filter(|reason| reason.is_reported()) {
        Some(reason) => format!(
            "It is connected and could not apply an event ({reason}){}. It is sent the event again. Fix the cause at the gateway, or skip the first event that it has not confirmed.",
            said(evidence, reason).map(|it| format!(", and said {it}")).unwrap_or_default()
        ),
        None => "It is connected and did not handle an event in time. Look at the first event that it has not confirmed, and check the gateway's log.".to_owned(),
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
    let were = if tally.count == 1 { "was" } else { "were" };
    let since = to_the_second(tally.first_at);
    let reason = tally.reason;
    let filter = format!("--gateway {name} --reason {} --since {since}", argument(reason.as_str()));
    Some(match reason {
        Reason::GatewayDeleted => return None,
        Reason::Purged => Step::new(
            format!(
                "{deliveries} {were} given up, because an admin purged the payload. That can't be redriven: list what was given up, and publish what is still needed as new events."
            ),
            format!("delivery failed {filter}"),
        ),
        Reason::Skipped => Step::new(
            format!(
                "{deliveries} {were} skipped by an admin. If the gateway needs that after all, append it again."
            ),
            format!("delivery redrive {filter}"),
        ),
        Reason::Expired => Step::new(
            format!(
                "{deliveries} expired before the gateway received the event. Expired events can't be redriven: list them, and publish again, as a new event with a time to live that is long enough, what is still needed: gateway-events event republish ID --gateway {name} --ttl 1d"
            ),
            format!("delivery failed {filter}"),
        ),
        reason if reason.is_reported() => Step::new(
            format!(
                "The gateway reported {deliveries} as failed ({}), the last at {}{}. Fix the cause at the gateway, then append them again.",
                reason_in_words(reason.as_str()),
                to_the_second(tally.last_at),
                said(evidence, reason).map(|it| format!(", and said {it}")).unwrap_or_default()
            ),
            format!("delivery redrive {filter}"),
        ),
        reason => Step::new(
            format!("{deliveries} failed permanently ({reason}). Append them again."),
            format!("delivery redrive {filter}"),
        ),
    })
}

/// What the gateway said about its newest failure with this reason, if that is more than the reason.
fn said(evidence: &GatewayEvidence, reason: Reason) -> Option<String> {
    let said = evidence.said.iter().find(|it| it.reason == reason)?;
    let is_more = !said.detail.trim().eq_ignore_ascii_case(reason.as_str());
    is_more.then(|| quoted(&said.detail))
}

/// What to do about events whose target missed the gateway.
fn relabel(evidence: &GatewayEvidence, missed: &Missed, steps: &mut Vec<Step>) {
    let gateway = &evidence.gateway;
    let name = gateway_word(&gateway.name, gateway.id);
    let events = count(i64::try_from(missed.events).unwrap_or(i64::MAX), "event", "events");
    let target = labels_in_words(&missed.labels);
    let which = match missed.events {
        1 => format!("the event for {target} that"),
        _ => format!("the {events} for {target} that"),
    };
    let resend = |why: String| {
        if missed.events == 1 {
            let id = argument(missed.last_event.as_str());
            Step::new(why, format!("event resend {id} --gateway {name}"))
        } else {
            let labels = label_options(&missed.labels);
            let command = format!("event resend --missed-by {name} {labels}");
            Step::new(format!("{why} They are sent in order."), command)
        }
    };
    let is_missing =
        |(label, value): &(&String, &String)| gateway.labels.get(*label) != Some(*value);
    let absent = missed.labels.iter().filter(is_missing);
    let absent: Labels = absent.map(|(a, b)| (a.clone(), b.clone())).collect();
    match missed.kind {
        MissedBy::MistypedLabel => {
            if !absent.is_empty() {
                steps.push(correct(gateway, missed, &absent));
            }
            steps.push(resend(format!("Send it {which} missed it.")));
        }
        MissedBy::RemovedLabel => {
            let until = missed.differences.iter().filter_map(|it| it.until).max();
            let until = until.map(to_the_second).unwrap_or_default();
            if !absent.is_empty() {
                steps.push(Step::new(
                    format!(
                        "{events} for {target} missed it, because it lost {} at {until}. Set the label again.",
                        labels_in_words(&absent)
                    ),
                    format!("gateway update {name} {}", label_options(&absent)),
                ));
            }
            steps.push(resend(format!("Send it {which} missed it after {until}.")));
        }
        MissedBy::MistypedTarget => {
            let meant = missed.differences.iter().filter_map(|it| it.meant.as_deref());
            let meant = meant.collect::<Vec<_>>().join(", ");
            steps.push(resend(format!(
                "{events} for {target} matched no gateway; {meant} was probably meant. Correct the publisher, and send what this gateway missed."
            )));
        }
    }
}

/// How to correct the gateway's labels that are probably mistyped.
fn correct(gateway: &Gateway, missed: &Missed, absent: &Labels) -> Step {
    let name = gateway_word(&gateway.name, gateway.id);
    let events = count(i64::try_from(missed.events).unwrap_or(i64::MAX), "event", "events");
    let (first, last) = (to_the_second(missed.first_at), to_the_second(missed.last_at));
    let when = if first == last { format!("at {last}") } else { format!("from {first} to {last}") };
    let is_removed =
        |name: &&String| !missed.labels.contains_key(*name) && gateway.labels.contains_key(*name);
    let removed = missed.mistyped.keys().filter(is_removed);
    let removed = removed.map(|name| format!(" --remove-label {}", argument(name)));
    let removed = removed.collect::<Vec<_>>().concat();
    Step::new(
        format!(
            "{events} for {} {when} missed it. It has {} instead, which no other gateway has and no event targets; it is probably a typo. Correct it.",
            labels_in_words(&missed.labels),
            labels_in_words(&missed.mistyped)
        ),
        format!("gateway update {name} {}{removed}", label_options(absent)),
    )
}

/// What to do about a rejected row.
fn retry(rejected: &Rejected, of_reason: usize) -> Option<Step> {
    let Rejected { row, is_similar, did_you_mean, is_registered_now } = rejected;
    let at = to_the_second(row.rejected_at);
    let (reason, id) = (row.reason, row.id);
    let which = if *is_similar { "with a similar target" } else { "for it" };
    let event_type = &row.event_type;
    if *is_registered_now {
        let why = format!(
            "A row of the inbox {which} was rejected at {at}, because its event type {event_type} was not registered. It is registered now; put the row back, which publishes it."
        );
        return Some(Step::new(
            why,
            match of_reason {
                1 => format!("inbox retry {id}"),
                _ => format!("inbox retry --reason {reason}"),
            },
        ));
    }
    Some(match (reason, did_you_mean) {
        (RejectionReason::UnknownEventType, Some(meant)) => Step::new(
            format!(
                "A row of the inbox {which} was rejected at {at}, because its event type {event_type} is not registered; did you mean {meant}? Correct the row, which publishes it."
            ),
            format!("inbox edit {id} --type {}", argument(meant)),
        ),
        (RejectionReason::UnknownEventType, None) => Step::new(
            format!(
                "A row of the inbox {which} was rejected at {at}, because its event type {event_type} is not registered. Register the type, if the name is right, then put the row back: gateway-events inbox retry {id}. Otherwise correct the row: gateway-events inbox edit {id} --type NAME"
            ),
            format!("event-type put {}", argument(event_type)),
        ),
        (RejectionReason::Expired, _) => return None,
        _ => Step::new(
            format!(
                "A row of the inbox {which} was rejected at {at} ({reason}): {}. Show it, and then correct and publish it: gateway-events inbox edit {id}",
                row.detail.trim_end_matches('.')
            ),
            format!("inbox show {id}"),
        ),
    })
}
