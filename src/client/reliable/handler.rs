//! What a gateway implements: it handles events and reads snapshots.

use std::time::Duration;

use async_trait::async_trait;

use crate::transport::frames::{
    ConnectionAck, ConnectionResumed, DeliveryGap, EventFrame, NackCode,
};

/// Handles what a client receives. One method runs at a time.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Handles an event. The next one is handled after this returns. It may take long: meanwhile the
    /// client reports progress and answers pings. After a crash, or if the connection broke, an event
    /// may be handled again: that must succeed, too.
    async fn handle(&self, event: EventFrame) -> Outcome;

    /// Reads a snapshot of everything that the gateway needs, because events can't be delivered. The
    /// snapshot must include them: read it after this was called. After an error, this is called again
    /// after a pause.
    async fn read_snapshot(&self, gap: &DeliveryGap) -> Result<(), SnapshotError>;

    /// Called when the state of the connection changes. Must return soon, because the client does
    /// nothing else meanwhile.
    async fn notice(&self, _notice: Notice) {}
}

/// The result of handling an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The event is applied, or ignored on purpose, such as one of an unknown type.
    Applied,
    /// The event was not applied. The service sends it again after a pause, and the events after it
    /// wait. Each time counts as a failed attempt; after the last one the event becomes a dead letter.
    RetryAfter {
        /// The time until the next attempt.
        after: Duration,
        /// Why, for programs.
        code: NackCode,
        /// Why, for admins; cut at 2 KiB.
        detail: Option<String>,
    },
    /// The event can't be applied. It becomes a dead letter, and the next one is delivered.
    Reject {
        /// Why, for programs.
        code: NackCode,
        /// Why, for admins; cut at 2 KiB.
        detail: Option<String>,
    },
}

/// Why a snapshot was not read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct SnapshotError(pub String);

/// A change of the client's connection.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The service has accepted the connection.
    Connected(ConnectionAck),
    /// Delivery starts.
    Resumed(ConnectionResumed),
    /// A snapshot was not read. Reading it is repeated after a pause.
    SnapshotFailed {
        /// The error, for people.
        why: String,
        /// The time until the next attempt.
        wait: Duration,
    },
    /// The connection has ended. The client reconnects after a pause.
    Disconnected {
        /// The close code, if the service sent one.
        code: Option<u16>,
        /// The error, for people.
        why: String,
        /// The time until the next attempt.
        wait: Duration,
    },
    /// No connection could be made. The client tries again after a pause.
    Failed {
        /// The error, for people.
        why: String,
        /// The time until the next attempt.
        wait: Duration,
    },
}
