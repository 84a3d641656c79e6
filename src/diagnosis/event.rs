//! The diagnosis of an event.

use std::collections::BTreeMap;

use super::Step;
use super::labels::{Difference, differences};
use super::step::{argument, gateway_word, labels_in_words};
use crate::clock::Timestamp;
use crate::event::{GatewayId, Reason, Sequence};
use crate::store::{
    Delivery, DeliveryState, EventEvidence, EventState, GatewayHistory, GatewayState, GatewayThen,
    Labels, Outcome, PublishedTarget, TruncatedList, reason_in_words, to_the_second,
};

/// A gateway that an event was for, or might have been for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayMatch {
    /// The gateway.
    pub id: GatewayId,
    /// Its newest name.
    pub name: String,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// Whether the event was for it.
    pub then: TargetMatch,
    /// Its labels when the event was published; `None` if they are unknown.
    pub labels: Option<Labels>,
    /// Which labels of the target it did not have then.
    pub differences: Vec<Difference>,
    /// Whether it is deleted now.
    pub is_deleted: bool,
}

/// Whether an event was for a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetMatch {
    /// The event was for it.
    Matched,
    /// The gateway was registered later.
    NotRegistered,
    /// The gateway had been deleted.
    Deleted(Timestamp),
    /// The gateway did not have all labels of the target.
    Differed,
    /// The target did not name the gateway.
    NotNamed,
    /// Its labels then are not on record.
    Unknown,
}

impl TargetMatch {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Matched => "matched",
            Self::NotRegistered => "not_registered",
            Self::Deleted(_) => "deleted",
            Self::Differed => "differed",
            Self::NotNamed => "not_named",
            Self::Unknown => "unknown",
        }
    }
}

impl GatewayMatch {
    /// A sentence for people, which begins with the gateway's name.
    pub fn in_words(&self) -> String {
        let Self { name, then, registered_at, .. } = self;
        match then {
            TargetMatch::Matched => format!("{name} matched, and has the event in its log"),
            TargetMatch::NotRegistered => format!(
                "{name} was registered at {}, after the event was published",
                to_the_second(*registered_at)
            ),
            TargetMatch::Deleted(at) => format!(
                "{name} was deleted at {}, before the event was published",
                to_the_second(*at)
            ),
            TargetMatch::Differed => {
                let parts: Vec<String> =
                    self.differences.iter().map(Difference::in_words).collect();
                format!("{name} {}", parts.join("; and it "))
            }
            TargetMatch::NotNamed => format!("{name} was registered; the target does not name it"),
            TargetMatch::Unknown => {
                format!("{name} was registered; its labels at that time are not on record")
            }
        }
    }
}

/// A delivery of the event that is not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The sequence in the gateway's log.
    pub sequence: Sequence,
    /// Pending or failed.
    pub state: DeliveryState,
    /// Why the last attempt failed.
    pub reason: Option<Reason>,
    /// What the gateway said about that, or other details.
    pub detail: Option<String>,
    /// Failed attempts.
    pub failures: i64,
    /// When the last of them failed.
    pub last_failure_at: Option<Timestamp>,
}

/// A delivery of the event that the gateway's instances did not want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filtered {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The sequence in the gateway's log.
    pub sequence: Sequence,
    /// When the last of them filtered it.
    pub filtered_at: Option<Timestamp>,
    /// Details, such as that the instance started at the end of the log.
    pub detail: Option<String>,
}

/// Of each gateway the newest delivery, or one that was delivered.
fn newest(evidence: &EventEvidence) -> impl Iterator<Item = &Delivery> {
    let mut newest: BTreeMap<GatewayId, &Delivery> = BTreeMap::new();
    for delivery in &evidence.event.deliveries {
        let place = newest.entry(delivery.gateway_id).or_insert(delivery);
        if place.state != DeliveryState::Delivered {
            *place = delivery;
        }
    }
    newest.into_values()
}

/// The gateways whose instances did not want the event, by name.
pub fn filtered(evidence: &EventEvidence) -> TruncatedList<Filtered> {
    let filtered = newest(evidence).filter(|it| it.state == DeliveryState::Filtered);
    let mut filtered: Vec<Filtered> = filtered
        .map(|it| {
            let last = it.attempts.iter().rfind(|attempt| attempt.outcome == Outcome::Filtered);
            Filtered {
                gateway_id: it.gateway_id,
                gateway_name: it.gateway_name.clone(),
                sequence: it.sequence,
                filtered_at: last.map(|attempt| attempt.finished_at),
                detail: last.and_then(|attempt| attempt.detail.clone()),
            }
        })
        .collect();
    filtered.sort_by(|a, b| a.gateway_name.cmp(&b.gateway_name));
    TruncatedList::of(filtered)
}

/// The gateways at which the event failed or is pending, failures first.
pub fn open(evidence: &EventEvidence) -> TruncatedList<Open> {
    let open = newest(evidence).filter(|it| !it.state.is_settled());
    let mut open: Vec<Open> = open
        .map(|it| Open {
            gateway_id: it.gateway_id,
            gateway_name: it.gateway_name.clone(),
            sequence: it.sequence,
            state: it.state,
            reason: it.reason,
            detail: it.attempts.iter().rev().find_map(|attempt| attempt.detail.clone()),
            failures: it.failures,
            last_failure_at: it.last_failure_at,
        })
        .collect();
    open.sort_by_key(|it| (it.state != DeliveryState::Failed, it.gateway_name.clone()));
    TruncatedList::of(open)
}

/// What the event was to one gateway; `None` without any record of the gateway.
pub fn gateway_match(evidence: &EventEvidence, gateway: &GatewayHistory) -> Option<GatewayMatch> {
    let event = &evidence.event;
    let published = event.appended_at;
    let state = GatewayState::at(&gateway.changes, gateway.registered_at, published);
    let is_delivered = event.deliveries.iter().any(|it| it.gateway_id == gateway.id);
    let labels = match state {
        GatewayThen::Was(state) => Some(state.labels.clone()),
        _ => None,
    };
    let mut missing = Vec::new();
    let then = match (state, &event.target) {
        _ if is_delivered => TargetMatch::Matched,
        (GatewayThen::NotRegistered, _) => TargetMatch::NotRegistered,
        (GatewayThen::Deleted(at), _) => TargetMatch::Deleted(at),
        (GatewayThen::Was(state), Some(PublishedTarget::Labels(target))) => {
            missing = differences(target, &state.labels, &gateway.changes, published);
            if missing.is_empty() { TargetMatch::Unknown } else { TargetMatch::Differed }
        }
        (_, Some(PublishedTarget::Gateways(_))) => TargetMatch::NotNamed,
        _ => TargetMatch::Unknown,
    };
    let newest = gateway.changes.first()?;
    Some(GatewayMatch {
        id: gateway.id,
        name: newest.name.clone(),
        is_deleted: newest.deleted_at.is_some(),
        registered_at: gateway.registered_at,
        then,
        labels,
        differences: missing,
    })
}

/// The gateways that a target of labels missed, although a removed, changed or mistyped label is all
/// that kept the event from them.
pub fn missed(evidence: &EventEvidence) -> TruncatedList<GatewayMatch> {
    let is_unmatched = evidence.event.deliveries.is_empty();
    let answers = evidence.gateways.iter().filter_map(|gateway| gateway_match(evidence, gateway));
    let near = answers.filter(|answer| {
        let mut differences = answer.differences.iter();
        answer.then == TargetMatch::Differed
            && !answer.is_deleted
            && if is_unmatched {
                differences.all(Difference::is_explained)
            } else {
                differences.all(|it| it.until.is_some())
            }
    });
    TruncatedList::of(near.collect())
}

/// What to do next, the most urgent first. Empty if nothing is wrong.
pub fn next(
    evidence: &EventEvidence,
    open: &TruncatedList<Open>,
    missed: &TruncatedList<GatewayMatch>,
) -> Vec<Step> {
    let event = &evidence.event;
    let id = argument(event.event.id.as_str());
    let mut steps = Vec::new();
    if event.verdict().state == EventState::Unmatched {
        let target = match &event.target {
            Some(PublishedTarget::Labels(labels)) => labels_in_words(labels),
            _ => "its target".to_owned(),
        };
        if missed.list.is_empty() {
            steps.push(Step::new(
                format!("No gateway matched {target}, and none has similar labels. Compare it with the labels of the gateways."),
                "gateway list",
            ));
        }
    }
    if event.verdict().state == EventState::Filtered
        && let Some(one) = filtered(evidence).list.first()
    {
        let name = gateway_word(&one.gateway_name, one.gateway_id);
        steps.push(Step::new(
            format!("All instances of its gateways filtered it. If one needs events of type {}, add the type to `types` in its hello, then send the event again.", event.event.event_type),
            format!("event resend {id} --gateway {name}"),
        ));
    }
    let has_none = |answer: &&GatewayMatch| {
        !matches!(answer.then, TargetMatch::Matched | TargetMatch::Deleted(_)) && !answer.is_deleted
    };
    for answer in missed.list.iter().filter(has_none) {
        let name = gateway_word(&answer.name, answer.id);
        steps.push(Step::new(
            format!(
                "{}. If it needs the event, correct its labels if they are wrong, and send it.",
                answer.in_words()
            ),
            format!("event resend {id} --gateway {name}"),
        ));
    }
    for open in &open.list {
        let name = gateway_word(&open.gateway_name, open.gateway_id);
        let why = open.reason.map_or_else(String::new, |it| reason_in_words(it.as_str()));
        steps.push(match (open.state, open.reason) {
            (DeliveryState::Failed, Some(Reason::Expired)) => Step::new(
                format!("It expired before {} received it. If it is still needed, publish it again, as a new event, with a time to live that is long enough.", open.gateway_name),
                format!("event republish {id} --gateway {name} --ttl 1d"),
            ),
            (DeliveryState::Failed, Some(Reason::GatewayDeleted)) => continue,
            (DeliveryState::Failed, _) => Step::new(
                format!("It was given up at {} ({why}). Fix the cause, then append it again.", open.gateway_name),
                format!("delivery redrive --gateway {name} --event {id}"),
            ),
            _ => Step::new(
                format!("{} has not confirmed it{}.", open.gateway_name, if why.is_empty() { String::new() } else { format!(" ({why})") }),
                format!("why {name}"),
            ),
        });
    }
    steps
}
