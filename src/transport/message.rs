//! The contents of the messages between a lane and a transport, without a wire format. Those of plain
//! mode are reports on deployments; the others belong to reliable mode.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::event::{Epoch, EventId, EventType, Reason, Sequence};

/// What a gateway asks for in its hello.
#[derive(Clone, Debug)]
pub struct DeliveryRequest {
    /// The name of the instance; `None` for the position that all unnamed connections share.
    pub instance: Option<String>,
    /// Where delivery starts.
    pub start: Start,
    /// The window that the gateway asks for.
    pub credit: Credit,
    /// The only event types to deliver; `None` for all.
    pub types: Option<BTreeSet<EventType>>,
    /// What confirms an event.
    pub confirmation: Confirmation,
}

/// Where the gateway asks delivery to start.
#[derive(Clone, Debug)]
pub enum Start {
    /// After the position that is stored for the instance.
    Stored,
    /// With the next event that is published.
    Latest,
    /// With the oldest event that is still stored.
    Earliest,
    /// After this position, which the gateway has confirmed.
    After {
        /// The epoch of the log.
        epoch: Epoch,
        /// The last confirmed sequence; 0 if none.
        sequence: Sequence,
        /// The id of the event with this sequence, which must match.
        event_id: Option<EventId>,
    },
    /// The gateway has received everything up to here, and may not have confirmed it.
    Received {
        /// The epoch of the log.
        epoch: Epoch,
        /// The last received sequence.
        sequence: Sequence,
    },
    /// The gateway has confirmed everything up to here, and may have confirmed more since.
    Confirmed {
        /// The epoch of the log.
        epoch: Epoch,
        /// The last sequence that is known to be confirmed.
        sequence: Sequence,
    },
}

/// When a gateway confirms an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// Once it has received it.
    Received,
    /// Once it has applied it.
    Applied,
}

/// Where the service starts delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// The sequence before the first event.
    pub from: Sequence,
    /// The last sequence of the log.
    pub head: Sequence,
    /// The epoch of the log.
    pub epoch: Epoch,
}

/// The peer has been sent everything up to a sequence that is meant for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The sequence.
    pub sequence: Sequence,
    /// The last sequence of the log.
    pub head: Sequence,
}

/// Sequences that can't be delivered. The peer reads a snapshot instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first of them.
    pub from: Sequence,
    /// The last of them; below `from` if there are none.
    pub to: Sequence,
    /// Why they can't be delivered.
    pub reason: GapReason,
    /// Where the peer finds the snapshot.
    pub snapshot_url: Option<String>,
    /// Delivery continues after this sequence, once the peer has confirmed it as applied.
    pub resume_at: Sequence,
    /// The epoch of the log.
    pub epoch: Epoch,
}

/// Why sequences can't be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Retention has removed them.
    Retention,
    /// The peer's position belongs to another log.
    Epoch,
    /// An admin has purged their payloads.
    Purged,
    /// An admin requested a resync.
    Resync,
}

/// A request to reconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Why.
    pub reason: Reason,
    /// How long the peer is to wait after the end of this connection.
    pub reconnect_after: Duration,
    /// How long the lane waits for confirmations before it closes the connection.
    pub grace: Duration,
}

/// A message of the peer that contradicts what it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It is about a sequence beyond what was sent.
    BeyondSent(Sequence),
    /// It rejects an event that the peer has confirmed.
    Confirmed(Sequence),
}

/// A peer could not apply an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The event's sequence.
    pub sequence: Sequence,
    /// Why it was not applied.
    pub reason: Reason,
    /// Whether the event and those after it are to be sent again. If not, it becomes a dead letter.
    pub retryable: bool,
    /// The delay before the retry, if the peer states one.
    pub retry_after: Option<Duration>,
    /// Details for admins; empty if there are none.
    pub detail: String,
}

/// The limits of a window. `None` keeps the current limit; 0 pauses delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// How many unconfirmed events may be in flight.
    pub events: Option<u32>,
    /// How many bytes of them.
    pub bytes: Option<u64>,
}

/// A gateway's report on one deployment. It contains no event id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeploymentReport {
    /// The deployment's id.
    pub deployment_id: String,
    /// The id of the artifact that was deployed or undeployed.
    pub artifact_id: String,
    /// The kind of the artifact, as the gateway calls it.
    pub resource_type: String,
    /// The requested action.
    pub action: DeploymentAction,
    /// Its result.
    pub status: DeploymentStatus,
    /// The `performedAt` of the event that it reports on.
    pub performed_at: Option<Timestamp>,
    /// Why it failed, such as `GATEWAY_PROCESSING_ERROR`.
    pub error_code: Option<String>,
}

/// The action that an event requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeploymentAction {
    /// Deploy the artifact.
    Deploy,
    /// Undeploy it.
    Undeploy,
}

impl DeploymentAction {
    /// The last segment of the event types that request it.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Deploy => "deployed",
            Self::Undeploy => "undeployed",
        }
    }
}

/// The result of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeploymentStatus {
    /// It was applied.
    Success,
    /// It was not applied.
    Failed,
}
