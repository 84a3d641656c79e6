//! The text frames of plain mode, byte by byte. Payloads pass through as they
//! were published: gateways compare times and numbers in them. What a gateway
//! sends is looked at only as far as it concerns us, and never trusted.

use std::io::Write as _;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, Epoch, Event, EventId, EventType, GatewayId, Sequence,
};
use crate::trace_context::TraceParent;

/// An event as gateways read it. The order of the members is part of the contract.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(rename = "type")]
    event_type: &'a EventType,
    payload: &'a RawValue,
    timestamp: Timestamp,
    correlation_id: &'a CorrelationId,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    event_id: &'a EventId,
    sequence: Sequence,
    epoch: Epoch,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<TraceParent>,
}

/// An event's frame for one gateway's log.
pub fn event_text(event: &Event, sequence: Sequence, epoch: Epoch) -> Bytes {
    // An envelope without user id has some 300 bytes besides its payload.
    let mut text = Vec::with_capacity(event.payload.get().len() + 512);
    let envelope = Envelope {
        event_type: &event.event_type,
        payload: &event.payload,
        timestamp: event.occurred_at,
        correlation_id: &event.correlation_id,
        user_id: event.user_id.as_deref(),
        event_id: &event.id,
        sequence,
        epoch,
        traceparent: event.traceparent,
    };
    encode(&mut text, &envelope);
    text.into()
}

/// How long an event's frame can become in any log: publishers are held to it.
pub fn longest_event_text(event: &Event) -> usize {
    event_text(event, Sequence::MAX, Epoch(uuid::Uuid::nil())).len()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionAck {
    #[serde(rename = "type")]
    frame_type: &'static str,
    gateway_id: GatewayId,
    connection_id: ConnectionId,
    timestamp: Timestamp,
}

/// The first frame of every connection.
pub fn connection_ack(
    gateway_id: GatewayId,
    connection_id: ConnectionId,
    timestamp: Timestamp,
) -> Bytes {
    let mut text = Vec::with_capacity(256);
    let ack = ConnectionAck { frame_type: "connection.ack", gateway_id, connection_id, timestamp };
    encode(&mut text, &ack);
    text.into()
}

fn encode(text: &mut Vec<u8>, value: &impl Serialize) {
    // Strings, numbers and a checked raw value into memory: nothing that can fail.
    if let Err(error) = serde_json::to_writer(&mut *text, value) {
        debug_assert!(false, "a frame could not be encoded: {error}");
        let _ = text.flush();
    }
}

/// What a gateway wanted of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// To be deployed.
    Deploy,
    /// To be undeployed.
    Undeploy,
}

impl Action {
    /// The last word of the event types that ask for it.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Deploy => "deployed",
            Self::Undeploy => "undeployed",
        }
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Applied.
    Success,
    /// Not applied.
    Failed,
}

/// A gateway's report on one deployment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentAck {
    /// The deployment that was applied or not.
    pub deployment_id: String,
    /// The artifact deployed.
    pub artifact_id: String,
    /// The artifact's kind, in the gateway's words.
    #[serde(default)]
    pub resource_type: String,
    /// Deployed or undeployed.
    pub action: Action,
    /// How it went.
    pub status: Status,
    /// The `performedAt` of the event that it answers, if it is readable.
    #[serde(default, deserialize_with = "lenient_time")]
    pub performed_at: Option<Timestamp>,
    /// Why it failed.
    #[serde(default)]
    pub error_code: Option<String>,
}

/// A time that can't be read is no reason to refuse the report it stands in.
fn lenient_time<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(value)?;
    Ok(text.and_then(|text| Timestamp::parse(&text).ok()))
}

/// A text message from a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// It reports on a deployment.
    DeploymentAck(DeploymentAck),
    /// A type that means nothing to us.
    Unknown,
    /// No JSON object with a type, or a report that lacks something.
    Malformed,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type")]
    message_type: String,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

/// Reads a message. Nesting is bounded by the parser, length by the transport.
pub fn parse_incoming(text: &[u8]) -> Message {
    let Ok(head) = serde_json::from_slice::<Head<'_>>(text) else {
        return Message::Malformed;
    };
    if head.message_type != "deployment.ack" {
        return Message::Unknown;
    }
    head.payload
        .and_then(|payload| serde_json::from_str(payload.get()).ok())
        .map_or(Message::Malformed, Message::DeploymentAck)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(payload: &str, user_id: Option<&str>) -> Event {
        Event {
            id: EventId::new("e-1").expect("an id"),
            event_type: EventType::new("api.deployed").expect("a type"),
            payload: RawValue::from_string(payload.to_owned()).expect("JSON"),
            correlation_id: CorrelationId::new("c-1").expect("an id"),
            user_id: user_id.map(str::to_owned),
            occurred_at: Timestamp::from_micros(1_767_225_600_000_000),
            expires_at: None,
            traceparent: None,
        }
    }

    #[test]
    fn the_envelope_has_its_members_in_order_and_the_payload_untouched() {
        let epoch = Epoch(uuid::Uuid::nil());
        let payload = "{\"b\": 1.10,\"a\":\"\\u0041\"  }";
        let text = event_text(&event(payload, Some("u")), Sequence(7), epoch);
        let expected = format!(
            "{{\"type\":\"api.deployed\",\"payload\":{payload},\"timestamp\":\"2026-01-01T00:00:00.000000Z\",\
             \"correlationId\":\"c-1\",\"userId\":\"u\",\"eventId\":\"e-1\",\"sequence\":7,\"epoch\":\"{epoch}\"}}"
        );
        assert_eq!(text, expected.as_bytes());
        let text = event_text(&event("{}", None), Sequence(7), epoch);
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains("userId") && !text.contains("traceparent"), "{text}");
        let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = Event { traceparent: Some(traceparent.parse().unwrap()), ..event("{}", None) };
        let text = event_text(&traced, Sequence(7), epoch);
        let end = format!("\"epoch\":\"{epoch}\",\"traceparent\":\"{traceparent}\"}}");
        assert!(text.ends_with(end.as_bytes()));
    }

    #[test]
    fn no_sequence_makes_a_frame_longer_than_the_longest() {
        let event = event("{\"x\":[]}", None);
        let longest = longest_event_text(&event);
        for sequence in [Sequence(1), Sequence(1 << 40), Sequence::MAX] {
            assert!(event_text(&event, sequence, Epoch::new()).len() <= longest);
        }
    }

    #[test]
    fn a_report_is_read_whatever_else_stands_in_it() {
        let text = br#"{"x":[{}],"type":"deployment.ack","payload":{"deploymentId":"d","artifactId":"a",
            "resourceType":"api","action":"undeploy","status":"failed","performedAt":"2026-01-01T00:00:00Z",
            "errorCode":"DEPLOYMENT_ID_MISMATCH","new":{"y":1}}}"#;
        let Message::DeploymentAck(ack) = parse_incoming(text) else {
            panic!("no report");
        };
        assert_eq!((ack.action, ack.status), (Action::Undeploy, Status::Failed));
        assert_eq!(ack.performed_at, Some(Timestamp::from_micros(1_767_225_600_000_000)));
        assert_eq!(ack.error_code.as_deref(), Some("DEPLOYMENT_ID_MISMATCH"));
    }

    #[test]
    fn what_is_no_report_is_told_apart() {
        assert_eq!(parse_incoming(b"{\"type\":\"x\"}"), Message::Unknown);
        for malformed in
            [&b"["[..], b"{}", b"\xff", b"{\"type\":\"deployment.ack\"}", b"{\"type\":1}"]
        {
            assert_eq!(parse_incoming(malformed), Message::Malformed);
        }
        let deep =
            [b"{\"type\":\"deployment.ack\",\"payload\":".to_vec(), vec![b'['; 10_000]].concat();
        assert_eq!(parse_incoming(&deep), Message::Malformed);
    }
}
