//! Gateways.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::Pause;
use super::json::{self, UniqueMembers, not_null};
use crate::clock::Timestamp;
use crate::event::{Epoch, GatewayId, GatewayIdPrefix, Sequence};

/// Free-form names and values that events are addressed by. At most 64; a name has 1
/// to 64 characters, without whitespace at either end, a value at most 256. Control and
/// format characters are refused.
pub type Labels = BTreeMap<String, String>;

/// `POST /gateways`: a gateway to register.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({
    "name": "berlin",
    "labels": {"env": "prod", "region": "eu"},
    "replicas": 2,
}))]
pub struct NewGateway {
    /// Unique in the organisation; 1 to 128 characters, without whitespace at either end,
    /// and no UUID. Control and format characters are refused.
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    /// Its id; generated if omitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<GatewayId>,
    /// Labels, by name.
    #[serde(
        default,
        deserialize_with = "json::unique_members",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schema(value_type = BTreeMap<String, String>)]
    pub labels: Labels,
    /// How many replicas of it connect at the same time; 1 if omitted. Do not declare more than
    /// there are: a reconnect can then repeat up to an hour of confirmed events, because it may be
    /// that of a replica that has not received them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub replicas: Option<i64>,
}

/// `PATCH /gateways/{id}`: a JSON merge patch (RFC 7396).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"labels": {"region": "eu-west", "canary": null}, "replicas": 3}))]
pub struct GatewayChange {
    /// Its new name, which has the same constraints as that of a new gateway.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128, nullable = false)]
    pub name: Option<String>,
    /// Labels to set; `null` as a label's value removes it, `null` in place of the
    /// object removes all of them.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    pub labels: Option<LabelChange>,
    /// How many replicas of it connect at the same time. Do not declare more than there are: a
    /// reconnect can then repeat up to an hour of confirmed events.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000, nullable = false)]
    pub replicas: Option<i64>,
    /// Which of its named instances must have confirmed a delivery before it counts as delivered.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub confirmation: Option<Confirmation>,
    /// Whether to prevent it from connecting. Disabling a gateway closes its connections.
    #[serde(default, deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub disabled: Option<bool>,
}

/// Which named instances of a gateway must have confirmed a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Confirmation {
    /// One of them, or an unnamed connection.
    #[default]
    Any,
    /// All of them. Unnamed connections count only if there are no named instances.
    All,
}

impl Confirmation {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::All => "all",
        }
    }
}

/// A change to labels, as in a JSON merge patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelChange {
    /// `null`: removes all.
    Clear,
    /// Sets these, removes those without a value, and keeps all others.
    Merge(BTreeMap<String, Option<String>>),
}

impl Serialize for LabelChange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Clear => serializer.serialize_none(),
            Self::Merge(changes) => changes.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for LabelChange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Option::deserialize(deserializer)? {
            None => Self::Clear,
            Some(UniqueMembers(changes)) => Self::Merge(changes),
        })
    }
}

/// Which gateways to list. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub struct GatewaysQuery {
    /// Its name.
    pub name: Option<String>,
    /// How its id begins, in lower case.
    #[param(value_type = Option<String>, min_length = 1, max_length = 36, pattern = "^[0-9a-f-]+$")]
    pub id_prefix: Option<GatewayIdPrefix>,
}

/// A registered gateway with the state of its log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "name": "berlin",
    "labels": {"env": "prod", "region": "eu"},
    "replicas": 2,
    "confirmation": "any",
    "createdAt": "2026-01-12T08:00:00.000000Z",
    "disabled": false,
    "connected": true,
    "connections": 2,
    "head": 42,
    "confirmed": 42,
    "lag": {"events": 0, "seconds": 0},
    "verdict": {
        "state": "ok",
        "since": "2026-01-31T09:30:00.123456Z",
        "reason": null,
        "failures": 0,
        "summary": "ok",
    },
    "epoch": "01890a5d-ac96-774b-bcce-b302099a805a",
    "floor": 0,
}))]
pub struct Gateway {
    /// Its id.
    pub id: GatewayId,
    /// Its name, unique in the organisation.
    pub name: String,
    /// Its labels.
    #[schema(value_type = BTreeMap<String, String>)]
    pub labels: Labels,
    /// How many replicas connect at the same time, as declared. If there are fewer, a reconnect can
    /// repeat up to an hour of confirmed events.
    pub replicas: i64,
    /// Which of its named instances must have confirmed a delivery before it counts as delivered.
    #[serde(default)]
    #[schema(required = true)]
    pub confirmation: Confirmation,
    /// When it was registered.
    pub created_at: Timestamp,
    /// Whether it is prevented from connecting.
    pub disabled: bool,
    /// When it was disabled. Omitted unless it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub disabled_at: Option<Timestamp>,
    /// Its pause. Omitted unless it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub paused: Option<Pause>,
    /// Whether it has a live connection on any node.
    pub connected: bool,
    /// Its live connections on all nodes.
    pub connections: i64,
    /// When the oldest of its live connections was opened. Omitted without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub connected_since: Option<Timestamp>,
    /// When its last connection ended. Omitted if none has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub disconnected_at: Option<Timestamp>,
    /// The last sequence of its log.
    pub head: Sequence,
    /// Everything up to this sequence is confirmed or a dead letter.
    pub confirmed: Sequence,
    /// How far it is behind its log.
    pub lag: Lag,
    /// Its state, in one word.
    pub verdict: Verdict,
    /// The epoch of its log, which changes when the log is reset or restored.
    pub epoch: Epoch,
    /// The last sequence that retention has removed from its log; 0 if none.
    pub floor: Sequence,
    /// The last refused connection attempt with one of its keys. Omitted if there was none. At most
    /// one attempt in ten seconds is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last_refusal: Option<LastRefusal>,
    /// The newest manifest that it has sent. Omitted if it has sent none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false, nullable = false)]
    pub manifest: Option<Box<RawValue>>,
    /// When it sent that manifest. Omitted if it has sent none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub manifest_at: Option<Timestamp>,
}

/// How far a gateway is behind its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lag {
    /// Pending deliveries.
    pub events: i64,
    /// Age of the oldest pending delivery, in seconds.
    pub seconds: u64,
}

/// The state of a gateway: the first one that applies, since when, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "state": "away",
    "since": "2026-01-31T02:10:00.000000Z",
    "reason": "closed_by_gateway",
    "failures": 0,
    "summary": "away since 2026-01-31T02:10:00Z, last refusal: key revoked",
}))]
pub struct Verdict {
    /// The state.
    pub state: VerdictState,
    /// When the state began.
    pub since: Timestamp,
    /// A failure or close reason, `never_connected` or `confirmation_overdue`. If the state is
    /// `paused`, who paused it, and why, for people. `null` if the state is `ok`.
    #[schema(required = true)]
    pub reason: Option<String>,
    /// Failed reports since an event of the type that failed last was applied; 0 unless it is `failing`
    /// because of reports.
    pub failures: i64,
    /// The verdict in a sentence, for people. Its wording may change.
    #[serde(default)]
    #[schema(required = true)]
    pub summary: String,
}

/// The states of a verdict, by decreasing precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VerdictState {
    /// It was deleted. Only a diagnosis finds deleted gateways.
    Deleted,
    /// An admin has disabled it.
    Disabled,
    /// An admin has paused its delivery.
    Paused,
    /// It does not handle what it receives.
    Failing,
    /// It has no live connection.
    Away,
    /// It is connected, and its oldest pending event is older than 30 s.
    Behind,
    /// It is connected and up to date.
    Ok,
}

impl VerdictState {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Disabled => "disabled",
            Self::Paused => "paused",
            Self::Failing => "failing",
            Self::Away => "away",
            Self::Behind => "behind",
            Self::Ok => "ok",
        }
    }
}

/// A refused connection attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastRefusal {
    /// When it was refused.
    pub at: Timestamp,
    /// The code of the problem document that it was refused with.
    #[schema(example = "unauthorized")]
    pub code: String,
    /// What was wrong with its key: `key_revoked`, `key_expired` or `key_wrong`; `null` if that was
    /// not why.
    #[serde(default)]
    #[schema(required = true, example = "key_revoked")]
    pub cause: Option<String>,
    /// The peer's IP address.
    #[schema(example = "192.0.2.7")]
    pub address: String,
}
