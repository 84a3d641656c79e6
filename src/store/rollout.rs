//! Rollouts: how far events have come at the gateways that they are for, and the verdict on one
//! event.

use std::collections::BTreeMap;

use super::filtered::Filtered;
use super::{DeliveryKey, DeliveryState, EventHistory};
use crate::clock::Timestamp;
use crate::event::{CorrelationId, EventId, EventType, GatewayId, GatewayKey, Reason, Sequence};

/// The largest number of events that one rollout sums.
pub const MAX_EVENTS: usize = 1_000;
/// The largest number of deliveries that one rollout reads.
pub const MAX_DELIVERIES: usize = 20_000;

/// The events of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolloutOf {
    /// One event.
    Event(EventId),
    /// All events with a correlation id.
    Correlation(CorrelationId),
}

/// How far events have come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// The events, in the order of their appending.
    pub events: Vec<RolloutEvent>,
    /// Each event at each of its gateways, by event and then by the gateway's name.
    pub targets: Vec<RolloutTarget>,
    /// Whether there are more than [`MAX_EVENTS`] or [`MAX_DELIVERIES`]; the rest is left out.
    pub more: bool,
}

/// An event of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutEvent {
    /// Its id.
    pub id: EventId,
    /// Its type.
    pub event_type: EventType,
    /// Whether gateways report that they have applied it: a deployment with an artifact and a
    /// deployment id.
    pub is_reported: bool,
}

/// An event at one gateway. If it was appended several times, its newest delivery counts, unless an
/// earlier one came further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutTarget {
    /// The event.
    pub event_id: EventId,
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The newest sequence of the event in the gateway's log.
    pub sequence: Sequence,
    /// How far it has come.
    pub state: TargetState,
    /// Why it failed; `None` unless it did.
    pub reason: Option<Reason>,
    /// Whether the gateway acknowledges every event that it applies, not only deployments.
    pub acknowledges: bool,
    /// The names of the instances that filtered it.
    pub filtered_by: Vec<String>,
    /// Whether a live connection has not passed it, and so may still receive it.
    pub is_behind: bool,
}

/// How far an event has come at a gateway. Each gateway is in exactly one of these states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// The gateway reported or acknowledged that it has applied the event.
    Applied,
    /// The gateway has confirmed the event, and has not reported that it applied it.
    Received,
    /// The gateway's instances did not want the event, and none of them has received it.
    Filtered,
    /// A newer event with the same type and collapse key was sent instead.
    Superseded,
    /// It is not confirmed yet, and the gateway is connected.
    Pending,
    /// It is not confirmed yet, and the gateway has no live connection.
    NotConnected,
    /// It was given up.
    Failed,
}

/// A delivery of an event of a rollout.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "columns of a row")]
pub struct RolloutRow {
    /// The event.
    pub event_id: EventId,
    /// The gateway.
    pub gateway_id: GatewayId,
    /// Its key.
    pub gateway: GatewayKey,
    /// The gateway's name.
    pub gateway_name: String,
    /// Its sequence in the gateway's log.
    pub sequence: Sequence,
    /// Whether the gateway's position has passed it.
    pub is_confirmed: bool,
    /// Why it was given up; `None` if it is not a dead letter.
    pub dead: Option<Reason>,
    /// Whether the gateway reported that it applied it: by itself, in a `deployment.ack` or an
    /// acknowledgement of one event.
    pub is_applied: bool,
    /// The highest sequence up to which the gateway acknowledged that it applied everything. If all
    /// instances must confirm, all of them have.
    pub applied_up_to: Sequence,
    /// Whether all instances must confirm, and there are any.
    pub needs_all: bool,
    /// Whether an instance confirms by what it has applied.
    pub acknowledges: bool,
    /// Whether the gateway has a live connection.
    pub is_connected: bool,
    /// Whether a live connection has not passed it.
    pub is_behind: bool,
    /// Whether an instance has filtered it.
    pub is_filtered: bool,
}

impl RolloutRow {
    /// The gateway and the sequence that identify the delivery.
    pub const fn key(&self) -> DeliveryKey {
        DeliveryKey { gateway: self.gateway, sequence: self.sequence }
    }

    /// Its state. Acknowledgements are cumulative, and pass over what an instance has filtered. So
    /// of a delivery that one has filtered, the attempts say what the others made of it.
    fn state(&self, filtered: Option<&Filtered>) -> TargetState {
        let is_applied = match filtered {
            Some(filtered) if self.is_confirmed && self.dead.is_none() => {
                if self.needs_all {
                    filtered.all_applied()
                } else {
                    filtered.is_applied
                }
            }
            _ => {
                let is_acknowledged = self.sequence <= self.applied_up_to && self.dead.is_none();
                is_acknowledged || self.is_applied && !self.needs_all
            }
        };
        match DeliveryState::of(self.dead.is_some(), self.is_confirmed, filtered) {
            DeliveryState::Failed => TargetState::Failed,
            _ if is_applied => TargetState::Applied,
            DeliveryState::Filtered => TargetState::Filtered,
            DeliveryState::Superseded => TargetState::Superseded,
            DeliveryState::Delivered => TargetState::Received,
            DeliveryState::Pending if self.is_connected => TargetState::Pending,
            DeliveryState::Pending => TargetState::NotConnected,
        }
    }
}

/// Whether gateways report that they have applied an event with this type and these ids: see
/// [`DeploymentKey`](super::DeploymentKey).
pub fn is_reported(
    event_type: &EventType,
    artifact_id: Option<&str>,
    deployment_id: Option<&str>,
) -> bool {
    let last = event_type.as_str().rsplit('.').next();
    matches!(last, Some("deployed" | "undeployed"))
        && artifact_id.is_some()
        && deployment_id.is_some()
}

/// One target for each event and gateway. The rows of a gateway must be in the order of their
/// sequences. `filtered` contains the deliveries among them that an instance has filtered.
pub fn targets(
    rows: impl IntoIterator<Item = RolloutRow>,
    filtered: &BTreeMap<DeliveryKey, Filtered>,
) -> Vec<RolloutTarget> {
    let mut targets: Vec<RolloutTarget> = Vec::new();
    let mut places: BTreeMap<(EventId, GatewayId), usize> = BTreeMap::new();
    for row in rows {
        let filtered = filtered.get(&row.key());
        let state = row.state(filtered);
        let by = filtered.map(|it| it.by.iter().filter(|name| !name.is_empty()).cloned());
        let target = RolloutTarget {
            event_id: row.event_id,
            gateway_id: row.gateway_id,
            gateway_name: row.gateway_name,
            sequence: row.sequence,
            state,
            reason: row.dead.filter(|_| state == TargetState::Failed),
            acknowledges: row.acknowledges || row.applied_up_to > Sequence::ZERO,
            filtered_by: by.map(Iterator::collect).unwrap_or_default(),
            is_behind: row.is_behind,
        };
        let place = (target.event_id.clone(), target.gateway_id);
        match places.get(&place).and_then(|place| targets.get_mut(*place)) {
            None => {
                places.insert(place, targets.len());
                targets.push(target);
            }
            Some(earlier) => match (earlier.state, state) {
                (TargetState::Applied, _) => earlier.sequence = target.sequence,
                (TargetState::Received, newer) if newer != TargetState::Applied => {
                    earlier.sequence = target.sequence;
                }
                _ => *earlier = target,
            },
        }
    }
    targets
}

impl RolloutTarget {
    fn is_awaited(&self) -> bool {
        match self.state {
            TargetState::Superseded => false,
            TargetState::Filtered => self.is_behind,
            _ => true,
        }
    }
}

impl Rollout {
    /// The number of targets in a state.
    pub fn count(&self, state: TargetState) -> usize {
        self.targets.iter().filter(|target| target.state == state).count()
    }

    /// The number of targets that are waited for: without those where a newer event superseded it, and
    /// those whose instances filtered it, unless one that is connected has not passed it yet.
    pub fn awaited(&self) -> usize {
        self.targets.iter().filter(|target| target.is_awaited()).count()
    }

    /// The number of targets that can still come as far as `applied` or, without it, `received`,
    /// including those that have.
    pub fn possible(&self, applied: bool) -> usize {
        let is_possible = |target: &&RolloutTarget| match target.state {
            TargetState::Applied => true,
            TargetState::Failed => false,
            _ if !target.is_awaited() => false,
            _ => !applied || target.acknowledges || self.is_reported(&target.event_id),
        };
        self.targets.iter().filter(is_possible).count()
    }

    /// Whether gateways report that they have applied this event.
    fn is_reported(&self, id: &EventId) -> bool {
        self.events.iter().any(|event| event.is_reported && event.id == *id)
    }
}

/// The verdict on an event: the first of these that applies.
///
/// | state | applies when | `since` | `reason` |
/// |---|---|---|---|
/// | `unmatched` | it is for no gateway | when it was appended | `no_gateways_matched` |
/// | `failed` | it was given up at a gateway and not delivered there since | the first of these failures | why the last of them failed |
/// | `pending` | a gateway has not confirmed it | when the oldest pending delivery was appended | why the last attempt at a pending delivery failed, if one did |
/// | `delivered` | all gateways have confirmed it, except those where it was filtered or superseded | the last confirmation | none |
/// | `superseded` | it was superseded at a gateway, and filtered at all others | when that was decided | none |
/// | `filtered` | the instances of all gateways filtered it | when the last of them did | none |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventVerdict {
    /// The state.
    pub state: EventState,
    /// When the state began.
    pub since: Timestamp,
    /// The reason of a failure, or `no_gateways_matched`.
    pub reason: Option<&'static str>,
    /// How many gateways are in the state.
    pub gateways: usize,
    /// How many gateways it is for.
    pub targets: usize,
    /// At how many of them the instances filtered it.
    pub filtered: usize,
    /// At how many of them a newer event superseded it.
    pub superseded: usize,
}

/// The states of an [`EventVerdict`], by decreasing precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    /// It is for no gateway.
    Unmatched,
    /// It was given up at a gateway.
    Failed,
    /// A gateway has not confirmed it.
    Pending,
    /// All gateways have confirmed it, except those where it was filtered or superseded.
    Delivered,
    /// It was superseded at a gateway, and filtered at all others.
    Superseded,
    /// The instances of all gateways filtered it.
    Filtered,
}

/// What is known about an event at one gateway.
struct AtGateway {
    state: DeliveryState,
    /// When the state began, and why.
    since: Timestamp,
    reason: Option<Reason>,
    failed_at: Option<Timestamp>,
}

impl EventHistory {
    /// Its verdict.
    pub fn verdict(&self) -> EventVerdict {
        let gateways = self.by_gateway();
        let targets = gateways.len();
        let of = |state| gateways.values().filter(move |it: &&AtGateway| it.state == state);
        let filtered = of(DeliveryState::Filtered).count();
        let superseded = of(DeliveryState::Superseded).count();
        let is = |state, since, reason, gateways| EventVerdict {
            state,
            since,
            reason,
            gateways,
            targets,
            filtered,
            superseded,
        };
        if targets == 0 {
            return is(EventState::Unmatched, self.appended_at, Some("no_gateways_matched"), 0);
        }
        for (state, word) in [
            (DeliveryState::Failed, EventState::Failed),
            (DeliveryState::Pending, EventState::Pending),
        ] {
            let Some(since) = of(state).map(|it| it.since).min() else { continue };
            let last = of(state).filter(|it| it.reason.is_some()).max_by_key(|it| it.failed_at);
            let reason = last.and_then(|it| it.reason).map(Reason::as_str);
            return is(word, since, reason, of(state).count());
        }
        let (state, word) = if filtered == targets {
            (DeliveryState::Filtered, EventState::Filtered)
        } else if filtered + superseded == targets {
            (DeliveryState::Superseded, EventState::Superseded)
        } else {
            (DeliveryState::Delivered, EventState::Delivered)
        };
        let since = of(state).map(|it| it.since).max().unwrap_or(self.appended_at);
        is(word, since, None, of(state).count())
    }

    /// The state at each gateway: that of its newest delivery, or delivered if any was.
    fn by_gateway(&self) -> BTreeMap<GatewayId, AtGateway> {
        let mut gateways: BTreeMap<GatewayId, AtGateway> = BTreeMap::new();
        // Of one gateway they are in the order of their sequences.
        for delivery in &self.deliveries {
            let appended_at = delivery.appended_at.unwrap_or(self.appended_at);
            let since = match delivery.state {
                DeliveryState::Pending => appended_at,
                DeliveryState::Failed => delivery.last_failure_at.unwrap_or(appended_at),
                DeliveryState::Delivered | DeliveryState::Filtered | DeliveryState::Superseded => {
                    delivery.attempts.last().map_or(appended_at, |last| last.finished_at)
                }
            };
            let at = AtGateway {
                state: delivery.state,
                since,
                reason: delivery.reason,
                failed_at: delivery.last_failure_at,
            };
            let is_delivered = gateways
                .get(&delivery.gateway_id)
                .is_some_and(|earlier| earlier.state == DeliveryState::Delivered);
            if !is_delivered {
                gateways.insert(delivery.gateway_id, at);
            }
        }
        gateways
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(gateway: GatewayId, sequence: i64) -> RolloutRow {
        RolloutRow {
            event_id: EventId::new("e").unwrap(),
            gateway_id: gateway,
            gateway: GatewayKey(1),
            gateway_name: "one".to_owned(),
            sequence: Sequence(sequence),
            is_confirmed: false,
            dead: None,
            is_applied: false,
            applied_up_to: Sequence::ZERO,
            needs_all: false,
            acknowledges: false,
            is_connected: true,
            is_behind: false,
            is_filtered: false,
        }
    }

    fn states(rows: &[RolloutRow]) -> Vec<(i64, TargetState)> {
        let targets = targets(rows.to_vec(), &BTreeMap::new()).into_iter();
        targets.map(|it| (it.sequence.0, it.state)).collect()
    }

    #[test]
    fn each_gateway_is_counted_once_as_far_as_it_came() {
        let (one, other) = (GatewayId::new(), GatewayId::new());
        let dead = RolloutRow { dead: Some(Reason::Expired), ..row(one, 1) };
        let applied = RolloutRow { is_applied: true, is_confirmed: true, ..row(one, 2) };
        let received = RolloutRow { is_confirmed: true, ..row(one, 3) };
        assert_eq!(states(std::slice::from_ref(&dead)), [(1, TargetState::Failed)]);
        assert_eq!(states(&[dead.clone(), row(one, 4)]), [(4, TargetState::Pending)]);
        assert_eq!(states(&[dead.clone(), applied.clone()]), [(2, TargetState::Applied)]);
        // A replay does not undo what was reached.
        assert_eq!(states(&[applied, row(one, 4)]), [(4, TargetState::Applied)]);
        assert_eq!(states(&[received.clone(), row(one, 4)]), [(4, TargetState::Received)]);
        let away = RolloutRow { is_connected: false, ..row(other, 1) };
        assert_eq!(
            states(&[received, away]),
            [(3, TargetState::Received), (1, TargetState::NotConnected)]
        );
    }

    #[test]
    fn only_deployments_are_reported() {
        let is = |name, artifact, deployment| {
            is_reported(&EventType::new(name).unwrap(), artifact, deployment)
        };
        assert!(is("api.deployed", Some("a"), Some("d")));
        assert!(is("llmproxy.undeployed", Some("a"), Some("d")));
        assert!(!is("api.deployed", Some("a"), None));
        assert!(!is("api.deleted", Some("a"), Some("d")));
    }
}
