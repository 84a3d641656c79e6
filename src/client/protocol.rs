//! What a gateway reads and says on the wire, without any IO.

use std::collections::{HashSet, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// An event as a gateway received it.
#[derive(Clone, Debug)]
pub struct ReceivedEvent {
    /// Its type.
    pub event_type: String,
    /// The payload's bytes as they came.
    pub payload: Box<RawValue>,
    /// The gateway's key for it.
    pub correlation_id: String,
    /// The event's identity; empty if the server named none.
    pub event_id: String,
    /// Its number in this gateway's log; 0 if the server named none.
    pub sequence: i64,
    /// The log's identity; empty if the server named none.
    pub epoch: String,
    /// When it was published.
    pub timestamp: String,
    /// The connection that it came on.
    pub connection_id: String,
    /// The whole frame as it came.
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
}

impl ReceivedEvent {
    /// Reads a frame that came on a connection.
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
            connection_id: connection_id.to_owned(),
            raw: raw.to_owned(),
        })
    }
}

/// The first frame of every connection.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Welcome {
    #[serde(rename = "type")]
    kind: String,
    pub(super) gateway_id: String,
    pub(super) connection_id: String,
}

impl Welcome {
    /// Reads the first frame; `None` is anything else.
    pub(super) fn read(raw: &str) -> Option<Self> {
        let welcome: Self = serde_json::from_str(raw).ok()?;
        (welcome.kind == "connection.ack").then_some(welcome)
    }
}

/// Whether and how a gateway reports deployments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AckPolicy {
    /// Says nothing, as for most event types.
    #[default]
    Silent,
    /// Reports that it was applied.
    Success,
    /// Reports that it failed, with this code.
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

/// The report about an event, if it is one that gateways report about.
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

/// The newest correlation ids of events that were applied: what tells a
/// repeat from news. The oldest are forgotten first.
#[derive(Debug)]
pub(super) struct Applied {
    capacity: usize,
    order: VecDeque<String>,
    known: HashSet<String>,
}

impl Applied {
    /// Remembers at most so many.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), order: VecDeque::new(), known: HashSet::new() }
    }

    /// Whether it was applied already.
    pub(super) fn contains(&self, correlation_id: &str) -> bool {
        self.known.contains(correlation_id)
    }

    /// Remembers one.
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
    fn anything_but_an_acknowledgement_is_no_welcome() {
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
