//! Types of the HTTP API that the server writes and the client reads.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::event::{CorrelationId, Epoch, EventId, EventType, GatewayId, Sequence};
use crate::trace_context::TraceParent;

/// `GET /gateways/{id}/log`: a page of a gateway's log, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogPage {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// Its name.
    pub gateway_name: String,
    /// The log's identity: with another one, sequences start again.
    pub epoch: Epoch,
    /// The log's last sequence.
    pub head: Sequence,
    /// The last sequence that retention has removed; 0 if none.
    pub floor: Sequence,
    /// The last sequence that the gateway has confirmed, with all before it.
    pub confirmed: Sequence,
    /// How many entries this page has.
    pub count: usize,
    /// The entries.
    pub list: Vec<LogEntry>,
    /// Where to go on.
    pub pagination: LogPagination,
}

/// Where the log goes on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogPagination {
    /// The most entries that a page has.
    pub limit: usize,
    /// `after` of the next page; `null` if there is nothing more yet.
    pub next: Option<Sequence>,
}

/// An event in a gateway's log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogEntry {
    /// Its number in the log.
    pub sequence: Sequence,
    /// The event's id.
    pub event_id: EventId,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// Its payload, as it was published.
    pub payload: Box<RawValue>,
    /// Its correlation id.
    pub correlation_id: CorrelationId,
    /// On behalf of which user it was published.
    pub user_id: Option<String>,
    /// When it was published.
    pub occurred_at: Timestamp,
    /// When it was appended.
    pub appended_at: Timestamp,
    /// After when it is not delivered any more.
    pub expires_at: Option<Timestamp>,
    /// Its W3C trace context, if it was published with one.
    #[serde(default)]
    pub traceparent: Option<TraceParent>,
    /// Where its delivery stands: `pending`, `delivered` or `failed`.
    pub state: String,
}
