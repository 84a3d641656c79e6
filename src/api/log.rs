//! A gateway's log, as admins and tools read it. Reading confirms nothing.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::DeliveryState;
use crate::clock::Timestamp;
use crate::event::{CorrelationId, Epoch, EventId, EventType, GatewayId, Sequence};
use crate::trace_context::TraceParent;

/// Which part of a gateway's log to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// Entries after this sequence; from the beginning if omitted.
    pub after: Option<Sequence>,
    /// The maximum number of entries on the page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub limit: Option<usize>,
    /// How long to wait for an entry if the page would be empty, such as `20s`; at most `25s`.
    #[param(example = "20s", default = "0s")]
    pub wait: Option<String>,
}

/// `GET /gateways/{id}/log`: a page of a gateway's log, in order.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogPage {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    #[schema(example = "berlin")]
    pub gateway_name: String,
    /// The epoch of the log, which changes when the log is reset or restored.
    pub epoch: Epoch,
    /// The log's last sequence.
    pub head: Sequence,
    /// The last sequence that retention has removed; 0 if none.
    pub floor: Sequence,
    /// Everything up to this sequence is confirmed or a dead letter.
    pub confirmed: Sequence,
    /// Number of entries on this page.
    #[schema(example = 1)]
    pub count: usize,
    /// The entries. A page contains at most about 1 MiB of payloads.
    pub list: Vec<LogEntry>,
    /// How to get the next page.
    pub pagination: LogPagination,
}

/// How to get the next page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogPagination {
    /// The maximum number of entries on a page.
    #[schema(example = 100)]
    pub limit: usize,
    /// `after` of the next page; `null` if there are no more entries yet.
    #[schema(required = true)]
    pub next: Option<Sequence>,
}

/// An event in a gateway's log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogEntry {
    /// Its sequence in the log.
    pub sequence: Sequence,
    /// The event's id.
    pub event_id: EventId,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// Its payload, as it was published.
    #[schema(value_type = Object, example = json!({"apiId": "api-42", "deploymentId": "deploy-42"}))]
    pub payload: Box<RawValue>,
    /// The key by which gateways recognise repeats.
    pub correlation_id: CorrelationId,
    /// The user on whose behalf it was published.
    #[schema(required = true)]
    pub user_id: Option<String>,
    /// When it occurred.
    pub occurred_at: Timestamp,
    /// When it was appended.
    pub appended_at: Timestamp,
    /// When it expires; `null` if it does not.
    #[schema(required = true)]
    pub expires_at: Option<Timestamp>,
    /// The W3C trace context that it was published with; `null` if there was none.
    #[serde(default)]
    #[schema(required = true)]
    pub traceparent: Option<TraceParent>,
    /// The state of its delivery.
    pub state: DeliveryState,
    /// Whether the event's payload was purged: it is empty since then. Omitted if it was not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub purged: bool,
}
