//! What happens, as the feed shows it: events published, attempts to deliver them, connections
//! opened and closed. Read from three tables whose rows are only appended, each from a mark on.
//!
//! # Visibility
//!
//! Keys are assigned when a row is inserted, and rows become visible when their transactions
//! commit. On Postgres a row may become visible after one with a higher key, so a position in the
//! feed is not a number: it also lists the lower keys that were not visible yet. These are read
//! again, until they appear or can't belong to a running transaction any more.

use std::ops::RangeInclusive;

use async_trait::async_trait;

use super::{Outcome, Result};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, Epoch, EventId, EventType, GatewayId, NodeId, OrganisationKey,
    Reason, Sequence,
};

/// Reads of the feed, across all organisations.
#[async_trait]
pub trait Feed: Send + Sync + 'static {
    /// The last visible key of each table, and the epoch.
    async fn feed_ends(&self) -> Result<FeedEnds>;
    /// The rows with keys in these spans, by ascending key, at most `limit` of each span. The
    /// tables may be read in different snapshots.
    async fn feed_rows(&self, spans: &FeedSpans, details: &FeedDetails) -> Result<FeedRows>;
    /// Whether a row may become visible after one with a higher key.
    fn feed_has_gaps(&self) -> bool;
}

/// The last visible key of each table; 0 if it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedEnds {
    /// The epoch of the first log. A restored database has another one, and assigns keys again that
    /// were assigned after the backup. `None` if there are no logs.
    pub epoch: Option<Epoch>,
    /// The key of the last event.
    pub events: i64,
    /// The key of the last attempt.
    pub attempts: i64,
    /// The key of the last opened or closed connection.
    pub connections: i64,
}

/// The ranges of keys to read from each table.
#[derive(Clone, Debug, Default)]
pub struct FeedSpans {
    /// The ranges of events, ascending.
    pub events: Vec<RangeInclusive<i64>>,
    /// The ranges of attempts, ascending.
    pub attempts: Vec<RangeInclusive<i64>>,
    /// The ranges of opened and closed connections, ascending.
    pub connections: Vec<RangeInclusive<i64>>,
    /// The maximum number of rows of each span.
    pub limit: usize,
}

/// What filters need to know of rows, and costs lookups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedDetails {
    /// Which of these gateways each event is for.
    pub gateways: Vec<GatewayId>,
    /// The event types that each attempt covers.
    pub types: bool,
}

/// The rows that were read for the feed.
#[derive(Clone, Debug, Default)]
pub struct FeedRows {
    /// Events.
    pub events: Vec<FeedEvent>,
    /// Attempts.
    pub attempts: Vec<FeedAttempt>,
    /// Connections that were opened and closed.
    pub connections: Vec<FeedConnection>,
}

/// A published event, without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEvent {
    /// Its key.
    pub key: i64,
    /// Its organisation.
    pub organisation: OrganisationKey,
    /// When it was appended.
    pub at: Timestamp,
    /// Its id.
    pub id: EventId,
    /// Its type.
    pub event_type: EventType,
    /// The key by which gateways recognise repeats.
    pub correlation_id: CorrelationId,
    /// The user on whose behalf it was published.
    pub user_id: Option<String>,
    /// How many gateways its target selected; `None` for an event of an earlier version.
    pub matched: Option<i64>,
    /// Those of the gateways in [`FeedDetails`] that it is for.
    pub gateways: Vec<GatewayId>,
}

/// An attempt, with its outcome: a contiguous run of sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedAttempt {
    /// Its key.
    pub key: i64,
    /// The organisation of its gateway.
    pub organisation: OrganisationKey,
    /// When its outcome was known.
    pub at: Timestamp,
    /// When it was begun.
    pub started_at: Timestamp,
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// Its first sequence.
    pub first: Sequence,
    /// Its last sequence, inclusive.
    pub last: Sequence,
    /// The outcome.
    pub outcome: Outcome,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// What the gateway reported.
    pub detail: Option<String>,
    /// The connection.
    pub connection: Option<ConnectionId>,
    /// The event, if the attempt covers one sequence and the event is kept.
    pub event_id: Option<EventId>,
    /// The event types: of one sequence always, of several if [`FeedDetails`] asks for them.
    pub types: Vec<EventType>,
}

/// A connection that was opened or closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedConnection {
    /// The key of the change.
    pub key: i64,
    /// The organisation of its gateway.
    pub organisation: OrganisationKey,
    /// When it was opened or closed.
    pub at: Timestamp,
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The connection.
    pub connection: ConnectionId,
    /// Whether it was closed.
    pub closed: bool,
    /// Its transport, as long as its record is kept; so with the others.
    pub transport: Option<String>,
    /// The peer's address.
    pub remote_address: Option<String>,
    /// The node.
    pub node: Option<NodeId>,
    /// Why it was closed.
    pub reason: Option<Reason>,
}
