//! Evidence for a diagnosis: what the database knows about a gateway or an event that explains why
//! deliveries are missing. Each list is bounded, and says how many elements it leaves out. Each
//! operation reads one snapshot along indexes, so its cost does not depend on the length of logs.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{
    ConnectionInfo, EventHistory, Gateway, Labels, RejectedRow, Result, Resync, TokenInfo,
};
use crate::clock::Timestamp;
use crate::event::{
    CorrelationId, EventId, EventType, GatewayId, OrganisationKey, Reason, Sequence,
};

/// Elements of a list of evidence, at most.
pub const LISTED: usize = 10;
/// Elements that are counted beyond those of a list, at most.
pub const COUNTED: usize = 1_000;
/// Failed attempts of a gateway that are grouped by reason, at most: the newest ones.
pub const FAILURES: i64 = 10_000;
/// Failed attempts of a gateway among which its last words are searched, at most: the newest ones.
pub const DETAILED: i64 = 1_000;
/// Ranges of open dead letters of a gateway that are grouped by reason, at most: the newest ones.
pub const DEAD_LETTERS: i64 = 5_000;
/// Rejected rows that are searched for a gateway, at most: the newest ones that were not retried.
pub const REJECTED: i64 = 500;
/// Events with a target of labels that are compared with a gateway, at most: the newest ones.
pub const LABEL_TARGETS: i64 = 1_000;
/// Changes of all gateways that are compared with an event, at most.
pub const CHANGES: i64 = 5_000;

/// Operations that collect the evidence of diagnoses. Each reads a bounded number of rows.
#[async_trait]
pub trait Diagnosis: Send + Sync + 'static {
    /// Evidence about a gateway, which may be deleted. `None` if it never existed.
    async fn gateway_evidence(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Option<GatewayEvidence>>;
    /// Evidence about an event, with the history of the gateways of its organisation, or of
    /// `gateway` alone. `None` if the event does not exist; `NotFound` if the gateway does not.
    async fn event_evidence(
        &self,
        organisation: OrganisationKey,
        id: &EventId,
        gateway: Option<GatewayId>,
    ) -> Result<Option<EventEvidence>>;
}

/// The beginning of a list, and how many elements it leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TruncatedList<T> {
    /// The first elements, at most [`LISTED`].
    pub list: Vec<T>,
    /// How many are left out; counted up to about [`COUNTED`].
    pub more: usize,
}

impl<T> TruncatedList<T> {
    /// The first elements of a list.
    pub fn of(mut all: Vec<T>) -> Self {
        let more = all.len().saturating_sub(LISTED);
        all.truncate(LISTED);
        Self { list: all, more }
    }
}

/// What is known about a gateway.
#[derive(Clone, Debug)]
pub struct GatewayEvidence {
    /// The gateway with its verdict.
    pub gateway: Gateway,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
    /// Its changes, newest first, at most [`LISTED`] + [`COUNTED`].
    pub history: Vec<GatewayState>,
    /// Its keys: those that were not revoked first, then newest first.
    pub keys: TruncatedList<TokenInfo>,
    /// Its connections, newest first.
    pub connections: TruncatedList<ConnectionInfo>,
    /// Resync requests, pending ones first, then newest first.
    pub resyncs: TruncatedList<Resync>,
    /// Its newest [`FAILURES`] failed attempts by reason, the last one first.
    pub failures: Vec<ReasonTally>,
    /// Its open dead letters by reason, of the newest [`DEAD_LETTERS`] ranges, the last one first.
    pub dead_letters: Vec<ReasonTally>,
    /// All its open dead letters.
    pub dead_total: i64,
    /// Its oldest pending deliveries; [`Gateway::pending`] counts all.
    pub pending: Vec<PendingDelivery>,
    /// The newest [`REJECTED`] rejected rows of its organisation that were not retried.
    pub rejected: Vec<RejectedRow>,
    /// The newest [`LABEL_TARGETS`] events of its organisation with a target of labels.
    pub label_targets: Vec<LabelTarget>,
    /// Those of its labels, now and in its newest [`LISTED`] states, that other gateways of its
    /// organisation have. Not looked up if there are no such events.
    pub shared_labels: BTreeSet<(String, String)>,
    /// What it said about its newest failure, by reason; of its newest [`DETAILED`] failed attempts.
    pub said: Vec<FailureDetail>,
}

/// What a gateway said about a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureDetail {
    /// Why the attempt failed.
    pub reason: Reason,
    /// What the gateway said.
    pub detail: String,
}

/// What a gateway was from one change to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayState {
    /// When it became so.
    pub changed_at: Timestamp,
    /// When it changed again; `None` for the current state.
    pub replaced_at: Option<Timestamp>,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// When it was disabled; `None` if it was not.
    pub disabled_at: Option<Timestamp>,
    /// When it was deleted; `None` if it was not.
    pub deleted_at: Option<Timestamp>,
    /// The name of the principal that changed it. Empty for the first state of a gateway that is
    /// older than its history.
    pub changed_by: String,
}

/// Deliveries with the same reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasonTally {
    /// The reason.
    pub reason: Reason,
    /// The number of deliveries; an attempt counts once for each delivery that it covers.
    pub count: i64,
    /// The first of them.
    pub first_at: Timestamp,
    /// The last of them.
    pub last_at: Timestamp,
}

/// A delivery that is not confirmed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingDelivery {
    /// Its sequence in the gateway's log.
    pub sequence: Sequence,
    /// The event.
    pub event_id: EventId,
    /// The event's type.
    pub event_type: EventType,
    /// The event's correlation id.
    pub correlation_id: CorrelationId,
    /// When it was appended to the log under this sequence.
    pub appended_at: Timestamp,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
}

/// An event that was published for labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelTarget {
    /// The event.
    pub event_id: EventId,
    /// Its type.
    pub event_type: EventType,
    /// When it was appended.
    pub appended_at: Timestamp,
    /// The labels.
    pub labels: Labels,
    /// How many gateways had all of them.
    pub matched: i64,
    /// Whether the event is among the newest [`LABEL_TARGETS`] of the gateway's log.
    pub is_logged: bool,
}

impl GatewayEvidence {
    /// The labels that the gateway has, or had in its newest [`LISTED`] states.
    pub fn own_labels(current: &Labels, history: &[GatewayState]) -> BTreeSet<(String, String)> {
        let former = history.iter().take(LISTED).map(|state| &state.labels);
        let all = std::iter::once(current).chain(former).flatten();
        all.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// What is known about an event.
#[derive(Clone, Debug)]
pub struct EventEvidence {
    /// The event with its deliveries.
    pub event: EventHistory,
    /// The gateways that may have been meant, by their registration.
    pub gateways: Vec<GatewayHistory>,
    /// Whether there are more than [`CHANGES`] changes; the rest is left out.
    pub more: bool,
}

/// A gateway with its changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayHistory {
    /// Its id.
    pub id: GatewayId,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// Its changes, newest first; never empty.
    pub changes: Vec<GatewayState>,
}

/// What a gateway was at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayThen<'a> {
    /// It was registered later.
    NotRegistered,
    /// It was registered, but its history begins later: a change of an earlier version, or one that
    /// retention has removed.
    Unknown,
    /// It was so.
    Was(&'a GatewayState),
    /// It had been deleted.
    Deleted(Timestamp),
}

impl GatewayState {
    /// What a gateway was at an instant, by its changes, newest first.
    pub fn at(changes: &[Self], registered_at: Timestamp, at: Timestamp) -> GatewayThen<'_> {
        if at < registered_at {
            return GatewayThen::NotRegistered;
        }
        match changes.iter().find(|state| state.changed_at <= at) {
            None => GatewayThen::Unknown,
            Some(Self { deleted_at: Some(deleted_at), .. }) => GatewayThen::Deleted(*deleted_at),
            Some(state) => GatewayThen::Was(state),
        }
    }
}

/// The gateways and labels that a row of the inbox names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedByRow {
    /// By id.
    pub ids: Vec<GatewayId>,
    /// By labels.
    pub labels: Option<Labels>,
    /// All gateways.
    pub all: bool,
}

impl NamedByRow {
    /// Reads the columns of a rejected row. What can't be read names no gateway.
    pub fn of(row: &RejectedRow) -> Self {
        Self::read(row.gateway_id.as_deref(), row.target.as_deref())
    }

    fn read(gateway_id: Option<&str>, target: Option<&str>) -> Self {
        #[derive(Default, serde::Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Target {
            gateway_ids: Vec<GatewayId>,
            labels: Option<Labels>,
            all: bool,
        }
        let target: Target =
            target.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let id = gateway_id.and_then(|text| text.trim().parse().ok());
        let ids = id.into_iter().chain(target.gateway_ids).collect();
        Self { ids, labels: target.labels, all: target.all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_gateways_by_id_or_by_target() {
        let id = GatewayId::new();
        let text = id.to_string().to_uppercase();
        assert_eq!(NamedByRow::read(Some(&text), None).ids, [id]);
        let target = format!(r#"{{"gatewayIds": ["{id}"]}}"#);
        assert_eq!(NamedByRow::read(None, Some(&target)).ids, [id]);
        assert!(NamedByRow::read(None, Some(r#"{"all": true}"#)).all);
        let labels = NamedByRow::read(None, Some(r#"{"labels": {"a": "b"}}"#)).labels.unwrap();
        assert_eq!(labels["a"], "b");
        for bad in [None, Some(""), Some("7"), Some("{"), Some(r#"{"labels": 1}"#)] {
            assert_eq!(NamedByRow::read(Some("berlin"), bad), NamedByRow::default());
        }
    }

    #[test]
    fn a_gateway_was_what_its_last_change_before_made_it() {
        let at = |secs: i64| Timestamp::from_micros(secs * 1_000_000);
        let state = |changed_at, deleted_at| GatewayState {
            changed_at,
            replaced_at: None,
            name: "one".to_owned(),
            labels: Labels::new(),
            disabled_at: None,
            deleted_at,
            changed_by: String::new(),
        };
        let changes = [state(at(9), Some(at(9))), state(at(6), None), state(at(3), None)];
        let then = |secs| GatewayState::at(&changes, at(2), at(secs));
        assert_eq!(then(1), GatewayThen::NotRegistered);
        assert_eq!(then(2), GatewayThen::Unknown);
        assert_eq!(then(3), GatewayThen::Was(&changes[2]));
        assert_eq!(then(8), GatewayThen::Was(&changes[1]));
        assert_eq!(then(9), GatewayThen::Deleted(at(9)));
    }
}
