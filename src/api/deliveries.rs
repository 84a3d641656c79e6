//! Deliveries, and redrives.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Job;
use super::json::{Object, known};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, CorrelationId, EventId, EventType, GatewayId, Reason, Sequence};

/// Selects deliveries. A failed delivery matches if an attempt at it failed in `[from, to)` for
/// `reason` and the other members match; an omitted member matches everything, except that a list
/// begins 24 hours before its end by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeliveryFilter {
    /// Start of the window, included. By default a list begins 24 hours before its end, and a
    /// redrive with the first failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// End of the window, excluded. Open if omitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// The gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_id: Option<GatewayId>,
    /// The event type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<EventType>,
    /// The reason of the failure; only of failed deliveries.
    #[serde(deserialize_with = "known", skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<EventId>,
    /// The correlation id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
}

/// Which deliveries to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct DeliveriesQuery {
    /// `failed`, which is also the default: deliveries with a failed attempt in the window, newest
    /// failure first. Others: deliveries in this state, or in any, whose event was appended in the
    /// window, by gateway and newest first; a list of pending ones has no start by default.
    #[param(value_type = Option<DeliveriesStatus>, inline)]
    pub status: Option<DeliveriesStatus>,
    /// What the window is about: `appended`, which is the default, or `outcome`, which lists deliveries
    /// with an attempt in the window, each at its newest one, newest first. Failed deliveries are always
    /// listed by their failures, and pending ones by their events.
    #[param(value_type = Option<DeliveriesWindow>, inline)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_of: Option<DeliveriesWindow>,
}

/// Selects deliveries by their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveriesStatus {
    /// Those with a failed attempt, also if they were delivered since.
    #[default]
    Failed,
    /// Those that are not confirmed, and no dead letters.
    Pending,
    /// Those that the gateway confirmed, without those that its instances filtered.
    Delivered,
    /// Those that the gateway's instances filtered and none received.
    Filtered,
    /// Those that a newer event superseded.
    Superseded,
    /// All of them.
    All,
}

/// What the window of a list of deliveries is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveriesWindow {
    /// When their events were appended.
    #[default]
    Appended,
    /// When attempts at them ended, whatever their outcome.
    Outcome,
}

/// The state of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// Not confirmed, and not a dead letter.
    Pending,
    /// Confirmed by the gateway.
    Delivered,
    /// Filtered by the gateway's instances: its type is not among those that they requested, or
    /// they started after it. None of them has received it.
    Filtered,
    /// The gateway's position has passed it without it: it was published while the gateway had no
    /// connection, and a newer event with the same type and collapse key is sent instead.
    Superseded,
    /// It is a dead letter.
    Failed,
}

impl DeliveryState {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Filtered => "filtered",
            Self::Superseded => "superseded",
            Self::Failed => "failed",
        }
    }
}

/// A delivery: one sequence of one gateway, with its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "gatewayId": "01890a5d-ac96-774b-bcce-b302099a8057",
    "gatewayName": "berlin",
    "sequence": 42,
    "eventId": "01890a5d-ac96-774b-bcce-b302099a8057",
    "type": "api.deployed",
    "correlationId": "deploy-42",
    "appendedAt": "2026-01-31T09:30:00.123456Z",
    "state": "failed",
    "trimmed": false,
    "deliveredSince": false,
    "redriven": false,
    "failures": 1,
    "firstFailureAt": "2026-01-31T09:30:00.750000Z",
    "lastFailureAt": "2026-01-31T09:30:00.750000Z",
    "reason": "gateway_processing_error",
    "attemptCount": 1,
    "attempts": [{
        "outcome": "failed",
        "reason": "gateway_processing_error",
        "detail": "GATEWAY_PROCESSING_ERROR",
        "connectionId": "01890a5d-ac96-774b-bcce-b302099a8058",
        "startedAt": "2026-01-31T09:30:00.130000Z",
        "finishedAt": "2026-01-31T09:30:00.750000Z",
    }],
}))]
pub struct Delivery {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The sequence in the gateway's log.
    pub sequence: Sequence,
    /// The event's id; `null` once retention has removed the event.
    #[schema(required = true)]
    pub event_id: Option<EventId>,
    /// The event's type; `null` once retention has removed the event.
    #[serde(rename = "type")]
    #[schema(required = true)]
    pub event_type: Option<EventType>,
    /// The event's correlation id; `null` once retention has removed the event.
    #[schema(required = true)]
    pub correlation_id: Option<CorrelationId>,
    /// When the event was appended under this sequence: for a redrive, when it was redriven (or,
    /// once retention has removed the record of that, when the event was first appended). `null`
    /// once retention has removed the event.
    #[schema(required = true)]
    pub appended_at: Option<Timestamp>,
    /// Its current state.
    pub state: DeliveryState,
    /// Whether retention has removed it from the gateway's log.
    pub trimmed: bool,
    /// Whether it has been delivered since it failed: under this sequence, or as
    /// `redrivenAs`.
    pub delivered_since: bool,
    /// Whether its event was appended again.
    pub redriven: bool,
    /// Its newest redrive. Omitted if it was not redriven, or if an earlier version
    /// redrove it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub redriven_as: Option<RedrivenAs>,
    /// Failed attempts on record, including those that `attempts` omits.
    pub failures: i64,
    /// When the first of them failed; `null` if none did.
    #[schema(required = true)]
    pub first_failure_at: Option<Timestamp>,
    /// When the last of them failed; `null` if none failed.
    #[schema(required = true)]
    pub last_failure_at: Option<Timestamp>,
    /// Why the last of them failed; `null` if none failed.
    #[schema(required = true)]
    pub reason: Option<Reason>,
    /// The number of attempts on record.
    pub attempt_count: i64,
    /// The sequence that superseded it, in the same log. Omitted unless one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub superseded_by: Option<Sequence>,
    /// The attempts, oldest first; of more than 100 the newest 100.
    pub attempts: Vec<Attempt>,
}

/// A redriven delivery under its new sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedrivenAs {
    /// The new sequence in the gateway's log.
    pub sequence: Sequence,
    /// Its current state.
    pub state: DeliveryState,
}

/// One attempt at a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Its outcome.
    pub outcome: Outcome,
    /// Why it failed. Omitted unless it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<Reason>,
    /// Details for people. Omitted if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub detail: Option<String>,
    /// The connection. Omitted if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub connection_id: Option<ConnectionId>,
    /// When the event was written to the connection, or found undeliverable.
    pub started_at: Timestamp,
    /// When the outcome was known.
    pub finished_at: Timestamp,
}

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The gateway handled the event.
    Received,
    /// The gateway reported that it applied the event.
    Applied,
    /// It failed.
    Failed,
    /// The gateway did not want the event: its type is not among those that the connection asked
    /// for, or the connection started after it.
    Filtered,
    /// The event could not be delivered, and the gateway has read a snapshot instead.
    Snapshot,
    /// The event was not sent, because a newer one with the same type and collapse key superseded it.
    Superseded,
    /// Unknown: another connection has confirmed the event meanwhile, the node was lost, or a newer
    /// version of the service recorded it.
    Unknown,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 7] = [
        Self::Received,
        Self::Applied,
        Self::Failed,
        Self::Filtered,
        Self::Snapshot,
        Self::Superseded,
        Self::Unknown,
    ];

    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Applied => "applied",
            Self::Failed => "failed",
            Self::Filtered => "filtered",
            Self::Snapshot => "snapshot",
            Self::Superseded => "superseded",
            Self::Unknown => "unknown",
        }
    }
}

/// How to count failures. The window is the last 24 hours by default, and may contain at most 2,000
/// buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SummaryQuery {
    /// A bucket's width: seconds, minutes, hours or days, at most `366d`.
    #[param(pattern = "^[0-9]+[smhd]$", default = "1h", example = "5m")]
    pub bucket: Option<String>,
    /// What failures are grouped by; `reason` by default.
    #[param(inline)]
    pub by: Option<SummaryBy>,
}

/// What failures are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SummaryBy {
    /// The reason.
    Reason,
    /// The gateway.
    Gateway,
    /// The event type.
    Type,
}

/// `GET /deliveries/summary`: failed attempts over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Number of elements.
    #[schema(example = 1)]
    pub count: usize,
    /// Counts by bucket and key. Counts of 0 are omitted.
    pub list: Vec<FailuresByBucket>,
    /// Start of the window, included.
    pub from: Timestamp,
    /// End of the window, excluded.
    pub to: Timestamp,
    /// A bucket's width in seconds.
    #[schema(example = 3600)]
    pub bucket_seconds: u64,
    /// What the failures are grouped by.
    pub by: SummaryBy,
}

/// Failed attempts of one key in one bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailuresByBucket {
    /// Start of the bucket. Buckets are aligned to the Unix epoch.
    pub from: Timestamp,
    /// A reason, a gateway's id or an event type; the type is empty once retention
    /// has removed the event.
    #[schema(example = "not_connected")]
    pub key: String,
    /// The gateway's name. Omitted unless failures are grouped by gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub gateway_name: Option<String>,
    /// Failed attempts, one for each delivery that an attempt covers.
    #[schema(example = 3)]
    pub count: i64,
}

/// `POST /deliveries/redrive`: the dead letters to append again, by `gatewayId` and `sequence` or
/// by `filter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedriveRequest {
    /// The gateway of one delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_id: Option<GatewayId>,
    /// The sequence of that delivery in the gateway's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub sequence: Option<Sequence>,
    /// All dead letters that match, however old they are unless it has a `from`. It has at least
    /// one member; without `to` its window ends now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DeliveryFilter>)]
    pub filter: Option<Object<DeliveryFilter>>,
    /// `next` of the previous call, to continue with the same filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Only report what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What one call of a redrive did or, in a dry run, would do. The numbers of all calls, up to the
/// one without a `next`, add up to exact totals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "redriven": [{
        "gatewayId": "01890a5d-ac96-774b-bcce-b302099a8057",
        "eventId": "01890a5d-ac96-774b-bcce-b302099a8057",
        "sequence": 42,
        "newSequence": 43,
    }],
    "pending": 0,
    "delivered": 1,
    "alreadyRedriven": 0,
    "eventRemoved": 0,
    "payloadPurged": 0,
    "expired": 0,
    "gatewayDeleted": 0,
    "more": false,
    "next": null,
}))]
pub struct Redriven {
    /// Deliveries that were appended again.
    pub redriven: Vec<RedrivenDelivery>,
    /// Skipped because they are still pending.
    pub pending: i64,
    /// Skipped because they have been delivered, filtered or superseded since.
    pub delivered: i64,
    /// Skipped because they were redriven before.
    pub already_redriven: i64,
    /// Skipped because retention has removed the event.
    pub event_removed: i64,
    /// Skipped because the event's payload was purged.
    #[serde(default)]
    #[schema(required = true)]
    pub payload_purged: i64,
    /// Skipped because the event has expired.
    pub expired: i64,
    /// Left alone because the gateway is deleted.
    #[serde(default)]
    #[schema(required = true)]
    pub gateway_deleted: i64,
    /// Whether more may match: repeat the request with `next` as its `cursor`.
    pub more: bool,
    /// `cursor` of the next call; `null` after the last. The work per call is bounded, so a call
    /// that finds nothing may have a next one.
    #[schema(required = true)]
    pub next: Option<String>,
    /// How many deliveries all calls together append. Omitted except in a dry run by filter without
    /// a cursor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub total: Option<i64>,
    /// The job that does what one call can't: everything else in this response is then empty. Omitted
    /// if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub job: Option<Job>,
}

/// One delivery that was appended again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedrivenDelivery {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The event.
    pub event_id: EventId,
    /// The dead letter's sequence.
    pub sequence: Sequence,
    /// The new sequence; `null` in a dry run.
    #[schema(required = true)]
    pub new_sequence: Option<Sequence>,
}
