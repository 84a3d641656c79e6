//! How gateways that don't use WebSocket receive events: `GET /gateways/stream`
//! and `GET /gateways/events`.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::event::{ConnectionId, Epoch, EventType, Sequence};

/// What a gateway wants from a stream; the members of `connection.hello`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase")]
pub struct StreamQuery {
    /// A stable name of this replica of the gateway, which has a durable position of its own: 1 to 64
    /// characters without control characters. That of a new instance also has no format characters or
    /// fillers and no whitespace at either end, and does not consist of dots only. If omitted, the
    /// connection shares the position of all unnamed ones.
    #[param(min_length = 1, max_length = 64)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Where delivery begins, unless `Last-Event-ID` says so: `server`, `latest`, `earliest`, or after
    /// a position that the gateway has confirmed, `EPOCH.SEQUENCE`; `server` by default.
    #[param(value_type = String, required = false, example = "server")]
    pub resume: StreamResume,
    /// How many unconfirmed events may be in flight; 0 pauses delivery. The service's limit applies
    /// if it is smaller, and if this is omitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// The event types to deliver, at most 64, separated by commas; all by default. The others are
    /// not sent; they are recorded as `filtered` and move the position.
    #[param(style = Form, explode = false)]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "with_commas")]
    pub types: Vec<EventType>,
    /// What the gateway confirms; `received` by default.
    #[param(inline, required = false)]
    pub confirm: StreamConfirm,
    /// The form of events; `native` by default.
    #[param(inline, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envelope: Option<EventEnvelope>,
}

/// The form of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventEnvelope {
    /// The members of the protocol.
    Native,
    /// A CloudEvent 1.0 in its JSON format.
    CloudEvents,
}

impl EventEnvelope {
    /// All forms, by their names in requests.
    pub const NAMED: [(&str, Self); 2] =
        [("native", Self::Native), ("cloudevents", Self::CloudEvents)];
}

/// Where a stream begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamResume {
    /// After the instance's position, which the service stores.
    #[default]
    Server,
    /// With the next event that is published.
    Latest,
    /// With the oldest event that the service still has.
    Earliest,
    /// After a position. The gateway has confirmed everything up to it, at the level of `confirm`.
    After {
        /// The epoch of the log.
        epoch: Epoch,
        /// The last confirmed sequence; 0 if none.
        sequence: Sequence,
    },
}

impl Serialize for StreamResume {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Server => to.serialize_str("server"),
            Self::Latest => to.serialize_str("latest"),
            Self::Earliest => to.serialize_str("earliest"),
            Self::After { epoch, sequence } => to.collect_str(&format_args!("{epoch}.{sequence}")),
        }
    }
}

/// The confirmation by which an event counts as delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StreamConfirm {
    /// The gateway has stored the event, and will apply it.
    #[default]
    Received,
    /// The gateway has applied the event.
    Applied,
}

/// A request for events by long polling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase")]
pub struct PollQuery {
    /// A stable name of this replica of the gateway, which has a durable position of its own: 1 to 64
    /// characters without control characters. All requests of a gateway without a name share one
    /// connection, which has the position of the gateway: only one replica may poll without a name.
    #[param(min_length = 1, max_length = 64)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The gateway's position, `EPOCH.SEQUENCE`: the last event that it has. It confirms nothing. If
    /// omitted, the instance's position counts, which the service stores.
    #[param(example = "01890a5d-ac96-774b-bcce-b302099a8057.41")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The maximum number of events; 256 by default.
    #[param(minimum = 1, maximum = 256)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<usize>,
    /// How long to wait for an event, at most `1m`; `25s` by default. The service may respond earlier,
    /// so that the request does not exceed `server.request_timeout`.
    #[param(example = "25s")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<String>,
    /// Confirms everything up to this position, `EPOCH.SEQUENCE`, as applied. Not above `after`.
    #[param(example = "01890a5d-ac96-774b-bcce-b302099a8057.41")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack: Option<String>,
    /// The `connectionId` of a response with a `gap`: the gateway has read the snapshot up to `resumeAt`,
    /// which it states in `ack`. Required if the request whose response has the gap stated a position
    /// at or above `resumeAt`, or the gap is an empty one of a resync: `ack` alone may be a repeat then.
    #[param(example = "01890a5d-ac96-774b-bcce-b302099a8058")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The form of events; `native` by default. If it differs from that of the instance's connection,
    /// another connection is opened.
    #[param(inline, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envelope: Option<EventEnvelope>,
}

/// Events for a gateway, and what is known about its log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolledEvents {
    /// The epoch of the log.
    pub epoch: Epoch,
    /// The last sequence of the log that the service knows of.
    pub head: Sequence,
    /// The connection, to which frames can be sent. If it is not the one of the last response, what
    /// that one was sent and has not confirmed is sent again.
    pub connection_id: ConnectionId,
    /// The events, as the frames of the protocol `gateway-events.v1`.
    #[schema(value_type = Vec<Object>, example = json!([{
        "type": "api.deployed",
        "payload": {"apiId": "api-42", "deploymentId": "deploy-42"},
        "timestamp": "2026-01-31T09:30:00.123456Z",
        "correlationId": "deploy-42",
        "eventId": "01890a5d-ac96-774b-bcce-b302099a8057",
        "sequence": 42,
        "previous": 41,
        "epoch": "01890a5d-ac96-774b-bcce-b302099a805a",
    }]))]
    pub events: Vec<Box<RawValue>>,
    /// Events that can't be delivered, after those in `events`: the frame `delivery.gap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false, nullable = false)]
    pub gap: Option<Box<RawValue>>,
}

/// Texts, separated by commas.
fn with_commas<S: Serializer>(types: &[EventType], to: S) -> Result<S::Ok, S::Error> {
    let texts: Vec<&str> = types.iter().map(EventType::as_str).collect();
    to.serialize_str(&texts.join(","))
}
