//! Diagnoses: why a gateway or an event has missing deliveries, and what to do next. Each list is
//! bounded, and says how many elements it leaves out.

#[expect(unused_imports, reason = "named by the schema of `labels`")]
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Connection, DeliveryState, EventVerdict, Labels, LastRefusal, PublishedTarget, RejectedRow,
    Resync, Verdict,
};
use crate::clock::Timestamp;
use crate::event::{CorrelationId, EventId, EventType, GatewayId, Reason, Sequence};

/// The first elements of a list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Evidence<T> {
    /// The elements, at most ten.
    pub list: Vec<T>,
    /// How many are left out; counted up to about 1,000.
    pub more: usize,
}

/// A step that a diagnosis proposes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NextStep {
    /// Why, as a sentence for people. Its wording may change.
    pub why: String,
    /// The command that does it, for a shell.
    #[schema(example = "gateway-events token create --gateway berlin")]
    pub command: String,
}

/// `GET /gateways/{id}/diagnosis`: why a gateway has missing deliveries.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "gatewayId": "01890a5d-ac96-774b-bcce-b302099a8057",
    "gatewayName": "berlin",
    "verdict": {
        "state": "away",
        "since": "2026-01-31T02:10:00.000000Z",
        "reason": "key_revoked",
        "failures": 0,
        "summary": "away since 2026-01-31T02:10:00Z: the key was revoked",
    },
    "next": [{
        "why": "It has no valid key: key 6kzj2v7qmw4t was revoked at 2026-01-31T02:10:00Z. Create a new one, and configure the gateway with it.",
        "command": "gateway-events token create --gateway berlin",
    }],
    "registeredAt": "2026-01-12T08:00:00.000000Z",
    "history": {"list": [], "more": 0},
    "keys": {
        "list": [{
            "id": "6kzj2v7qmw4t",
            "state": "revoked",
            "createdAt": "2026-01-12T08:00:00.000000Z",
            "expiresAt": null,
            "revokedAt": "2026-01-31T02:10:00.000000Z",
            "lastUsedAt": "2026-01-31T02:09:12.000000Z",
        }],
        "more": 0,
    },
    "connections": {"list": [], "more": 0},
    "resyncs": {"list": [], "more": 0},
    "lastRefusal": null,
    "failures": [],
    "pending": {"list": [], "more": 0},
    "deadLetters": 0,
    "deadLettersByReason": [],
    "rejected": {"list": [], "more": 0},
    "missed": {"list": [], "more": 0},
}))]
pub struct GatewayDiagnosis {
    /// The gateway, which may be deleted.
    pub gateway_id: GatewayId,
    /// Its name.
    pub gateway_name: String,
    /// Its state, since when, and why.
    pub verdict: Verdict,
    /// What to do next, the most urgent first. Empty if nothing is wrong.
    pub next: Vec<NextStep>,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// Its registration, changes of its name and labels, disabling, enabling and deletion, newest
    /// first.
    pub history: Evidence<GatewayChangeRecord>,
    /// Its keys: those that were not revoked first, then newest first.
    pub keys: Evidence<KeyRecord>,
    /// Its connections, newest first.
    pub connections: Evidence<Connection>,
    /// Resync requests: those that have not ended, then newest first.
    pub resyncs: Evidence<Resync>,
    /// Its last refused connection attempt; `null` if there was none.
    #[schema(required = true)]
    pub last_refusal: Option<LastRefusal>,
    /// Its failed attempts by reason, the last one first; of the newest 10,000.
    pub failures: Vec<FailuresByReason>,
    /// Its pending deliveries, oldest first.
    pub pending: Evidence<PendingRecord>,
    /// How many of its deliveries were given up and not redriven.
    pub dead_letters: i64,
    /// These by reason, the last one first; of the newest 5,000 ranges.
    pub dead_letters_by_reason: Vec<FailuresByReason>,
    /// Rejected rows of the inbox that name it, or have a similar target, and were not retried, newest
    /// first; of the newest 500 of the organisation.
    pub rejected: Evidence<RejectedForGateway>,
    /// Events of the last seven days that were published for labels and missed it, although a
    /// removed, changed or mistyped label is all that kept them from it; of the newest 1,000 of the
    /// organisation.
    pub missed: Evidence<MissedTarget>,
}

/// The name, labels and state of a gateway between two changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayChangeRecord {
    /// When the gateway got this name, these labels and this state.
    pub changed_at: Timestamp,
    /// When it changed again; `null` for the current state.
    #[schema(required = true)]
    pub replaced_at: Option<Timestamp>,
    /// Its name.
    pub name: String,
    /// Its labels.
    #[schema(value_type = BTreeMap<String, String>)]
    pub labels: Labels,
    /// Whether it was disabled.
    pub disabled: bool,
    /// Whether it was deleted.
    pub deleted: bool,
    /// The name of the access token that changed it. Empty for the first record of a gateway that is
    /// older than the history.
    pub changed_by: String,
}

/// A gateway's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRecord {
    /// Its public id.
    pub id: String,
    /// Whether the key can be used, or why it can't.
    pub state: KeyState,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires or expired; `null` if never.
    #[schema(required = true)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked; `null` if it was not.
    #[schema(required = true)]
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, accurate to a minute; `null` if never.
    #[schema(required = true)]
    pub last_used_at: Option<Timestamp>,
}

/// The state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
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
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// Deliveries that failed for the same reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailuresByReason {
    /// The reason.
    pub reason: Reason,
    /// How many; an attempt counts once for each delivery that it covers.
    pub count: i64,
    /// The first of them.
    pub first_at: Timestamp,
    /// The last of them.
    pub last_at: Timestamp,
    /// The newest details of a failed attempt with this reason, such as what the gateway said; of the
    /// newest 1,000 failed attempts. `null` if there are none.
    #[serde(default)]
    #[schema(required = true)]
    pub last_detail: Option<String>,
}

/// A rejected row of the inbox that is for a gateway, or was probably meant for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RejectedForGateway {
    /// The row.
    #[serde(flatten)]
    pub row: RejectedRow,
    /// Whether its target does not select the gateway, and is similar: labels that are probably
    /// mistyped, or that the gateway has lost.
    pub similar_target: bool,
    /// A registered event type with a similar name, if the row's is not registered; `null` if there is
    /// none.
    #[schema(required = true)]
    pub did_you_mean: Option<String>,
}

/// A delivery that is not confirmed yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingRecord {
    /// Its sequence in the gateway's log.
    pub sequence: Sequence,
    /// The event.
    pub event_id: EventId,
    /// The event's type.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The event's correlation id.
    pub correlation_id: CorrelationId,
    /// When it was appended to the log under this sequence: after the event was published, if it is a
    /// repeat.
    pub appended_at: Timestamp,
    /// When it expires; `null` if it does not.
    #[schema(required = true)]
    pub expires_at: Option<Timestamp>,
}

/// Events with the same target of labels that missed a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MissedTarget {
    /// The labels of the target.
    #[schema(value_type = BTreeMap<String, String>, example = json!({"region": "eu-wset"}))]
    pub labels: Labels,
    /// Why it missed the gateway.
    pub cause: MissedBy,
    /// Which of these labels the gateway did not have when the last of the events was published.
    pub differences: Vec<LabelDifference>,
    /// How many events there are.
    pub events: usize,
    /// When the first of them was published.
    pub first_at: Timestamp,
    /// When the last of them was published.
    pub last_at: Timestamp,
    /// The last of them.
    pub last_event_id: EventId,
    /// The oldest of them, at most 100, oldest first.
    #[serde(default)]
    pub oldest: Vec<MissedEvent>,
}

/// An event that missed a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MissedEvent {
    /// The event.
    pub event_id: EventId,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// When it was appended to the log.
    pub appended_at: Timestamp,
}

/// Why a target missed a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissedBy {
    /// The gateway had had its labels before: they were removed or changed.
    RemovedLabel,
    /// It matched no gateway, and its labels are similar to those of this gateway.
    MistypedTarget,
    /// It matched other gateways, and a label of this gateway that no other gateway has and no event
    /// targets is similar to one of its labels.
    MistypedLabel,
}

/// A label of a target that a gateway did not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelDifference {
    /// The label's name in the target.
    #[schema(example = "region")]
    pub label: String,
    /// Its value in the target.
    #[schema(example = "eu-wset")]
    pub wanted: String,
    /// The gateway's value; `null` if it did not have this label.
    #[schema(required = true, example = "eu-west")]
    pub had: Option<String>,
    /// Until when the gateway had the value of the target; `null` if there is no record that it ever had it.
    #[schema(required = true)]
    pub until: Option<Timestamp>,
    /// A similar label that the gateway had then or before; `null` if there is none.
    #[schema(required = true, example = "region=eu-west")]
    pub did_you_mean: Option<String>,
    /// The difference in words. Its wording may change.
    pub summary: String,
}

/// Which gateway to compare an event with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct EventDiagnosisQuery {
    /// Say of this gateway whether the event was for it, and why not. It may be deleted. If
    /// omitted: for all gateways that the event missed by a removed, changed or mistyped label.
    pub gateway_id: Option<GatewayId>,
}

/// `GET /events/{id}/diagnosis`: where an event is missing, and why.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "eventId": "01890a5d-ac96-774b-bcce-b302099a8057",
    "type": "api.deployed",
    "correlationId": "deploy-42",
    "appendedAt": "2026-01-31T09:30:00.123456Z",
    "expiresAt": null,
    "target": {"labels": {"env": "prod"}},
    "gatewayCount": 1,
    "verdict": {
        "state": "failed",
        "since": "2026-01-31T09:30:00.750000Z",
        "reason": "gateway_processing_error",
        "gateways": 1,
        "targets": 1,
        "filtered": 0,
        "superseded": 0,
        "summary": "failed at 1 of 1 gateway since 2026-01-31T09:30:00Z: GATEWAY_PROCESSING_ERROR",
    },
    "next": [{
        "why": "It was given up at berlin (GATEWAY_PROCESSING_ERROR). Fix the cause, then append it again.",
        "command": "gateway-events delivery redrive --gateway berlin --event 01890a5d-ac96-774b-bcce-b302099a8057",
    }],
    "open": {
        "list": [{
            "gatewayId": "01890a5d-ac96-774b-bcce-b302099a8057",
            "gatewayName": "berlin",
            "sequence": 42,
            "state": "failed",
            "reason": "gateway_processing_error",
            "detail": "GATEWAY_PROCESSING_ERROR",
            "failures": 1,
            "lastFailureAt": "2026-01-31T09:30:00.750000Z",
        }],
        "more": 0,
    },
    "filtered": {"list": [], "more": 0},
    "gateways": {"list": [], "more": 0},
    "more": false,
}))]
pub struct EventDiagnosis {
    /// The event.
    pub event_id: EventId,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// Its correlation id.
    pub correlation_id: CorrelationId,
    /// When it was appended to the log.
    pub appended_at: Timestamp,
    /// When it expires; `null` if it does not.
    #[schema(required = true)]
    pub expires_at: Option<Timestamp>,
    /// What it was published for; `null` for an event of an earlier version.
    #[schema(required = true)]
    pub target: Option<PublishedTarget>,
    /// How many gateways the target selected when it was published.
    pub gateway_count: i64,
    /// Its state over all gateways, since when, and why.
    pub verdict: EventVerdict,
    /// What to do next, the most urgent first. Empty if nothing is wrong.
    pub next: Vec<NextStep>,
    /// The gateways at which it was given up or is pending, failures first.
    pub open: Evidence<OpenDelivery>,
    /// The gateways at which instances filtered it and none received it, by name.
    pub filtered: Evidence<FilteredDelivery>,
    /// The gateways that it missed, or the one that `gatewayId` names.
    pub gateways: Evidence<GatewayThen>,
    /// Whether some gateways were not compared, because there are more than 5,000 changes of
    /// gateways. To compare one of them, pass `gatewayId`.
    pub more: bool,
}

/// A delivery that is not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpenDelivery {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The sequence in the gateway's log.
    pub sequence: Sequence,
    /// `pending` or `failed`.
    pub state: DeliveryState,
    /// Why the last attempt failed; `null` if none did.
    #[schema(required = true)]
    pub reason: Option<Reason>,
    /// Details of the last attempt, such as the code that the gateway reported; `null` if there are
    /// none.
    #[schema(required = true)]
    pub detail: Option<String>,
    /// Failed attempts.
    pub failures: i64,
    /// When the last of them failed; `null` if none did.
    #[schema(required = true)]
    pub last_failure_at: Option<Timestamp>,
}

/// A delivery that instances of the gateway filtered and none received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilteredDelivery {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The sequence in the gateway's log.
    pub sequence: Sequence,
    /// When the last of them filtered it; `null` if that is not on record any more.
    #[schema(required = true)]
    pub filtered_at: Option<Timestamp>,
    /// More about it, such as that the instance started at the end of the log; `null` if its type is
    /// not among those that the instance requested.
    #[schema(required = true)]
    pub detail: Option<String>,
}

/// What a gateway was when an event was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayThen {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// Its newest name.
    pub gateway_name: String,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// Whether the event was for it: `matched`, `not_registered`, `deleted`, `differed` (in labels),
    /// `not_named` (in the target) or `unknown` (its labels then are not on record).
    #[schema(example = "differed")]
    pub then: String,
    /// Its labels then; `null` if they are not on record.
    #[schema(required = true, value_type = Option<BTreeMap<String, String>>)]
    pub labels: Option<Labels>,
    /// Which labels of the target it did not have then.
    pub differences: Vec<LabelDifference>,
    /// The comparison in words. Its wording may change.
    #[schema(
        example = "berlin had region=eu-west, not region=eu-wset; region=eu-west is similar, so one of them may be mistyped"
    )]
    pub summary: String,
}
