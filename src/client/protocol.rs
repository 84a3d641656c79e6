//! The messages that a gateway receives and sends, without I/O.

use std::collections::{HashSet, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// An event as a gateway received it.
#[derive(Clone, Debug)]
pub struct ReceivedEvent {
    /// The event type.
    pub event_type: String,
    /// The payload, byte for byte.
    pub payload: Box<RawValue>,
    /// The key by which the gateway recognises repeats.
    pub correlation_id: String,
    /// The event id; empty if the server sent none.
    pub event_id: String,
    /// The sequence in this gateway's log; 0 if the server sent none.
    pub sequence: i64,
    /// The epoch of the log; empty if the server sent none.
    pub epoch: String,
    /// When it was published.
    pub timestamp: String,
    /// The W3C trace context of its publisher; `None` if the server sent none.
    pub traceparent: Option<String>,
    /// The connection on which it arrived.
    pub connection_id: String,
    /// The whole frame.
    pub raw: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(rename = "type")]
    event_type: String,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(default)]
    correlation_id: String,
    #[serde(default)]
    event_id: String,
    #[serde(default)]
    sequence: i64,
    #[serde(default)]
    epoch: String,
    #[serde(default)]
    timestamp: String,
    #[serde(default)]
    traceparent: Option<String>,
}

impl ReceivedEvent {
    /// Parses a frame that arrived on a connection.
    pub(super) fn read(raw: &str, connection_id: &str) -> Result<Self, serde_json::Error> {
        let envelope: Envelope<'_> = serde_json::from_str(raw)?;
        Ok(Self {
            event_type: envelope.event_type,
            payload: envelope.payload.to_owned(),
            correlation_id: envelope.correlation_id,
            event_id: envelope.event_id,
            sequence: envelope.sequence,
            epoch: envelope.epoch,
            timestamp: envelope.timestamp,
            traceparent: envelope.traceparent,
            connection_id: connection_id.to_owned(),
            raw: raw.to_owned(),
        })
    }
}

/// The first frame of a connection.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Welcome {
    #[serde(rename = "type")]
    kind: String,
    pub(super) gateway_id: String,
    pub(super) connection_id: String,
}

impl Welcome {
    /// Parses the first frame; `None` if it is anything else.
    pub(super) fn read(raw: &str) -> Option<Self> {
        let welcome: Self = serde_json::from_str(raw).ok()?;
        (welcome.kind == "connection.ack").then_some(welcome)
    }
}

/// Whether and how a gateway reports deployments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AckPolicy {
    /// Sends no reports.
    #[default]
    Silent,
    /// Reports that deployments were applied.
    Success,
    /// Reports that deployments failed, with this code.
    Fail(String),
}

#[derive(Deserialize)]
struct Deployment {
    #[serde(rename = "deploymentId")]
    id: String,
    #[serde(rename = "apiId", alias = "providerId", alias = "proxyId")]
    artifact_id: String,
    #[serde(rename = "performedAt")]
    performed_at: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeploymentAck<'a> {
    deployment_id: &'a str,
    artifact_id: &'a str,
    resource_type: &'a str,
    action: &'a str,
    status: &'a str,
    performed_at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'a str>,
}

/// The report about an event; `None` if gateways do not report about its type.
pub(super) fn deployment_ack(event: &ReceivedEvent, policy: &AckPolicy) -> Option<String> {
    let (status, error_code) = match policy {
        AckPolicy::Silent => return None,
        AckPolicy::Success => ("success", None),
        AckPolicy::Fail(code) => ("failed", Some(code.as_str())),
    };
    let (resource_type, verb) = event.event_type.rsplit_once('.')?;
    let action = match verb {
        "deployed" => "deploy",
        "undeployed" => "undeploy",
        _ => return None,
    };
    let deployment: Deployment = serde_json::from_str(event.payload.get()).ok()?;
    let ack = DeploymentAck {
        deployment_id: &deployment.id,
        artifact_id: &deployment.artifact_id,
        resource_type,
        action,
        status,
        performed_at: deployment.performed_at.as_deref().unwrap_or(&event.timestamp),
        error_code,
    };
    let payload = serde_json::to_value(ack).ok()?;
    Some(serde_json::json!({ "type": "deployment.ack", "payload": payload }).to_string())
}

/// The newest correlation ids of applied events, by which the gateway recognises repeats. The
/// oldest ids are removed first.
#[derive(Debug)]
pub(super) struct Applied {
    capacity: usize,
    order: VecDeque<String>,
    known: HashSet<String>,
}

impl Applied {
    /// Keeps at most `capacity` ids.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), order: VecDeque::new(), known: HashSet::new() }
    }

    /// Whether an event with this id was applied.
    pub(super) fn contains(&self, correlation_id: &str) -> bool {
        self.known.contains(correlation_id)
    }

    /// Adds an id.
    pub(super) fn insert(&mut self, correlation_id: &str) {
        if !self.known.insert(correlation_id.to_owned()) {
            return;
        }
        self.order.push_back(correlation_id.to_owned());
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployed() -> ReceivedEvent {
        let raw = r#"{"type":"llmproxy.undeployed","payload":{"proxyId":"p","deploymentId":"d","performedAt":"2026-01-01T00:00:00.001Z","n":1.10},"timestamp":"2026-01-01T00:00:00Z","correlationId":"c","sequence":7}"#;
        ReceivedEvent::read(raw, "connection").unwrap()
    }

    #[test]
    fn a_payload_keeps_its_bytes() {
        assert!(deployed().payload.get().ends_with(r#""n":1.10}"#));
    }

    #[test]
    fn only_deployments_are_reported() {
        let mut event = deployed();
        let ack: serde_json::Value =
            serde_json::from_str(&deployment_ack(&event, &AckPolicy::Success).unwrap()).unwrap();
        assert_eq!(ack["payload"]["artifactId"], "p");
        assert_eq!(ack["payload"]["action"], "undeploy");
        assert_eq!(ack["payload"]["resourceType"], "llmproxy");
        assert!(deployment_ack(&event, &AckPolicy::Silent).is_none());
        event.event_type = "api.deleted".to_owned();
        assert!(deployment_ack(&event, &AckPolicy::Success).is_none());
    }

    #[test]
    fn the_memory_of_applied_events_is_bounded() {
        let mut applied = Applied::new(2);
        for id in ["a", "b", "b", "c"] {
            applied.insert(id);
        }
        assert!(!applied.contains("a"));
        assert!(applied.contains("b") && applied.contains("c"));
    }

    #[test]
    fn the_first_frame_must_be_a_connection_ack() {
        assert!(
            Welcome::read(r#"{"type":"api.deployed","gatewayId":"g","connectionId":"c"}"#)
                .is_none()
        );
        assert!(
            Welcome::read(r#"{"type":"connection.ack","gatewayId":"g","connectionId":"c","x":1}"#)
                .is_some()
        );
    }
}
