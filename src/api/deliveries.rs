//! Deliveries: what failed, when and why, and appending it again.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::json::Object;
use crate::clock::Timestamp;
use crate::event::{ConnectionId, CorrelationId, EventId, EventType, GatewayId, Reason, Sequence};

/// Which failed deliveries. A delivery matches if an attempt at it failed in
/// `[from, to)` for `reason`, and the other members fit; what is left out matches
/// everything. The window is the last 24 hours unless it is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeliveryFilter {
    /// Start of the window, included. 24 hours before its end if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// End of the window, excluded. Open if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// One gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_id: Option<GatewayId>,
    /// One event type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<EventType>,
    /// One reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// One event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<EventId>,
    /// One correlation id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
}

/// The only status that `GET /deliveries` lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FailedStatus {
    /// `failed`, which is also the default: deliveries with a failed attempt.
    #[param(pattern = "^failed$", example = "failed")]
    pub status: Option<String>,
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// Neither confirmed nor given up.
    Pending,
    /// Confirmed by the gateway.
    Delivered,
    /// Given up: a dead letter.
    Failed,
}

impl DeliveryState {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// One gateway, one sequence, with its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    #[schema(example = "berlin")]
    pub gateway_name: String,
    /// The number in the gateway's log.
    pub sequence: Sequence,
    /// The event; `null` once retention has removed it.
    #[schema(required = true)]
    pub event_id: Option<EventId>,
    /// Its type; `null` likewise.
    #[serde(rename = "type")]
    #[schema(required = true)]
    pub event_type: Option<EventType>,
    /// Its correlation id; `null` likewise.
    #[schema(required = true)]
    pub correlation_id: Option<CorrelationId>,
    /// When it was appended; `null` likewise.
    #[schema(required = true)]
    pub appended_at: Option<Timestamp>,
    /// Where it stands now.
    pub state: DeliveryState,
    /// Whether retention has removed it from the gateway's log.
    pub trimmed: bool,
    /// Whether it has been delivered since it failed: under this sequence, or as
    /// `redrivenAs`.
    pub delivered_since: bool,
    /// Whether it has been appended again.
    pub redriven: bool,
    /// Its newest redrive. Left out if it was not redriven, or if an earlier version
    /// redrove it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub redriven_as: Option<RedrivenAs>,
    /// Failed attempts on record, including those that `attempts` leaves out.
    pub failures: i64,
    /// When the first of them failed; `null` if none did.
    #[schema(required = true)]
    pub first_failure_at: Option<Timestamp>,
    /// When the last of them failed; `null` likewise.
    #[schema(required = true)]
    pub last_failure_at: Option<Timestamp>,
    /// Why the last of them failed; `null` likewise.
    #[schema(required = true)]
    pub reason: Option<Reason>,
    /// Attempts on record.
    pub attempt_count: i64,
    /// The attempts, oldest first; of more than 100 the newest 100.
    pub attempts: Vec<Attempt>,
}

/// A redriven delivery under its new sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedrivenAs {
    /// The new sequence in the gateway's log.
    pub sequence: Sequence,
    /// Where it stands now.
    pub state: DeliveryState,
}

/// One attempt at a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed. Left out unless it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<Reason>,
    /// What more is known, for people. Left out if nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub detail: Option<String>,
    /// The connection. Left out if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub connection_id: Option<ConnectionId>,
    /// When the event was written to the connection, or found undeliverable.
    pub started_at: Timestamp,
    /// When the outcome was known.
    pub finished_at: Timestamp,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The gateway handled the event.
    Received,
    /// The gateway reported that it applied the event.
    Applied,
    /// It failed.
    Failed,
    /// Unknown: another connection confirmed the event in the meantime.
    Unknown,
}

impl Outcome {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Applied => "applied",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// How failures are counted. The window is the last 24 hours unless it is named, and
/// may have 2,000 buckets at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SummaryQuery {
    /// A bucket's width: seconds, minutes, hours or days, at most `366d`.
    #[param(pattern = "^[0-9]+[smhd]$", default = "1h", example = "5m")]
    pub bucket: Option<String>,
    /// What failures are counted by; `reason` if left out.
    #[param(inline)]
    pub by: Option<SummaryBy>,
}

/// What failures are counted by.
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
    pub count: usize,
    /// Counts by bucket and key; those of 0 are left out.
    pub list: Vec<FailuresByBucket>,
    /// Start of the window, included.
    pub from: Timestamp,
    /// End of the window, excluded.
    pub to: Timestamp,
    /// A bucket's width in seconds.
    pub bucket_seconds: u64,
    /// What is counted by.
    pub by: SummaryBy,
}

/// Failed attempts of one key in one bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailuresByBucket {
    /// Start of the bucket; buckets are counted from the Unix epoch.
    pub from: Timestamp,
    /// A reason, a gateway's id or an event type; the type is empty once retention
    /// has removed the event.
    #[schema(example = "not_connected")]
    pub key: String,
    /// The gateway's name. Left out unless failures are counted by gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub gateway_name: Option<String>,
    /// Failed attempts, one for each delivery that an attempt covers.
    pub count: i64,
}

/// `POST /deliveries/redrive`: which dead letters to append again, by `gatewayId` and
/// `sequence` or by `filter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedriveRequest {
    /// One delivery: its gateway, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_id: Option<GatewayId>,
    /// … and its number in that gateway's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub sequence: Option<Sequence>,
    /// All dead letters that match. It has at least one member; without `to` its window
    /// ends now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DeliveryFilter>)]
    pub filter: Option<Object<DeliveryFilter>>,
    /// `next` of the call before, to go on with the same filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Only tell what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What one call of a redrive did, or would do. The numbers of all calls up to the one
/// without a `next` add up to exact totals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Redriven {
    /// Deliveries that were appended again.
    pub redriven: Vec<RedrivenDelivery>,
    /// Left alone because they are still pending.
    pub pending: i64,
    /// Left alone because they have been delivered since.
    pub delivered: i64,
    /// Left alone because they were redriven before.
    pub already_redriven: i64,
    /// Left alone because retention has removed the event.
    pub event_removed: i64,
    /// Left alone because the event has expired.
    pub expired: i64,
    /// Left alone because the gateway is deleted.
    #[serde(default)]
    #[schema(required = true)]
    pub gateway_deleted: i64,
    /// Whether more may match: repeat the request with `next` as its `cursor`.
    pub more: bool,
    /// Where the next call goes on; `null` after the last. The work per call is bounded:
    /// a call may find nothing and still have a next one.
    #[schema(required = true)]
    pub next: Option<String>,
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
