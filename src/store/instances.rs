//! Named instances of gateways, and connections in reliable mode.
//!
//! # Definitions
//!
//! An *instance* is a replica of a gateway that states a stable name in its hello. It has a cursor
//! of its own, which outlives its connections: how far it has *received* and how far it has
//! *applied* events, both cumulative. Its *position* is that of the level that it confirms by, which
//! its last hello stated. It only moves forward. Connections of reliable mode without a name have
//! positions like those of plain mode (see [`positions`](super::positions)).
//!
//! The gateway's confirmed position, from which the states of its deliveries follow, moves with the
//! positions of its instances, as its setting [`Confirmation`] says:
//!
//! | setting | the confirmed position is the highest sequence … |
//! |---|---|
//! | `any` | that an instance or an unnamed connection has reached |
//! | `all` | that all instances have reached; unnamed connections count only if there are no instances |
//!
//! It never moves back: neither for a new instance, nor when the setting changes. An instance that
//! has not connected for a time (`reliable.instance_ttl`) expires, and an admin can forget one. Then
//! it no longer counts, and resumes like a new one if it connects again.
//!
//! # Where a connection starts
//!
//! The transaction that opens a connection decides where it starts. If it can't deliver everything
//! after the requested position, it returns a [`Gap`], and delivery waits until the gateway has read
//! a snapshot ([`InstanceOutcome::Covered`](super::InstanceOutcome::Covered)).
//!
//! | requested | starts after | gap |
//! |---|---|---|
//! | server | the instance's position; a new one, at the gateway's confirmed position | `retention` if that is below the floor |
//! | earliest | the floor | never |
//! | latest | the head. What lies between is settled as `filtered` | never |
//! | a position that was received, but perhaps not confirmed | the lower one of that and the stored position | `epoch` if the epoch differs, or the position is above the head; `retention` if it is below the floor |
//! | a position that was confirmed | the higher one of that and the stored position | `epoch` or `retention`, as in the row above |
//! | a position | that position. The gateway has confirmed everything up to it | `epoch` if the epoch or the event's id differs, or the position is above the head; `retention` if it is below the floor |
//!
//! If a [resync](super::Resync) of the instance is pending, the gap is `resync` in any case, and reaches
//! up to the head.

use async_trait::async_trait;

use super::{Actor, Conflict, NewConnection, Opened, Result, Resync};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, Epoch, EventId, GatewayId, GatewayKey, NodeId, OrganisationKey, Reason, Sequence,
    quoted,
};
use crate::names;

/// Instances that a gateway can have, at most. A hello with another name is refused.
pub const MAX_INSTANCES: i64 = 100;
/// The longest name of a new instance, in characters.
const MAX_NAME_CHARS: usize = 64;
/// Expired instances of a gateway that are listed, at most.
pub const LISTED_EXPIRED: i64 = 100;
/// The longest detail of a negative acknowledgement, in bytes. Longer ones are cut.
pub const MAX_NACK_DETAIL_BYTES: usize = 2048;

/// Operations on instances and on connections in reliable mode.
#[async_trait]
pub trait Instances: Send + Sync + 'static {
    /// The state of a gateway's log, which the first frame of reliable mode states. `NotFound` if the
    /// gateway is deleted or disabled.
    async fn peek_log(&self, gateway: GatewayKey) -> Result<LogState>;
    /// Opens a connection in reliable mode: checks the position, stores the instance's cursor, and
    /// marks older live connections of the same instance as replaced, in one transaction. `NotFound`
    /// if the gateway is deleted or disabled; `Conflict` if it has [`MAX_INSTANCES`] others, or a
    /// new instance has a name that [can be mistaken](Conflict::InstanceName). All before anything is
    /// written.
    async fn open_instance(&self, opening: OpenInstance) -> Result<OpenedInstance>;
    /// Live connections of this node that are to end, and why: a later connection of the same
    /// instance has replaced them, on any node, or a resync was requested.
    async fn connections_to_end(&self) -> Result<Vec<(ConnectionId, Reason)>>;
    /// The instances of a gateway by name, those that expired, and resync requests; `None` if it does not exist.
    async fn instances(
        &self,
        organisation: OrganisationKey,
        gateway: GatewayId,
    ) -> Result<Option<InstanceList>>;
    /// Removes an instance that is not connected, and its cursor. `NotFound` if there is no such
    /// gateway or instance; `Conflict` if the instance has a live connection.
    async fn forget_instance(&self, actor: &Actor, gateway: GatewayId, name: &str) -> Result<()>;
}

/// How far a gateway has confirmed a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The gateway handled the event: a pong echoed its sequence, or it acknowledged the event as
    /// received.
    Received,
    /// The gateway applied the event: it acknowledged it as applied, or sent a `deployment.ack`.
    Applied,
}

impl Level {
    /// Its name in the database and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Applied => "applied",
        }
    }

    /// The level with a name from the database. A name that only a newer version knows is read as
    /// `applied`, so that nothing counts as confirmed too early.
    pub fn stored(name: &str) -> Self {
        if name == Self::Received.as_str() { Self::Received } else { Self::Applied }
    }
}

/// Which instances of a gateway must have confirmed a delivery before it counts as delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confirmation {
    /// One of them.
    #[default]
    Any,
    /// All of them.
    All,
}

impl Confirmation {
    /// Its name in the database and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::All => "all",
        }
    }

    /// The setting with a name from the database. A name that only a newer version knows is read as
    /// `all`, so that nothing counts as delivered too early.
    pub fn stored(name: &str) -> Self {
        if name == Self::Any.as_str() { Self::Any } else { Self::All }
    }
}

/// The state of a gateway's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogState {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its last sequence.
    pub head: Sequence,
    /// Its last trimmed sequence: the oldest event that can be read follows it.
    pub floor: Sequence,
}

/// A connection to open in reliable mode.
#[derive(Clone, Debug)]
pub struct OpenInstance {
    /// The connection. Its `instance` is the name in the hello, or empty.
    pub connection: NewConnection,
    /// The level that it confirms by.
    pub confirm: Level,
    /// Where it wants to start.
    pub resume: ResumeFrom,
}

/// Where a connection wants to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResumeFrom {
    /// At the stored position.
    Server,
    /// After the log's head.
    Latest,
    /// At the oldest event that can be read.
    Earliest,
    /// After a position that the gateway has received, or at the stored one if that is lower. It
    /// confirms nothing.
    Received {
        /// The epoch of the log.
        epoch: Epoch,
        /// The last event that the gateway has received; zero for none.
        sequence: Sequence,
    },
    /// After a position up to which the gateway has confirmed everything, or at the stored one if that
    /// is higher: the gateway may have confirmed more since.
    Confirmed {
        /// The epoch of the log.
        epoch: Epoch,
        /// The last event that the gateway has confirmed; zero for none.
        sequence: Sequence,
    },
    /// After a position that the gateway has stored.
    After {
        /// The epoch of the log.
        epoch: Epoch,
        /// The last event that the gateway has handled; zero for none.
        sequence: Sequence,
        /// The id of that event, to check that it is the same. Not checked once retention has removed
        /// the event.
        event_id: Option<EventId>,
    },
}

/// An event that earlier connections of an instance could not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlierNacks {
    /// Its sequence.
    pub sequence: Sequence,
    /// How many times they could not.
    pub count: u32,
    /// One of the reasons that they stated, or for which they ended.
    pub reason: Reason,
    /// Whether it was rejected, or given up after too many attempts: it is not sent again, even to a
    /// connection that starts before it.
    pub is_given_up: bool,
}

/// Where a connection in reliable mode starts.
#[derive(Clone, Debug)]
pub struct OpenedInstance {
    /// What a connection of plain mode gets, too. If there is a gap, delivery starts after its
    /// [`resume_at`](Gap::resume_at), once it is covered, and `position` is that of the instance.
    pub opened: Opened,
    /// The log's last trimmed sequence.
    pub floor: Sequence,
    /// How far the instance has received events before. At or above `opened.position` if it starts
    /// again at an earlier one.
    pub received: Sequence,
    /// How far it has applied events before.
    pub applied: Sequence,
    /// Events after the position that the instance could not apply before: at most a thousand
    /// sequences are examined.
    pub nacked: Vec<EarlierNacks>,
    /// What can't be delivered.
    pub gap: Option<Gap>,
    /// Older live connections of the same instance, which must be closed. Those of other nodes find
    /// out by [`Instances::connections_to_end`].
    pub replaces: Vec<ReplacedConnection>,
}

/// A live connection that a later one of the same instance has replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplacedConnection {
    /// The connection.
    pub id: ConnectionId,
    /// The node that holds it.
    pub node: NodeId,
}

/// Sequences that can't be delivered to a gateway, which therefore needs a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Why they can't be delivered.
    pub reason: GapReason,
    /// The first of them. 1 if the gateway's position belongs to another log.
    pub from: Sequence,
    /// The last of them. The head of the gateway's log if its position belongs to another log. Below `from`
    /// if the range is empty.
    pub to: Sequence,
    /// Delivery continues after this sequence.
    pub resume_at: Sequence,
}

/// Why sequences can't be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Retention has removed them.
    Retention,
    /// The gateway's position belongs to another log: its epoch, its sequence or its event differ.
    Epoch,
    /// An admin has purged their payloads.
    Purged,
    /// An admin requested a resync: the gateway must read a snapshot.
    Resync,
}

impl GapReason {
    /// Its name in the ledger and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Epoch => "epoch",
            Self::Purged => "purged",
            Self::Resync => "resync",
        }
    }
}

/// The instances of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceList {
    /// By name.
    pub instances: Vec<InstanceInfo>,
    /// Those that expired, newest first: at most [`LISTED_EXPIRED`].
    pub expired: Vec<ExpiredInstance>,
    /// Resync requests, pending ones first, then newest first: at most [`LISTED_RESYNCS`](super::LISTED_RESYNCS).
    pub resyncs: Vec<Resync>,
}

/// An instance, as admins see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceInfo {
    /// Its name.
    pub name: String,
    /// The level that it confirms by.
    pub confirm: Level,
    /// How far it has received events.
    pub received: Sequence,
    /// How far it has applied events.
    pub applied: Sequence,
    /// Events in the log after its position.
    pub lag: i64,
    /// Its newest live connection.
    pub connection: Option<InstanceConnection>,
    /// Its last activity: of a live connection accurate to about ten seconds.
    pub last_seen_at: Timestamp,
}

/// A live connection of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceConnection {
    /// Its id.
    pub id: ConnectionId,
    /// The transport's name, for example `websocket.v1`.
    pub transport: String,
    /// The node that holds it.
    pub node: NodeId,
    /// When it was opened.
    pub connected_at: Timestamp,
}

/// An instance that was removed because it had not connected for too long, or by an admin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiredInstance {
    /// Its name.
    pub name: String,
    /// The level that it confirmed by.
    pub confirm: Level,
    /// How far it had received events.
    pub received: Sequence,
    /// How far it had applied events.
    pub applied: Sequence,
    /// Its last activity.
    pub last_seen_at: Timestamp,
    /// When it was removed.
    pub expired_at: Timestamp,
}

impl InstanceInfo {
    /// Its position: how far it has confirmed, by its level.
    pub const fn position(&self) -> Sequence {
        match self.confirm {
            Level::Received => self.received,
            Level::Applied => self.applied,
        }
    }
}

/// Checks the name of an instance that does not exist yet.
pub fn check_new_name(name: &str) -> std::result::Result<(), Conflict> {
    if names::is_name(name, MAX_NAME_CHARS) {
        return Ok(());
    }
    Err(Conflict::InstanceName { most: MAX_NAME_CHARS, shown: quoted(name) })
}

/// What a connection in reliable mode may be opened with, checked against the log. A stored position
/// (`own`) below the floor is a gap of retention, too.
pub fn start(log: LogState, resume: &ResumeFrom, own: Sequence, is_same: bool) -> Start {
    let LogState { head, floor, epoch } = log;
    match resume {
        ResumeFrom::Earliest => Start::At(floor),
        ResumeFrom::Latest => Start::At(head),
        ResumeFrom::Server => at(own, floor),
        ResumeFrom::Received { epoch: theirs, sequence } => {
            if *theirs != epoch || *sequence > head {
                return of_another_log(head);
            }
            at(own.min(*sequence), floor)
        }
        ResumeFrom::Confirmed { epoch: theirs, sequence } => {
            if *theirs != epoch || *sequence > head {
                return of_another_log(head);
            }
            at(own.max(*sequence), floor)
        }
        ResumeFrom::After { epoch: theirs, sequence, .. } => {
            if *theirs != epoch || *sequence > head || !is_same {
                return of_another_log(head);
            }
            at(*sequence, floor)
        }
    }
}

/// The gap for a position that belongs to another log.
fn of_another_log(head: Sequence) -> Start {
    let (reason, from) = (GapReason::Epoch, Sequence(1));
    Start::Gap(Gap { reason, from, to: head, resume_at: head })
}

fn at(position: Sequence, floor: Sequence) -> Start {
    if position.0 >= floor.0 {
        return Start::At(position);
    }
    let (reason, from) = (GapReason::Retention, position.next());
    Start::Gap(Gap { reason, from, to: floor, resume_at: floor })
}

/// Whether an instance is not sent a dead letter: it was given up because too many connections ended,
/// whichever instances they belonged to, or this instance has rejected it. Unnamed connections can't be told apart, so what one has rejected
/// may be new to another.
pub fn is_over_for(instance: &str, reason: Reason, rejected_by: Option<&str>) -> bool {
    reason.ends_connections() || !instance.is_empty() && rejected_by == Some(instance)
}

/// Where a connection starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// After this sequence.
    At(Sequence),
    /// After a snapshot.
    Gap(Gap),
}

#[cfg(test)]
mod tests;
