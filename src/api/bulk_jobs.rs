//! Replays, resends, and the jobs that redrive or replay many deliveries.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::json::Object;
use super::{AcceptedDelivery, AuditPrincipal, DeliveryFilter, Target, Warning};
use crate::clock::Timestamp;
use crate::event::{EventId, GatewayId, JobId, NodeId, Sequence};

/// A redrive or a replay that appends more deliveries than a request may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "id": "01890a5d-ac96-774b-bcce-b302099a8059",
    "kind": "redrive",
    "parameters": {"filter": {"to": "2026-01-31T09:30:00.123456Z", "reason": "not_connected"}},
    "state": "running",
    "failure": null,
    "progress": {"done": 3000, "total": 25000},
    "appended": 2998,
    "skipped": {
        "pending": 0,
        "delivered": 2,
        "alreadyRedriven": 0,
        "gatewayDeleted": 0,
        "repeated": 0,
        "eventRemoved": 0,
        "payloadPurged": 0,
        "expired": 0,
    },
    "startedBy": {"id": "6kzj2v7qmw4t", "name": "operations"},
    "startedAt": "2026-01-31T09:30:00.123456Z",
    "updatedAt": "2026-01-31T09:30:02.500000Z",
    "endedAt": null,
    "node": "01890a5d-ac96-774b-bcce-b302099a805b",
}))]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Which deliveries it appends again.
    pub parameters: JobParameters,
    /// Whether it has ended, and how.
    pub state: JobState,
    /// Why it failed; `null` unless it did.
    #[schema(required = true)]
    pub failure: Option<String>,
    /// How far it has come.
    pub progress: JobProgress,
    /// Deliveries that it has appended. They stay if it is aborted.
    pub appended: i64,
    /// Deliveries that it has skipped, by reason.
    pub skipped: JobSkips,
    /// Who started it.
    pub started_by: AuditPrincipal,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it last made progress.
    pub updated_at: Timestamp,
    /// When it ended; `null` while it is running.
    #[schema(required = true)]
    pub ended_at: Option<Timestamp>,
    /// The node that worked on it last; `null` before the first one has begun. Another node
    /// continues if that one stops.
    #[schema(required = true)]
    pub node: Option<NodeId>,
}

/// `POST /jobs/{id}/abort`. The body is optional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AbortRequest {
    /// `true`: report what would be left undone, and change nothing.
    pub dry_run: bool,
}

/// The result of an abort.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Aborted {
    /// The job; in a dry run, as it is.
    #[serde(flatten)]
    pub job: Job,
    /// Whether this was a dry run.
    #[serde(default)]
    #[schema(required = true)]
    pub dry_run: bool,
    /// What it has not done or, in a dry run, would leave undone: dead letters of a redrive, sequences
    /// of a replay. `null` if a redrive has not counted them yet.
    #[serde(default)]
    #[schema(required = true)]
    pub left: Option<i64>,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// It appends dead letters again.
    Redrive,
    /// It appends a range of a gateway's log again.
    Replay,
    /// A newer version of the service started it and works on it; this one can only abort it.
    Unknown,
}

impl JobKind {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Replay => "replay",
            Self::Unknown => "unknown",
        }
    }
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// A node is working on it, or will continue it.
    Running,
    /// It is complete.
    Done,
    /// An admin ended it.
    Aborted,
    /// It could not be continued.
    Failed,
}

impl JobState {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
        }
    }
}

/// What a job appends again: the dead letters that match `filter`, or the sequences `fromSequence`
/// to `toSequence` of a gateway's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobParameters {
    /// Of a redrive: its filter, whose window ends when the job was started. Omitted for a replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DeliveryFilter>, nullable = false)]
    pub filter: Option<Object<DeliveryFilter>>,
    /// Of a replay: the gateway. Omitted for a redrive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub gateway_id: Option<GatewayId>,
    /// Of a replay: the first sequence. Omitted for a redrive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub from_sequence: Option<Sequence>,
    /// Of a replay: the last sequence. Omitted for a redrive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub to_sequence: Option<Sequence>,
}

/// How far a job has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobProgress {
    /// How much of `total` is done.
    pub done: i64,
    /// For a redrive, the open dead letters that match; `null` until the job has counted them, which
    /// it does first. For a replay, the sequences of its range.
    #[schema(required = true)]
    pub total: Option<i64>,
}

/// Deliveries that a job has skipped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobSkips {
    /// Of a redrive: still pending.
    pub pending: i64,
    /// Of a redrive: delivered, filtered or superseded since.
    pub delivered: i64,
    /// Of a redrive: redriven by another request, before or while the job ran. Includes those whose
    /// gateway was deleted while it ran.
    pub already_redriven: i64,
    /// Of a redrive: the gateway is deleted.
    pub gateway_deleted: i64,
    /// Of a replay: the event occurs again later in the range.
    pub repeated: i64,
    /// Retention has removed the event.
    pub event_removed: i64,
    /// The event's payload was purged.
    pub payload_purged: i64,
    /// The event has expired.
    pub expired: i64,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct JobsQuery {
    /// Only jobs in this state.
    #[param(inline)]
    pub state: Option<JobState>,
}

/// `POST /gateways/{id}/replay`: the part of the log to append again. Either `fromSequence`, with or
/// without `toSequence`, or `from`, with or without `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplayRequest {
    /// The first sequence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub from_sequence: Option<Sequence>,
    /// The last sequence, included; by default the head of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub to_sequence: Option<Sequence>,
    /// Appended at this time or later (RFC 3339 with an offset).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Appended before this time (RFC 3339 with an offset); by default now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// Only report what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a replay did or, in a dry run, would do. The counts add up to the number of sequences; with
/// a job they are 0, and the job has its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "gatewayId": "01890a5d-ac96-774b-bcce-b302099a8057",
    "fromSequence": 30,
    "toSequence": 42,
    "replayed": 12,
    "repeated": 1,
    "expired": 0,
    "eventRemoved": 0,
    "payloadPurged": 0,
    "firstNewSequence": 43,
    "lastNewSequence": 54,
    "job": null,
}))]
pub struct Replayed {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The first sequence of the replayed range, which is fixed when the replay is requested; `null`
    /// if the log has none in the window.
    #[schema(required = true)]
    pub from_sequence: Option<Sequence>,
    /// The last sequence of the range.
    #[schema(required = true)]
    pub to_sequence: Option<Sequence>,
    /// Deliveries that were appended again.
    pub replayed: i64,
    /// Skipped because the event occurs again later in the range: it is appended once, at its last
    /// place.
    pub repeated: i64,
    /// Skipped because the event has expired.
    pub expired: i64,
    /// Sequences that retention has removed: they can't be replayed. Those whose time is not known
    /// any more belong to a window that starts before all others.
    pub event_removed: i64,
    /// Skipped because the payload was purged.
    pub payload_purged: i64,
    /// The first new sequence; `null` in a dry run, with a job, or if nothing was appended.
    #[schema(required = true)]
    pub first_new_sequence: Option<Sequence>,
    /// The last new sequence.
    #[schema(required = true)]
    pub last_new_sequence: Option<Sequence>,
    /// The job that replays the range; `null` if it was small enough to be replayed at once.
    #[schema(required = true)]
    pub job: Option<Job>,
}

/// `POST /events/{id}/resend`: the gateways to append the event for. Exactly one of `gatewayIds` and
/// `target`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResendRequest {
    /// These gateways; at least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1)]
    pub gateway_ids: Option<Vec<GatewayId>>,
    /// Gateways by other criteria.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Target>)]
    pub target: Option<Object<Target>>,
    /// Append it also for gateways that have it in their log.
    #[serde(default)]
    pub force: bool,
    /// Only report what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a resend did or, in a dry run, would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "deliveries": [{"gatewayId": "01890a5d-ac96-774b-bcce-b302099a8057", "sequence": 42}],
    "alreadyInLog": [],
}))]
pub struct Resent {
    /// The event's id.
    pub id: EventId,
    /// Gateways that it was appended for, with its sequence in their log.
    pub deliveries: Vec<ResentDelivery>,
    /// Gateways that were left out because it is in their log, with its last sequence there. A
    /// failed delivery is in the log, too: redrive it.
    pub already_in_log: Vec<AcceptedDelivery>,
    /// Warnings. Omitted if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// A delivery that a resend has appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResentDelivery {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The sequence; `null` in a dry run.
    #[schema(required = true)]
    pub sequence: Option<Sequence>,
}
