//! Resync requests: an admin requested that the instances of a gateway read a snapshot.
//!
//! A request is stored for each instance that it concerns, and stays pending until the instance has
//! applied the snapshot. While it is pending, each connection that the instance opens begins with a
//! [gap](super::GapReason::Resync) up to the log's head. A connection that is live when the request
//! is made is asked to reconnect. It is not sent the gap itself: an acknowledgement of the last
//! event, which may be on its way, could not be told from that of the snapshot.
//!
//! Unnamed connections can't be told apart. A request for them is stored as many times as there are
//! live ones or, if there is none, as the gateway has declared replicas, and each that opens takes
//! one. It concerns them if they are live, or if the gateway has no instances and has used reliable
//! mode before.

use super::ReplacedConnection;
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayKey, Sequence};

/// Resync requests of a gateway that are listed, at most: pending ones first, then newest first.
pub const LISTED_RESYNCS: i64 = 200;

/// A request for a resync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResyncRequest {
    /// The only instance that it concerns; `None` for all, and for unnamed connections.
    pub instance: Option<String>,
    /// Why, if that was said.
    pub reason: Option<String>,
}

/// A resync request for one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resync {
    /// The instance's name; empty for an unnamed connection.
    pub instance: String,
    /// When it was requested.
    pub requested_at: Timestamp,
    /// The name of the principal that requested it.
    pub requested_by: String,
    /// Why, if that was said.
    pub reason: Option<String>,
    /// The last connection that was sent the gap, and when it was opened.
    pub started: Option<(ConnectionId, Timestamp)>,
    /// The snapshot covers everything up to this sequence. `None` until it is applied.
    pub resume_at: Option<Sequence>,
    /// When it ended, and how. `None` while it is pending.
    pub ended: Option<(Timestamp, ResyncOutcome)>,
}

/// How a resync request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResyncOutcome {
    /// The instance has applied the snapshot.
    Done,
    /// The instance expired, was forgotten, or its gateway was deleted.
    Removed,
}

impl ResyncOutcome {
    /// Its name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Removed => "removed",
        }
    }

    /// The outcome with a name from the database. A name that only a newer version knows is read as
    /// `removed`.
    pub fn stored(name: &str) -> Self {
        if name == Self::Done.as_str() { Self::Done } else { Self::Removed }
    }
}

/// The result of a resync request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResyncChange {
    /// The key by which the store refers to the gateway.
    pub key: GatewayKey,
    /// Whether it changed something or, in a dry run, would. `false` if a resync of each instance
    /// was pending before.
    pub changed: bool,
    /// The pending requests for these instances; in a dry run, those that there would be.
    pub pending: Vec<Resync>,
    /// Live connections that must be asked to reconnect. Those of other nodes find out by
    /// [`Instances::connections_to_end`](super::Instances::connections_to_end).
    pub connections: Vec<ReplacedConnection>,
}
