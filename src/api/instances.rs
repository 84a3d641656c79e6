//! Named instances of gateways.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Resync;
use crate::clock::Timestamp;
use crate::event::{ConnectionId, Sequence};

/// The instances of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instances {
    /// How many there are.
    #[schema(example = 1)]
    pub count: usize,
    /// The instances, by name; at most 100.
    pub list: Vec<Instance>,
    /// Instances that have expired, the last one first; at most 100.
    pub expired: Vec<ExpiredInstance>,
    /// Resync requests: those that have not ended, then newest first; at most 200.
    #[serde(default)]
    pub resyncs: Vec<Resync>,
}

/// A named instance of a gateway: a replica that states a stable name when it connects, and has a
/// position of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "name": "berlin-7f9c-0",
    "confirm": "applied",
    "received": 42,
    "applied": 41,
    "lag": 1,
    "connected": true,
    "connection": {
        "connectionId": "01890a5d-ac96-774b-bcce-b302099a8058",
        "transport": "websocket.v1",
        "node": "01890a5d-ac96-774b-bcce-b302099a805b",
        "connectedAt": "2026-01-31T09:30:00.123456Z",
    },
    "lastSeenAt": "2026-01-31T09:31:00.000000Z",
}))]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// The level that it confirms by.
    pub confirm: Level,
    /// Everything up to this sequence was received.
    pub received: Sequence,
    /// Everything up to this sequence was applied.
    pub applied: Sequence,
    /// Events in the gateway's log that it has not confirmed.
    pub lag: i64,
    /// Whether it has a live connection on any node.
    pub connected: bool,
    /// Its newest live connection. Omitted if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub connection: Option<InstanceConnection>,
    /// The resync that was requested of it, unless that has ended. Omitted if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub resync: Option<Resync>,
    /// Its last activity. While it is connected, accurate to about ten seconds.
    pub last_seen_at: Timestamp,
}

/// A live connection of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceConnection {
    /// Its id.
    pub connection_id: ConnectionId,
    /// The transport.
    #[schema(example = "websocket.v1")]
    pub transport: String,
    /// The node that holds it.
    pub node: String,
    /// When it was opened.
    pub connected_at: Timestamp,
}

/// An instance that did not connect for `reliable.instance_ttl`. Its position is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "name": "berlin-5d21-0",
    "confirm": "applied",
    "received": 17,
    "applied": 17,
    "lastSeenAt": "2026-01-12T08:00:00.000000Z",
    "expiredAt": "2026-01-19T08:00:05.000000Z",
}))]
pub struct ExpiredInstance {
    /// Its name.
    pub name: String,
    /// The level that it confirmed by.
    pub confirm: Level,
    /// Everything up to this sequence was received.
    pub received: Sequence,
    /// Everything up to this sequence was applied.
    pub applied: Sequence,
    /// Its last activity.
    pub last_seen_at: Timestamp,
    /// When it expired.
    pub expired_at: Timestamp,
}

/// How far a gateway has come with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It has received the event.
    Received,
    /// It has applied the event.
    Applied,
}

impl Level {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Applied => "applied",
        }
    }
}
