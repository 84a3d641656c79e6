//! Corrective actions on a gateway or an event.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Gateway;
use crate::clock::Timestamp;
use crate::event::{EventId, GatewayId, Sequence};

/// `POST /gateways/{id}/pause`. All members are optional, and so is the body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PauseRequest {
    /// Why, for people; at most 500 characters. Control and format characters are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 500)]
    pub reason: Option<String>,
    /// `true`: check the request, and change nothing.
    pub dry_run: bool,
}

/// `POST /gateways/{id}/resume`. The body is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ResumeRequest {
    /// `true`: check the request, and change nothing.
    pub dry_run: bool,
}

/// The result of a pause or a resume.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PauseAnswer {
    /// Whether it changed something or, in a dry run, would. `false` for a repeat.
    pub changed: bool,
    /// Whether this was a dry run.
    pub dry_run: bool,
    /// The gateway; in a dry run, as it is.
    pub gateway: Gateway,
}

/// The pause of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pause {
    /// When it was paused.
    pub at: Timestamp,
    /// The name of the access token that paused it.
    #[schema(example = "ops")]
    pub by: String,
    /// Why; `null` if no reason was given.
    #[schema(required = true)]
    pub reason: Option<String>,
}

/// `POST /gateways/{id}/skip`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SkipRequest {
    /// The sequence of a pending delivery.
    pub sequence: Sequence,
    /// Why, for people; at most 500 characters. Control and format characters are replaced.
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
    /// `true`: check the request, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// The result of a skip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SkipAnswer {
    /// Whether it changed something or, in a dry run, would. `false` if it was skipped before.
    pub changed: bool,
    /// Whether this was a dry run.
    pub dry_run: bool,
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The skipped sequence.
    pub sequence: Sequence,
    /// Its event; `null` once retention has removed it.
    #[schema(required = true)]
    pub event_id: Option<EventId>,
}

/// `POST /gateways/{id}/resync`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResyncRequest {
    /// Why, for people; at most 500 characters. Control and format characters are replaced.
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
    /// `true`: check the request, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// `DELETE /events/{id}/payload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PurgeRequest {
    /// Why, for people; at most 500 characters. Control and format characters are replaced.
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
    /// `true`: check the request, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// The result of a purge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PurgeAnswer {
    /// Whether it changed something or, in a dry run, would. `false` if it was purged before.
    pub changed: bool,
    /// Whether this was a dry run.
    pub dry_run: bool,
    /// The event.
    pub event_id: EventId,
    /// The purge on record; in a dry run, the one that would be recorded.
    pub purged: Purge,
    /// The number of pending deliveries that were given up or, in a dry run, would be.
    pub given_up: usize,
}

/// The purge of an event's payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Purge {
    /// When it was purged.
    pub at: Timestamp,
    /// The name of the access token that purged it.
    #[schema(example = "security")]
    pub by: String,
    /// Why.
    pub reason: String,
}
