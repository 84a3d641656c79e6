//! The audit log.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::clock::Timestamp;

/// Which records to list. An omitted parameter matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Recorded at this time or later (RFC 3339 with an offset). By default 24 hours before `to`,
    /// or before now.
    pub from: Option<Timestamp>,
    /// Recorded before this time (RFC 3339 with an offset). By default the window has no end.
    pub to: Option<Timestamp>,
    /// What was done, such as `gateway.disabled`.
    #[param(example = "gateway.disabled")]
    pub action: Option<String>,
    /// By whom: an access token's public id or name; `local` or the name of an operating system's
    /// user for commands that change the database directly.
    #[param(min_length = 1, max_length = 256, example = "local")]
    pub principal: Option<String>,
    /// To what: an object's id, or the name that it had then. A gateway's name also selects its
    /// keys.
    #[param(min_length = 1, max_length = 256, example = "berlin")]
    pub object: Option<String>,
}

/// A change that a principal made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "sequence": 17,
    "recordedAt": "2026-01-31T09:30:00.123456Z",
    "action": "gateway.disabled",
    "principal": {"id": "6kzj2v7qmw4t", "name": "operations"},
    "source": "192.0.2.7",
    "requestId": "01890a5d-ac96-774b-bcce-b302099a805c",
    "object": {
        "kind": "gateway",
        "id": "01890a5d-ac96-774b-bcce-b302099a8057",
        "name": "berlin",
    },
    "before": {"disabled": false},
    "after": {"disabled": true},
    "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}))]
pub struct AuditRecord {
    /// Its sequence in the audit log, which all organisations share.
    pub sequence: i64,
    /// When it was recorded, in the transaction of the change.
    pub recorded_at: Timestamp,
    /// The action, such as `gateway.paused`.
    pub action: String,
    /// The principal that made the change.
    pub principal: AuditPrincipal,
    /// The client's IP address; of a local command, the host's name. `null` if it is unknown.
    #[schema(required = true)]
    pub source: Option<String>,
    /// The request's id, as in its response and in the log. `null` for a local command.
    #[schema(required = true)]
    pub request_id: Option<String>,
    /// The object.
    pub object: AuditObject,
    /// What it was before: only members that changed. Long values are cut, and at most 8 KiB are
    /// kept; `omitted` counts the members that did not fit.
    #[schema(value_type = Object)]
    pub before: Map<String, Value>,
    /// What it is after the change, with the same limits.
    #[schema(value_type = Object)]
    pub after: Map<String, Value>,
    /// SHA-256 of the record and of the hash of the record before it, in hexadecimal digits.
    pub hash: String,
}

/// Who made a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditPrincipal {
    /// The public id of an access token; `local` for a command that changes the database directly.
    #[schema(example = "6kzj2v7qmw4t")]
    pub id: String,
    /// The access token's name, or the name of the operating system's user.
    #[schema(example = "operations")]
    pub name: String,
}

/// What was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditObject {
    /// Its kind, such as `gateway`, `gateway_token`, `event` or `job`.
    #[schema(example = "gateway")]
    pub kind: String,
    /// Its id. Of several rejected rows, their ids.
    pub id: String,
    /// The name that it had then. Of a gateway's key, the gateway's name.
    #[schema(example = "berlin")]
    pub name: String,
}
