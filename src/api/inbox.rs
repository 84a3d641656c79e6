//! Rows of the inbox that could not be published.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};

use super::json::known;
use crate::clock::Timestamp;
use crate::event::UnknownName;

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
pub struct RejectedRow {
    /// Its id among the rejected rows.
    pub id: i64,
    /// The id that it had in the inbox.
    pub inbox_id: i64,
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
    pub payload: String,
}

/// The result of a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Retried {
    /// Rows that were put back into the inbox.
    pub retried: u64,
    /// Whether more rows match. If so, repeat the request.
    pub more: bool,
}
