//! Frames from the service to a gateway.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::super::event_position::EventPosition;
use super::super::{cloud_event, frame};
use super::Envelope;
use crate::clock::Timestamp;
use crate::cloud_event::Attributes;
use crate::event::{
    ConnectionId, CorrelationId, Epoch, Event, EventId, EventType, GatewayId, Sequence,
};
use crate::trace_context::TraceParent;

/// By how many bytes an event's frame may be longer in reliable mode than in plain mode, by which
/// published events are limited.
pub const EXTRA_EVENT_BYTES: usize = 91;
/// By how many bytes an event may be longer as a CloudEvent than in plain mode. The attributes with which it was published are not among them.
pub const EXTRA_CLOUD_EVENT_BYTES: usize = 175;

/// Always the first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename = "connection.ack", rename_all = "camelCase")]
pub struct ConnectionAck {
    /// The gateway that the key belongs to.
    pub gateway_id: GatewayId,
    /// This connection.
    pub connection_id: ConnectionId,
    /// The service's time.
    pub timestamp: Timestamp,
    /// The protocol, `gateway-events.v1`.
    pub protocol: String,
    /// The epoch of the gateway's log.
    pub epoch: Epoch,
    /// The last sequence of the log.
    pub head: Sequence,
    /// The first sequence that the service can still deliver.
    pub oldest: Sequence,
    /// A peer that sends nothing for a multiple of this is dead. In milliseconds.
    pub heartbeat_ms: u64,
    /// The service's limits.
    pub limits: Limits,
}

/// The limits of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// The maximum size of a frame, in bytes.
    pub frame_bytes: u64,
    /// The maximum window, in events.
    pub window: u32,
    /// The maximum window, in bytes.
    pub window_bytes: u64,
}

/// Where delivery starts; the reply to `connection.hello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename = "connection.resumed", rename_all = "camelCase")]
pub struct ConnectionResumed {
    /// Delivery starts after this sequence: the `previous` of the first event.
    pub from: Sequence,
    /// The last sequence of the log.
    pub head: Sequence,
    /// The epoch of the log.
    pub epoch: Epoch,
    /// Whether there are events to catch up with.
    pub mode: ResumeMode,
    /// The number of events to catch up with.
    pub pending: u64,
    /// The form of events, if the hello asked for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub envelope: Option<Envelope>,
}

/// Whether there are events to catch up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResumeMode {
    /// `replay`: older events come first.
    Replay,
    /// `live`: the next event is a new one.
    Live,
}

/// An event.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventFrame {
    /// The event's type. Ignore unknown types.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The publisher's object, byte for byte.
    #[schema(value_type = Object)]
    pub payload: Box<RawValue>,
    /// When it was published.
    pub timestamp: Timestamp,
    /// The key by which gateways recognise repeats, the same in every delivery.
    pub correlation_id: CorrelationId,
    /// The user who caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub user_id: Option<String>,
    /// The event's id, the same in every delivery.
    pub event_id: EventId,
    /// The event's number in the gateway's log.
    pub sequence: Sequence,
    /// The sequence that this client should have seen last. If it has not, it has lost an event and
    /// must reconnect with `resume`.
    pub previous: Sequence,
    /// The epoch of the log.
    pub epoch: Epoch,
    /// How many times this connection has sent the event, this time included, plus how many times the
    /// instance has rejected it on earlier ones.
    #[schema(minimum = 1)]
    pub attempt: u32,
    /// When the event expires. It is not sent afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub expires_at: Option<Timestamp>,
    /// The publisher's trace context.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub traceparent: Option<TraceParent>,
    /// The attributes with which the event was published as a CloudEvent, such as `source` and unknown
    /// extensions. Known only if CloudEvents are the connection's envelope; not a member of this frame.
    #[serde(skip)]
    pub attributes: Option<Box<Attributes>>,
}

/// The JSON of an [`EventFrame`] or of a CloudEvent, without copying the event first.
pub fn event_text(event: &Event, position: EventPosition, envelope: Envelope) -> Bytes {
    match envelope {
        Envelope::Native => frame::reliable_event_text(event, position),
        Envelope::CloudEvents => cloud_event::text(event, position),
    }
}

/// Complete up to here: no event up to `sequence` will follow. Sent after skipped events and
/// when the connection is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename = "delivery.mark", rename_all = "camelCase")]
pub struct DeliveryMark {
    /// The client has everything up to this sequence.
    pub sequence: Sequence,
    /// The last sequence of the log.
    pub head: Sequence,
}

/// Events that can't be delivered. The client reads its snapshot, and then confirms `resumeAt` as
/// applied; delivery waits for that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename = "delivery.gap", rename_all = "camelCase")]
pub struct DeliveryGap {
    /// The first sequence that can't be delivered.
    pub from: Sequence,
    /// The last sequence that can't be delivered.
    pub to: Sequence,
    /// Why they can't be delivered.
    pub reason: GapReason,
    /// Where to read the snapshot, if the operator has configured it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub snapshot_url: Option<String>,
    /// The sequence to confirm as applied after the snapshot. Delivery continues after it.
    pub resume_at: Sequence,
    /// The epoch of the log.
    pub epoch: Epoch,
}

/// Why events can't be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GapReason {
    /// `retention`: they were removed by retention.
    Retention,
    /// `epoch`: the position is of another log: the log was reset, or restored from a backup.
    Epoch,
    /// `purged`: their payloads were purged.
    Purged,
    /// `resync`: an admin requested a resync: the gateway must read its snapshot again.
    Resync,
}

impl GapReason {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Retention, Self::Epoch, Self::Purged, Self::Resync];

    /// Its name in frames.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Epoch => "epoch",
            Self::Purged => "purged",
            Self::Resync => "resync",
        }
    }
}

/// The response to a long poll that has something to deliver.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolledEvents {
    /// The epoch of the gateway's log.
    pub epoch: Epoch,
    /// The last sequence of the log.
    pub head: Sequence,
    /// The connection. A new one sends everything again that is not confirmed.
    pub connection_id: ConnectionId,
    /// The events, in order.
    pub events: Vec<EventFrame>,
    /// Events that can't be delivered. Then there are no events.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub gap: Option<DeliveryGap>,
}

/// The connection will be closed: finish what is in flight, and reconnect later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename = "connection.drain", rename_all = "camelCase")]
pub struct ConnectionDrain {
    /// Why, such as `shutdown`.
    pub reason: String,
    /// How long to wait after the end of this connection before connecting again, in milliseconds.
    /// Each connection gets a slot of its own, so that not all reconnect at once.
    pub reconnect_after_ms: u64,
    /// How long the service waits for confirmations before it closes the connection, in milliseconds.
    pub grace_ms: u64,
}

/// Why the connection will be closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename = "connection.error", rename_all = "camelCase")]
pub struct ConnectionError {
    /// The code for programs. More codes may be added.
    #[schema(example = "invalid_frame")]
    pub code: String,
    /// The explanation for people.
    pub message: String,
}
