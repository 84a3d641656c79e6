//! Conflicts with what is stored.

use crate::clock::Timestamp;
use crate::event::{EventId, EventType, GatewayId, Reason, Sequence};

use super::StoreError;

/// What an operation conflicts with. The texts are whole sentences, because API clients receive them as
/// the `detail` of a problem, and name nothing of the database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// A gateway with this id exists or existed.
    #[error("The gateway id {0} is or was in use. Omit it to have one generated.")]
    GatewayId(GatewayId),
    /// The name is that of another gateway.
    #[error(
        "The name {name:?} belongs to gateway {by}. Choose another name, or delete that gateway first."
    )]
    GatewayName {
        /// The name.
        name: String,
        /// The gateway that has it.
        by: GatewayId,
    },
    /// The gateway has the maximum number of live tokens.
    #[error(
        "Gateway {gateway} has {live} live tokens, the maximum. Revoke one that is no longer used, then create the new one."
    )]
    GatewayTokens {
        /// The gateway.
        gateway: GatewayId,
        /// The number of its live tokens.
        live: i64,
    },
    /// With the change the gateway would have too many labels.
    #[error(
        "A gateway may have {most} labels; this change would make it {labels}. Remove some first."
    )]
    Labels {
        /// The number that it would have.
        labels: usize,
        /// The maximum.
        most: usize,
    },
    /// The gateway has the maximum number of named instances.
    #[error(
        "The gateway has {most} instances, the maximum. Connect with the name of an existing instance, or have an admin forget one that is no longer used."
    )]
    Instances {
        /// The maximum.
        most: i64,
    },
    /// A new instance has a name that could be mistaken for another one. Instances that exist keep
    /// theirs. The text is not a sentence: it follows the name of the member, `instance`.
    #[error(
        "must be 1 to {most} characters for a new instance, with no control, format or filler characters, no whitespace at either end, and not dots only; got {shown}"
    )]
    InstanceName {
        /// The maximum length.
        most: usize,
        /// The name, escaped and shortened.
        shown: String,
    },
    /// The instance has a live connection, so it can't be forgotten.
    #[error("The instance {0:?} is connected. Stop it first.")]
    InstanceConnected(String),
    /// The gateway has only used plain mode, whose protocol has no message for a resync.
    #[error(
        "No connection of the gateway in reliable mode is on record, and plain mode has no message that requests a resync. Replay a part of its log instead."
    )]
    PlainMode,
    /// The organisation has the maximum number of running jobs.
    #[error("{running} jobs are running, the maximum. Wait until one ends, or abort one.")]
    RunningJobs {
        /// The number of its running jobs.
        running: i64,
    },
    /// The id is that of another alert rule or destination.
    #[error("There is an {what} with the id {id}. Choose another id, or replace it with PUT.")]
    AlertId {
        /// `alert rule` or `alert destination`.
        what: &'static str,
        /// The id.
        id: String,
    },
    /// The organisation has the maximum number of alert rules.
    #[error("There are {most} alert rules, the maximum. Delete one that is no longer needed.")]
    AlertRules {
        /// The maximum.
        most: i64,
    },
    /// The organisation has the maximum number of destinations of alerts.
    #[error(
        "There are {most} alert destinations, the maximum. Delete one that is no longer needed."
    )]
    AlertDestinations {
        /// The maximum.
        most: i64,
    },
    /// The event has expired, and would not be delivered.
    #[error("The event {event} expired at {at}. Publish it again if it is still valid.")]
    EventExpired {
        /// The event.
        event: EventId,
        /// When it expired.
        at: Timestamp,
    },
    /// The event type is built in, and nothing is registered under its name.
    #[error("{0} is a built-in event type, which can't be deleted.")]
    BuiltInType(EventType),
    /// The rejected row was put back before.
    #[error("The rejected row {0} has been put back into the inbox already.")]
    PutBack(i64),
    /// The rejected row was edited since it was read.
    #[error(
        "The rejected row {id} was edited meanwhile and has version {version}. Read it again, and edit that version."
    )]
    Edited {
        /// The row.
        id: i64,
        /// Its version.
        version: i64,
    },
    /// The delivery was confirmed, so it can't be skipped.
    #[error(
        "The gateway's position has passed the delivery {0}; only a pending delivery can be skipped."
    )]
    Delivered(Sequence),
    /// The delivery was given up for another reason, so it can't be skipped.
    #[error(
        "The delivery {sequence} was given up already ({reason}); only a pending delivery can be skipped."
    )]
    GivenUp {
        /// The delivery.
        sequence: Sequence,
        /// Why it was given up.
        reason: Reason,
    },
    /// The event's payload was purged, so it can't be sent again.
    #[error("The payload of event {0} was purged; it can't be sent again. Publish a new event.")]
    Purged(EventId),
    /// The `Idempotency-Key` of an action belongs to another request.
    #[error(
        "The Idempotency-Key {key:?} belongs to an earlier request with a different path or body. Repeat that request unchanged, or use a new key."
    )]
    KeyReused {
        /// The key.
        key: String,
    },
    /// A concurrent request, on this node or another one, took the same name, id or key. A retry
    /// finds what it stored.
    #[error("A concurrent request took this name, id or key. Read what it stored, then retry.")]
    Concurrent,
}

impl From<Conflict> for StoreError {
    fn from(conflict: Conflict) -> Self {
        Self::Conflict(conflict)
    }
}
