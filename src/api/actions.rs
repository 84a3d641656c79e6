//! Corrective actions on a gateway or an event.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Gateway;
use crate::clock::Timestamp;
use crate::event::{ConnectionId, EventId, GatewayId, Sequence};

/// `POST /gateways/{id}/pause`. All members are optional, and so is the body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schema(example = json!({"reason": "upgrade of its host"}))]
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
#[schema(example = json!({"dryRun": true}))]
pub struct ResumeRequest {
    /// `true`: check the request, and change nothing.
    pub dry_run: bool,
}

/// The result of a pause or a resume.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PauseResponse {
    /// Whether it changed something or, in a dry run, would. `false` for a repeat.
    #[schema(example = true)]
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
#[schema(example = json!({"sequence": 42, "reason": "its artifact was deleted"}))]
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
pub struct SkipResponse {
    /// Whether it changed something or, in a dry run, would. `false` if it was skipped before.
    #[schema(example = true)]
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

/// `POST /gateways/{id}/resync`. All members are optional, and so is the body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schema(example = json!({"instance": "berlin-7f9c-0", "reason": "its volume was replaced"}))]
pub struct ResyncRequest {
    /// The only instance that reads a snapshot; omitted for all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Why, for people; at most 500 characters. Control and format characters are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 500)]
    pub reason: Option<String>,
    /// `true`: check the request, and change nothing.
    pub dry_run: bool,
}

/// The result of a resync request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResyncResponse {
    /// Whether it changed something or, in a dry run, would. `false` if a resync of each of these
    /// instances was pending before.
    #[schema(example = true)]
    pub changed: bool,
    /// Whether this was a dry run.
    pub dry_run: bool,
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The pending request for each instance; in a dry run, those that there would be. A request that
    /// was pending before keeps its reason.
    pub pending: Vec<Resync>,
}

/// A request that an instance reads a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resync {
    /// The instance's name; `null` for an unnamed connection.
    #[schema(required = true, example = "berlin-7f9c-0")]
    pub instance: Option<String>,
    /// How far it has come.
    pub state: ResyncState,
    /// When it was requested.
    pub requested_at: Timestamp,
    /// The name of the access token that requested it.
    #[schema(example = "ops")]
    pub requested_by: String,
    /// Why; `null` if no reason was given.
    #[schema(required = true, example = "its volume was replaced")]
    pub reason: Option<String>,
    /// The last connection on which the snapshot was requested; `null` if there was none.
    #[schema(required = true)]
    pub connection_id: Option<ConnectionId>,
    /// When that connection was opened.
    #[schema(required = true)]
    pub started_at: Option<Timestamp>,
    /// The snapshot covers everything up to this sequence; `null` until it is applied.
    #[schema(required = true)]
    pub resume_at: Option<Sequence>,
    /// When it ended; `null` while it is pending or started.
    #[schema(required = true)]
    pub ended_at: Option<Timestamp>,
}

/// How far a resync has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResyncState {
    /// The instance has not connected since.
    Pending,
    /// The snapshot was requested on a connection of the instance. If that ends before the snapshot is
    /// applied, the request is repeated on the next one.
    Started,
    /// The instance has applied the snapshot.
    Done,
    /// The instance expired, was forgotten, or its gateway was deleted.
    Removed,
}

impl ResyncState {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Started => "started",
            Self::Done => "done",
            Self::Removed => "removed",
        }
    }
}

/// `DELETE /events/{id}/payload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"reason": "contains a password"}))]
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
pub struct PurgeResponse {
    /// Whether it changed something or, in a dry run, would. `false` if it was purged before.
    #[schema(example = true)]
    pub changed: bool,
    /// Whether this was a dry run.
    pub dry_run: bool,
    /// The event.
    pub event_id: EventId,
    /// The purge on record; in a dry run, the one that would be recorded.
    pub purged: Purge,
    /// The number of pending deliveries that were given up or, in a dry run, would be.
    #[schema(example = 0)]
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
    /// The reason that was given for it.
    #[schema(example = "contains a password")]
    pub reason: String,
}
