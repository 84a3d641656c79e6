//! Rows of the inbox that could not be published.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};

use super::AcceptedDelivery;
use super::json::{known, not_null, nullable};
use crate::clock::Timestamp;
use crate::event::{EventId, GatewayId, UnknownName};

/// Which rejected rows to select. An omitted member matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RejectedFilter {
    /// The reason.
    #[serde(deserialize_with = "known", skip_serializing_if = "Option::is_none")]
    pub reason: Option<RejectionReason>,
    /// Rejected at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Rejected before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// Include rows that were put back into the inbox.
    #[param(default = false)]
    pub retried: bool,
}

/// `POST /inbox/rejected/retry`: which rejected rows to put back. Rows that were put back before are
/// skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schema(min_properties = 1)]
pub struct RetryRequest {
    /// `true`: every rejected row. Required unless another member selects rows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Rows that were rejected for this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<RejectionReason>,
    /// Rows that were rejected at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Rows that were rejected before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// `true`: report what would become of the rows, and change nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// `POST /inbox/rejected/{id}/retry`. The body is optional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RetryRowRequest {
    /// `true`: report what would become of the row, and change nothing.
    pub dry_run: bool,
}

/// Why a row was rejected. Where the HTTP API has the same error, the code is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionReason {
    /// A column is invalid, or the payload does not satisfy its type's schema.
    Invalid,
    /// It expired before it could be published.
    Expired,
    /// Its type is not registered.
    UnknownEventType,
    /// Its frame would exceed `limits.event_bytes`.
    EventTooLarge,
    /// It names gateways that are not registered.
    UnknownGateways,
    /// Its id belongs to an event with different content.
    EventIdTaken,
    /// No organisation has that name.
    UnknownOrganisation,
    /// The log refused it; the service's log has the reason.
    Internal,
    /// A reason that this version does not know. Only in responses.
    Unknown(UnknownName),
}

impl RejectionReason {
    /// Every known reason.
    pub const ALL: [Self; 8] = [
        Self::Invalid,
        Self::Expired,
        Self::UnknownEventType,
        Self::EventTooLarge,
        Self::UnknownGateways,
        Self::EventIdTaken,
        Self::UnknownOrganisation,
        Self::Internal,
    ];

    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Expired => "expired",
            Self::UnknownEventType => "unknown_event_type",
            Self::EventTooLarge => "event_too_large",
            Self::UnknownGateways => "unknown_gateways",
            Self::EventIdTaken => "event_id_taken",
            Self::UnknownOrganisation => "unknown_organisation",
            Self::Internal => "internal",
            Self::Unknown(name) => name.as_str(),
        }
    }
}

impl Serialize for RejectionReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for RejectionReason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(name.parse().unwrap_or_else(|_| Self::Unknown(UnknownName::new(&name))))
    }
}

/// Refuses unknown reasons.
impl std::str::FromStr for RejectionReason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str).join(", ");
            format!("unknown reason {}; expected one of {names}", crate::event::quoted(text))
        })
    }
}

/// A rejected row, without its payload. Its columns are returned as they were inserted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "id": 7,
    "inboxId": 5120,
    "version": 1,
    "reason": "unknown_event_type",
    "detail": "the type `api.deploid` is not registered",
    "rejectedAt": "2026-01-31T09:30:00.150000Z",
    "retriedAt": null,
    "insertedAt": "2026-01-31T09:30:00.123456Z",
    "type": "api.deploid",
    "gatewayId": null,
    "target": "{\"labels\": {\"env\": \"prod\"}}",
    "eventId": null,
    "correlationId": "deploy-42",
    "userId": null,
    "expiresAt": null,
    "traceparent": null,
    "collapseKey": null,
    "payloadBytes": 19,
}))]
pub struct RejectedRow {
    /// Its id among the rejected rows.
    pub id: i64,
    /// The id that it had in the inbox.
    pub inbox_id: i64,
    /// Raised by each edit.
    #[serde(default)]
    #[schema(required = true)]
    pub version: i64,
    /// Why it was rejected.
    pub reason: RejectionReason,
    /// What was wrong, for people.
    pub detail: String,
    /// When it was rejected.
    pub rejected_at: Timestamp,
    /// When it was put back into the inbox; `null` if it was not.
    #[schema(required = true)]
    pub retried_at: Option<Timestamp>,
    /// When it was inserted.
    pub inserted_at: Timestamp,
    /// The column `type`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The column `gateway_id`.
    #[schema(required = true)]
    pub gateway_id: Option<String>,
    /// The column `target`.
    #[schema(required = true)]
    pub target: Option<String>,
    /// The column `event_id`.
    #[schema(required = true)]
    pub event_id: Option<String>,
    /// The column `correlation_id`.
    #[schema(required = true)]
    pub correlation_id: Option<String>,
    /// The column `user_id`.
    #[schema(required = true)]
    pub user_id: Option<String>,
    /// The column `expires_at`.
    #[schema(required = true)]
    pub expires_at: Option<String>,
    /// The column `traceparent`.
    #[serde(default)]
    #[schema(required = true)]
    pub traceparent: Option<String>,
    /// The column `collapse_key`.
    #[serde(default)]
    #[schema(required = true)]
    pub collapse_key: Option<String>,
    /// The payload's size in bytes.
    pub payload_bytes: i64,
}

/// A rejected row with its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RejectedRowWithPayload {
    /// The row.
    #[serde(flatten)]
    pub row: RejectedRow,
    /// The first 64 Ki characters of the payload, as text: it may not be JSON.
    #[schema(example = "{\"apiId\": \"api-42\"}")]
    pub payload: String,
}

/// `PATCH /inbox/rejected/{id}`: a JSON merge patch (RFC 7396) of a rejected row. The columns are
/// those of the table `inbox`; `null` removes an optional one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"version": 1, "type": "api.deployed"}))]
pub struct RejectedRowChange {
    /// The version of the row that was read.
    pub version: i64,
    /// The event type.
    #[serde(
        rename = "type",
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false)]
    pub event_type: Option<String>,
    /// The payload, as text: gateways are sent these bytes.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "{\"apiId\": \"a-1\"}")]
    pub payload: Option<String>,
    /// The gateway that the event is for.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<GatewayId>)]
    pub gateway_id: Option<Option<GatewayId>>,
    /// The target in place of one gateway: the JSON text of a `target` of `POST /events`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "{\"labels\": {\"env\": \"prod\"}}")]
    pub target: Option<Option<String>>,
    /// The event's id.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub event_id: Option<Option<String>>,
    /// The correlation id; the event's id without one.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub correlation_id: Option<Option<String>>,
    /// The user on whose behalf it is published.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub user_id: Option<Option<String>>,
    /// When it expires.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Timestamp>)]
    pub expires_at: Option<Option<Timestamp>>,
    /// The W3C trace context of its cause.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub traceparent: Option<Option<String>>,
    /// The collapse key: the event supersedes older unsent events of its type with the same key.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub collapse_key: Option<Option<String>>,
    /// `true`: validate the row, and change nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// The result of an edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "published": true,
    "dryRun": false,
    "eventId": "01890a5d-ac96-774b-bcce-b302099a8057",
    "gatewayIds": ["01890a5d-ac96-774b-bcce-b302099a8057"],
    "deliveries": [{"gatewayId": "01890a5d-ac96-774b-bcce-b302099a8057", "sequence": 42}],
    "reason": null,
    "detail": null,
    "row": null,
}))]
pub struct EditedRow {
    /// Whether its event is in the log and the row is removed or, in a dry run, would be.
    pub published: bool,
    /// Whether this was a dry run.
    pub dry_run: bool,
    /// The event's id; `null` unless it is published.
    #[schema(required = true)]
    pub event_id: Option<EventId>,
    /// Its sequence in each gateway's log; empty in a dry run.
    pub deliveries: Vec<AcceptedDelivery>,
    /// The gateways that its event is for or, in a dry run, would be for.
    #[serde(default)]
    #[schema(required = true)]
    pub gateway_ids: Vec<GatewayId>,
    /// Why the row is still rejected; `null` if it is not.
    #[schema(required = true)]
    pub reason: Option<RejectionReason>,
    /// What is wrong, for people; `null` if nothing is.
    #[schema(required = true)]
    pub detail: Option<String>,
    /// The row, if it is still rejected; in a dry run, as it is.
    #[schema(required = true)]
    pub row: Option<RejectedRow>,
}

/// The result of a retry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(example = json!({
    "retried": 1,
    "more": false,
    "dryRun": true,
    "rows": [{
        "id": 7,
        "published": false,
        "gatewayCount": 0,
        "reason": "unknown_event_type",
        "detail": "event type plan.changed is not registered",
    }],
}))]
pub struct Retried {
    /// Rows that were put back into the inbox or, in a dry run, would be.
    #[schema(required = true, example = 3)]
    pub retried: u64,
    /// Whether more rows match. If so, repeat the request.
    #[schema(required = true)]
    pub more: bool,
    /// Whether this was a dry run.
    #[schema(required = true)]
    pub dry_run: bool,
    /// In a dry run, what would become of the first 100 rows; empty otherwise.
    #[schema(required = true)]
    pub rows: Vec<RetriedRow>,
}

/// What would become of a rejected row if it was put back now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetriedRow {
    /// Its id among the rejected rows.
    pub id: i64,
    /// Whether its event would be published.
    pub published: bool,
    /// The number of gateways that would receive the event.
    pub gateway_count: usize,
    /// Why it would be rejected again; `null` if it would not.
    #[schema(required = true)]
    pub reason: Option<RejectionReason>,
    /// What is wrong, for people; `null` if nothing is.
    #[schema(required = true)]
    pub detail: Option<String>,
}
