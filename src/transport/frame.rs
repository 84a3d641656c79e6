//! The JSON frames of plain mode. Payloads are copied byte for byte, because gateways compare times
//! and numbers in them. Messages from gateways are not trusted: only the members that the service
//! needs are read.

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::event_position::EventPosition;
use super::{DeploymentReport, Greeting, InvalidMessage, report};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, Epoch, Event, EventId, EventType, GatewayId, Sequence,
};
use crate::trace_context::TraceParent;

/// An event as gateways read it. The order of its members is part of the contract.
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
    /// Only in reliable mode, like `attempt` and `expires_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Sequence>,
    epoch: Epoch,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<TraceParent>,
}

impl<'a> Envelope<'a> {
    fn new(event: &'a Event, sequence: Sequence, epoch: Epoch) -> Self {
        Self {
            event_type: &event.event_type,
            payload: &event.payload,
            timestamp: event.occurred_at,
            correlation_id: &event.correlation_id,
            user_id: event.user_id.as_deref(),
            event_id: &event.id,
            sequence,
            previous: None,
            epoch,
            attempt: None,
            expires_at: None,
            traceparent: event.traceparent,
        }
    }

    fn text(&self) -> Bytes {
        // An envelope without user id has some 300 bytes besides its payload.
        let mut text = Vec::with_capacity(self.payload.get().len() + 512);
        encode(&mut text, self);
        text.into()
    }
}

/// An event's frame for one gateway's log.
pub fn event_text(event: &Event, sequence: Sequence, epoch: Epoch) -> Bytes {
    Envelope::new(event, sequence, epoch).text()
}

/// An event's frame in reliable mode, [`frames::EventFrame`](super::frames::EventFrame).
pub(super) fn reliable_event_text(event: &Event, position: EventPosition) -> Bytes {
    let envelope = Envelope {
        previous: Some(position.previous),
        attempt: Some(position.attempt),
        expires_at: event.expires_at,
        ..Envelope::new(event, position.sequence, position.epoch)
    };
    envelope.text()
}

/// The size in bytes of an event's largest frame in any log, with the attributes that it has as a
/// CloudEvent. Published events are limited by it.
pub fn longest_event_text(event: &Event) -> usize {
    let mut length = Length(0);
    encode(&mut length, &Envelope::new(event, Sequence::MAX, Epoch(uuid::Uuid::nil())));
    if let Some(attributes) = event.attributes.as_deref() {
        encode(&mut length, attributes);
    }
    length.0
}

/// Counts what is written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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

/// The first frame of a connection.
pub fn connection_ack(greeting: Greeting, timestamp: Timestamp) -> Bytes {
    let Greeting { gateway_id, connection_id, .. } = greeting;
    let mut text = Vec::with_capacity(256);
    let ack = ConnectionAck { frame_type: "connection.ack", gateway_id, connection_id, timestamp };
    encode(&mut text, &ack);
    text.into()
}

/// Writes a value as JSON.
pub(super) fn encode(frame: impl io::Write, value: &impl Serialize) {
    // Writing strings, numbers and a valid raw value into memory does not fail.
    if let Err(error) = serde_json::to_writer(frame, value) {
        debug_assert!(false, "failed to encode a frame: {error}");
    }
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type")]
    message_type: String,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

/// Parses a text message from a gateway. The parser limits its nesting, the transport its size.
pub fn parse_incoming(text: &[u8]) -> Result<DeploymentReport, InvalidMessage> {
    let head: Head<'_> = serde_json::from_slice(text).map_err(|_| InvalidMessage::Malformed)?;
    if head.message_type != "deployment.ack" {
        return Err(InvalidMessage::UnknownType);
    }
    let payload = head.payload.ok_or(InvalidMessage::Malformed)?;
    let report: report::DeploymentReport =
        serde_json::from_str(payload.get()).map_err(|_| InvalidMessage::Malformed)?;
    Ok(report.into())
}

#[cfg(test)]
mod tests {
    use super::super::{DeploymentAction, DeploymentStatus};
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
            attributes: None,
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
        let ack = parse_incoming(text).expect("a report");
        let expected = (DeploymentAction::Undeploy, DeploymentStatus::Failed);
        assert_eq!((ack.action, ack.status), expected);
        assert_eq!(ack.performed_at, Some(Timestamp::from_micros(1_767_225_600_000_000)));
        assert_eq!(ack.error_code.as_deref(), Some("DEPLOYMENT_ID_MISMATCH"));
    }

    #[test]
    fn messages_that_are_not_reports_are_invalid() {
        assert_eq!(parse_incoming(b"{\"type\":\"x\"}"), Err(InvalidMessage::UnknownType));
        for malformed in
            [&b"["[..], b"{}", b"\xff", b"{\"type\":\"deployment.ack\"}", b"{\"type\":1}"]
        {
            assert_eq!(parse_incoming(malformed), Err(InvalidMessage::Malformed));
        }
        let deep =
            [b"{\"type\":\"deployment.ack\",\"payload\":".to_vec(), vec![b'['; 10_000]].concat();
        assert_eq!(parse_incoming(&deep), Err(InvalidMessage::Malformed));
    }
}
