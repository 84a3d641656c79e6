//! Events of a time window, without their payloads.

#[expect(unused_imports, reason = "named by the schema of `labels`")]
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Labels;
use crate::clock::Timestamp;
use crate::event::{CorrelationId, EventId, EventIdPrefix, EventType, GatewayId};

/// Selects events. An event matches if it was appended in `[from, to)` and has all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct EventFilter {
    /// Start of the window, included. By default 24 hours before its end.
    pub from: Option<Timestamp>,
    /// End of the window, excluded. Open if omitted.
    pub to: Option<Timestamp>,
    /// The event type.
    #[serde(rename = "type")]
    pub event_type: Option<EventType>,
    /// A gateway in whose log the event is or was.
    pub gateway_id: Option<GatewayId>,
    /// The correlation id.
    pub correlation_id: Option<CorrelationId>,
    /// The user on whose behalf the event was published.
    #[param(max_length = 256)]
    pub user_id: Option<String>,
    /// The artifact: `apiId`, `providerId`, `proxyId`, `artifactUuid` or `artifactId` of the
    /// payload.
    pub artifact_id: Option<String>,
    /// The deployment: `deploymentId` of the payload.
    pub deployment_id: Option<String>,
    /// How the event's id begins. With it, events are ordered by descending id.
    #[param(value_type = Option<String>, min_length = 1, max_length = 64, pattern = "^[!-~]+$")]
    pub id_prefix: Option<EventIdPrefix>,
}

/// An event without its payload and deliveries, which `GET /events/{id}` returns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "type": "api.deployed",
    "correlationId": "deploy-42",
    "userId": "alice",
    "occurredAt": "2026-01-31T09:30:00.120000Z",
    "appendedAt": "2026-01-31T09:30:00.123456Z",
    "expiresAt": null,
    "artifactId": "api-42",
    "deploymentId": "deploy-42",
    "target": {"labels": {"env": "prod"}},
    "gatewayCount": 1,
}))]
pub struct EventSummary {
    /// Its id.
    pub id: EventId,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The key by which gateways recognise repeats.
    pub correlation_id: CorrelationId,
    /// The user on whose behalf it was published.
    #[schema(required = true)]
    pub user_id: Option<String>,
    /// When it occurred.
    pub occurred_at: Timestamp,
    /// When it was appended to the log.
    pub appended_at: Timestamp,
    /// When it expires; `null` if it does not.
    #[schema(required = true)]
    pub expires_at: Option<Timestamp>,
    /// The artifact that its payload names; `null` if it names none.
    #[schema(required = true)]
    pub artifact_id: Option<String>,
    /// The deployment that its payload names; `null` if it names none.
    #[schema(required = true)]
    pub deployment_id: Option<String>,
    /// What it was published for; of more than ten gateways, ten. `null` for an event of an earlier
    /// version.
    #[schema(required = true)]
    pub target: Option<PublishedTarget>,
    /// How many gateways the target selected when it was published.
    pub gateway_count: i64,
}

/// What an event was published for. Exactly one member is present.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(min_properties = 1, max_properties = 1)]
#[schema(example = json!({"labels": {"env": "prod"}}))]
pub struct PublishedTarget {
    /// `true`: every gateway of the organisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub all: Option<bool>,
    /// Every gateway that had all of these labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, String>>, nullable = false)]
    pub labels: Option<Labels>,
    /// These gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub gateway_ids: Option<Vec<GatewayId>>,
}
