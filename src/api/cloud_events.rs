//! CloudEvents 1.0 in their JSON format, as `POST /events` accepts them.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::event::{CollapseKey, CorrelationId, EventId, EventType};
use crate::trace_context::TraceParent;

/// A CloudEvent 1.0 in its JSON format. Exactly one of `gatewayids`, `targetlabels` and `targetall`
/// selects the gateways that it is for, and exactly one of `data` and `data_base64` is its data. Other
/// extension attributes are strings, booleans or 32-bit integers, at most 1,024 bytes each and 8 KiB
/// together with their names; gateways that ask for CloudEvents receive them unchanged. `sequence`,
/// `previous`, `epoch` and `attempt` are set by the service in each delivery.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "specversion": "1.0",
    "id": "order-service-1",
    "source": "/platform/config",
    "type": "gateway.config.updated",
    "targetlabels": "env=prod",
    "tenant": "a",
    "data": {"configType": "cache", "action": "update"},
}))]
pub struct CloudEvent {
    /// `1.0`.
    #[schema(pattern = r"^1\.0$")]
    pub specversion: String,
    /// The event's id, unique in the organisation, whatever its source. A repeat with the same content
    /// gets the first response.
    pub id: EventId,
    /// Where it comes from: a URI reference.
    #[schema(min_length = 1, max_length = 1024)]
    pub source: String,
    /// Its type, which must be registered.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The subject: what the event is about, within its source.
    #[schema(min_length = 1, max_length = 1024)]
    pub subject: Option<String>,
    /// When it occurred; now if omitted. At most five minutes in the future. Kept to the microsecond.
    pub time: Option<Timestamp>,
    /// The media type of the data: JSON in UTF-8.
    #[schema(example = "application/json", max_length = 1024)]
    pub datacontenttype: Option<String>,
    /// The schema of the data: a URI. It is passed on and not read.
    #[schema(min_length = 1, max_length = 1024)]
    pub dataschema: Option<String>,
    /// The key by which gateways recognise repeats; the event's id if omitted.
    pub correlationid: Option<CorrelationId>,
    /// The user on whose behalf it is published; at most 256 bytes.
    #[schema(min_length = 1, max_length = 256)]
    pub userid: Option<String>,
    /// When it expires. It is not delivered afterwards.
    pub expirytime: Option<Timestamp>,
    /// In how many seconds it expires, instead of `expirytime`; also as a string.
    #[schema(minimum = 1, maximum = 316_224_000)]
    pub ttlseconds: Option<u64>,
    /// Of the events with the same type and key that are published while a gateway has no connection,
    /// only the newest is sent to it.
    pub collapsekey: Option<CollapseKey>,
    /// The W3C trace context that gateways receive with it; by default that of the request.
    pub traceparent: Option<TraceParent>,
    /// The gateways that it is for: their ids, separated by commas.
    #[schema(example = "01890a5d-ac96-774b-bcce-b302099a8057", min_length = 1, max_length = 65536)]
    pub gatewayids: Option<String>,
    /// The gateways that it is for: those that have all of these labels, `NAME=VALUE` separated by
    /// commas.
    #[schema(example = "env=prod,zone=eu", min_length = 1, max_length = 65536)]
    pub targetlabels: Option<String>,
    /// `true`: it is for every gateway of the organisation.
    pub targetall: Option<bool>,
    /// A JSON object that satisfies the type's schema. Gateways receive it byte for byte.
    #[schema(value_type = Option<Object>)]
    pub data: Option<Box<RawValue>>,
    /// The data in Base64 instead of `data`, if `datacontenttype` is given.
    pub data_base64: Option<String>,
}
