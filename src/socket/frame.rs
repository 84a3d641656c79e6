//! The frames of the wire, encoded and parsed. Payloads pass byte for byte.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::event::{ConnectionId, Epoch, Event, GatewayId, Sequence};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    payload: &'a RawValue,
    timestamp: Timestamp,
    correlation_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    event_id: &'a str,
    sequence: Sequence,
    epoch: Epoch,
}

/// An event as a gateway receives it.
pub fn event_text(event: &Event, sequence: Sequence, epoch: Epoch) -> Bytes {
    encode(&Envelope {
        event_type: event.event_type.as_str(),
        payload: &event.payload,
        timestamp: event.occurred_at,
        correlation_id: event.correlation_id.as_str(),
        user_id: event.user_id.as_deref(),
        event_id: event.id.as_str(),
        sequence,
        epoch,
    })
}

/// The length of the longest frame that this event can become: with the
/// largest sequence there is.
pub fn longest_event_text(event: &Event) -> usize {
    event_text(event, Sequence::MAX, Epoch(uuid::Uuid::nil())).len()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionAck {
    #[serde(rename = "type")]
    kind: &'static str,
    gateway_id: GatewayId,
    connection_id: ConnectionId,
    timestamp: Timestamp,
}

/// The first frame of every connection.
pub fn connection_ack(gateway: GatewayId, connection: ConnectionId, now: Timestamp) -> Bytes {
    encode(&ConnectionAck {
        kind: "connection.ack",
        gateway_id: gateway,
        connection_id: connection,
        timestamp: now,
    })
}

fn encode(frame: &impl Serialize) -> Bytes {
    // Serialising these structs into memory has nothing that can fail.
    Bytes::from(serde_json::to_vec(frame).unwrap_or_default())
}

/// What a gateway says.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// It processed, or failed to process, a deployment.
    DeploymentAck(DeploymentAck),
    /// A type that we don't know.
    Unknown,
    /// Not a message at all.
    Malformed,
}

/// The payload of a `deployment.ack`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentAck {
    /// Which deployment.
    pub deployment_id: String,
    /// Of which artifact.
    pub artifact_id: String,
    /// `deploy` or `undeploy`.
    pub action: Action,
    /// `success` or `failed`.
    pub status: Status,
    /// When the deployment was performed, as the event said.
    pub performed_at: Option<Timestamp>,
    /// Why it failed.
    pub error_code: Option<String>,
}

/// What was done to the artifact.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It was deployed.
    Deploy,
    /// It was undeployed.
    Undeploy,
}

/// How it went.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Applied.
    Success,
    /// Not applied.
    Failed,
}

#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// Reads a text message from a gateway.
pub fn parse_incoming(text: &[u8]) -> Message {
    let Ok(message) = serde_json::from_slice::<Incoming<'_>>(text) else {
        return Message::Malformed;
    };
    if message.kind != "deployment.ack" {
        return Message::Unknown;
    }
    message
        .payload
        .and_then(|payload| serde_json::from_str(payload.get()).ok())
        .map_or(Message::Malformed, Message::DeploymentAck)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{CorrelationId, EventId, EventType};

    #[test]
    fn the_envelope_has_its_members_in_order_and_the_payload_untouched() {
        let payload = r#"{"b":1.10, "a":"\u0000"}"#;
        let event = Event {
            id: EventId::new("e-1").expect("an id"),
            event_type: EventType::new("api.deployed").expect("a type"),
            payload: RawValue::from_string(payload.to_owned()).expect("JSON"),
            correlation_id: CorrelationId::new("c-1").expect("an id"),
            user_id: None,
            occurred_at: Timestamp::from_micros(0),
            expires_at: None,
        };
        let text = event_text(&event, Sequence(7), Epoch(uuid::Uuid::nil()));
        let expected = format!(
            r#"{{"type":"api.deployed","payload":{payload},"timestamp":"1970-01-01T00:00:00.000000Z","correlationId":"c-1","eventId":"e-1","sequence":7,"epoch":"00000000-0000-0000-0000-000000000000"}}"#
        );
        assert_eq!(text, expected.as_bytes());
        assert!(longest_event_text(&event) > text.len());
    }

    #[test]
    fn what_is_no_message_is_malformed_and_what_is_strange_is_unknown() {
        assert_eq!(parse_incoming(b"{"), Message::Malformed);
        assert_eq!(parse_incoming(br#"{"type":"deployment.ack"}"#), Message::Malformed);
        assert_eq!(parse_incoming(br#"{"type":"hello"}"#), Message::Unknown);
        let deep = "[".repeat(100_000);
        assert_eq!(parse_incoming(deep.as_bytes()), Message::Malformed);
    }
}
