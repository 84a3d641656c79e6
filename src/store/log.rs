//! Logs: events appended and streamed, connections, and outcomes to record.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::positions::Repeats;
use super::supersession::{Collapse, Supersession};
use super::{
    DeploymentKey, DeploymentMatch, EventCursor, EventFilter, EventPage, GapReason, HighWater,
    Labels, Level, LogPage, LogSpan, Refusal, Result, ValidationError,
};
use crate::clock::{TimeWindow, Timestamp};
use crate::event::{
    ConnectionId, Epoch, Event, EventId, GatewayId, GatewayKey, OrganisationKey, Reason, Sequence,
};
use crate::wake::Control;

/// Operations on the logs of gateways.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Appends events, in one group commit with other requests that are waiting.
    async fn append(&self, publish: Publish) -> Result<Published>;
    /// Reads a page of a gateway's log: at least one row if there is any, then up to `limit` rows
    /// and about `max_bytes` of payload.
    async fn read(
        &self,
        gateway: GatewayKey,
        after: Sequence,
        limit: usize,
        max_bytes: usize,
    ) -> Result<OutboxPage>;
    /// The event that a `deployment.ack` answers.
    async fn find_deployment(
        &self,
        gateway: GatewayKey,
        key: &DeploymentKey,
    ) -> Result<Option<DeploymentMatch>>;
    /// A page of the events that match, in the filter's [order](EventFilter::order).
    async fn events(
        &self,
        organisation: OrganisationKey,
        filter: &EventFilter,
        cursor: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage>;
    /// Part of a gateway's log with the states of its deliveries; `None` if the gateway does not
    /// exist.
    async fn gateway_log(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        span: LogSpan,
    ) -> Result<Option<LogPage>>;
    /// Examines the next page of a connection's backlog, and withholds what newer events supersede.
    /// Does nothing if the connection is not open or not the gateway's only one.
    async fn supersede(&self, backlog: Supersession) -> Result<Supersession>;
    /// Counts the next published events, up to a key before which none can be added any more; returns
    /// whether there may be more.
    async fn count_published(&self, settled: i64) -> Result<bool>;
    /// Published events in a window per bucket of time, a number of minutes. Empty buckets are
    /// omitted. Buckets are aligned to the Unix epoch.
    async fn published_summary(
        &self,
        organisation: OrganisationKey,
        window: TimeWindow,
        bucket: Duration,
    ) -> Result<Vec<PublishedCount>>;
    /// How far all logs have come.
    async fn high_water(&self) -> Result<HighWater>;
}

/// The gateways that an event is for.
#[derive(Clone, Debug)]
pub enum Target {
    /// Exactly these gateways.
    Gateways(Vec<GatewayId>),
    /// Every gateway of the organisation.
    All,
    /// Every gateway that has all of these labels.
    Labels(Labels),
}

/// A validated event that is to be appended.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The event as it will be sent.
    pub event: Arc<Event>,
    /// Whether the publisher chose its id. An id that the service generated is unique, and need not
    /// be looked up.
    pub is_named: bool,
    /// The gateways that it is for.
    pub target: Target,
    /// SHA-256 of its content. The same id with another digest is a conflict.
    pub digest: [u8; 32],
    /// How it takes part in supersession; `None` if it does not.
    pub collapse: Option<Collapse>,
    /// The payload's artifact (`apiId`, `providerId` or `proxyId`), to match a `deployment.ack`
    /// with.
    pub artifact_id: Option<String>,
    /// The payload's `deploymentId`, to match a `deployment.ack` with.
    pub deployment_id: Option<String>,
}

/// The events of one request to publish, which are committed together.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The publisher's organisation.
    pub organisation: OrganisationKey,
    /// Its items, in order. Includes invalid items, so that the response stored under an idempotency
    /// key covers every item.
    pub events: Vec<Validated>,
    /// The `Idempotency-Key` of the request, if it has one.
    pub idempotency: Option<Idempotency>,
}

/// An `Idempotency-Key`, and the body that it was sent with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The key.
    pub key: String,
    /// The SHA-256 of the whole body.
    pub digest: [u8; 32],
}

impl Publish {
    /// The items that passed validation, in order.
    pub fn valid(&self) -> impl Iterator<Item = &NewEvent> {
        self.events.iter().flatten()
    }
}

/// One item of a request to publish, after validation.
pub type Validated = std::result::Result<NewEvent, InvalidEvent>;

/// An item that can't be appended. It may have become invalid since it was first published (it has
/// expired, or its type has a new schema). A repeat of an accepted item therefore gets the first
/// result.
#[derive(Clone, Debug)]
pub struct InvalidEvent {
    /// Its id and the digest of its content, if it has an id and could be read. They identify a
    /// repeat.
    pub identity: Option<(EventId, [u8; 32])>,
    /// The error in the response, unless it is a repeat.
    pub error: ValidationError,
}

/// The result of appending one event.
///
/// Serialized as part of the response that is stored under an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// The event's id.
    pub id: EventId,
    /// Its sequence in each gateway's log.
    pub deliveries: Vec<AppendedDelivery>,
}

/// A gateway's sequence for an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppendedDelivery {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The event's sequence in the gateway's log.
    pub sequence: Sequence,
}

/// The result of an operation that the log may refuse, as opposed to one that failed.
pub type Refusable<T> = std::result::Result<T, Refusal>;

/// The result of a [`Publish`].
#[derive(Clone, Debug)]
pub enum Published {
    /// The results, item by item. For a repeated key, those of the first request. They are stored
    /// if anything was appended.
    Done(Vec<Refusable<Appended>>),
    /// The `Idempotency-Key` was used with a different body.
    KeyReused,
    /// The request results in more deliveries than one transaction may write. Nothing was stored.
    TooMany {
        /// The number of deliveries.
        deliveries: usize,
        /// The largest number allowed.
        most: usize,
    },
}

/// A row of a gateway's log.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// Its sequence.
    pub sequence: Sequence,
    /// Its event, shared by all lanes that send it.
    pub event: Arc<Event>,
    /// Why it must not be sent: an admin has skipped it, or purged its event's payload, or a newer
    /// event has superseded it.
    pub withheld: Option<Reason>,
}

/// A page of a gateway's log.
#[derive(Clone, Debug)]
pub struct OutboxPage {
    /// Consecutive rows, starting at `after + 1` unless that was trimmed.
    pub rows: Vec<OutboxRow>,
    /// The log's last sequence in the same snapshot.
    pub head: Sequence,
    /// The log's last trimmed sequence. If it is above `after`, some events were removed.
    pub floor: Sequence,
    /// The sequence after `after` if its event is missing or can't be read; then there are no rows.
    pub unreadable: Option<Sequence>,
}

/// A gateway's connection that is to be recorded.
#[derive(Clone, Debug)]
pub struct NewConnection {
    /// Its id.
    pub id: ConnectionId,
    /// The gateway.
    pub gateway: GatewayKey,
    /// The public part of the token that it authenticated with.
    pub token: String,
    /// The name of a [named replica](super::positions#definitions); empty for unnamed connections.
    pub instance: String,
    /// The transport's name, for example `websocket`.
    pub transport: &'static str,
    /// The peer's address, for admins.
    pub remote_address: String,
}

impl NewConnection {
    /// The record that closes a connection that may be recorded as live although it will never be
    /// used. Has no effect if the connection was never opened.
    pub fn unused(&self, at: Timestamp) -> Record {
        Record::Closed {
            gateway: self.gateway,
            connection: self.id,
            reason: Reason::ConnectionLost,
            detail: String::new(),
            unconfirmed: Vec::new(),
            is_in_progress: false,
            give_up_after: None,
            alive_at: None,
            at,
        }
    }
}

/// Consecutive events that were sent on a connection and not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unconfirmed {
    /// The sequences of the events.
    pub range: Range,
    /// When the first of them was sent.
    pub started_at: Timestamp,
}

/// Where an opened connection starts.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The log's epoch.
    pub epoch: Epoch,
    /// The connection's confirmed position. It is sent what follows.
    pub position: Sequence,
    /// The log's last sequence.
    pub head: Sequence,
    /// The last sequence after `position` that an earlier connection was sent, as far as recorded.
    pub sent: Sequence,
    /// An event up to here may have made an earlier connection fail. Each of them is confirmed on
    /// its own.
    pub suspect: Sequence,
    /// Whether an earlier connection may have been sent more than is recorded, because it is
    /// recorded as open or was lost with its node.
    pub is_unsure: bool,
    /// Confirmed events after `position`.
    pub repeats: Repeats,
    /// Whether the log has events with a collapse key that no connection can have been sent.
    pub is_collapsible: bool,
    /// How the log is delivered.
    pub control: Control,
}

/// A contiguous run of a gateway's sequences, `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first sequence.
    pub first: Sequence,
    /// The last sequence, inclusive.
    pub last: Sequence,
}

/// Why a gateway could not apply an event, as it reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedFailure {
    /// The reason.
    pub reason: Reason,
    /// Details for admins.
    pub detail: String,
}

impl ReportedFailure {
    /// A failure with details, which may be empty.
    pub const fn new(reason: Reason, detail: String) -> Self {
        Self { reason, detail }
    }
}

/// An outcome to record. Records of one connection are kept in order; adjacent ones with the same
/// outcome are merged.
#[derive(Clone, Debug)]
pub enum Record {
    /// Confirmed, cumulatively. Raises the connection's position and the gateway's, and writes an
    /// attempt. Deliveries that another connection or node gave up meanwhile stop being dead letters;
    /// a reported failure stays one.
    Confirmed {
        /// The gateway.
        gateway: GatewayKey,
        /// The connection that confirmed it.
        connection: ConnectionId,
        /// The instance name that the connection was opened with, or `""`.
        instance: Arc<str>,
        /// The confirmed sequences.
        range: Range,
        /// When the first of them was sent.
        started_at: Timestamp,
        /// When the receipt arrived.
        finished_at: Timestamp,
    },
    /// A single delivery was reported as applied or as failed (a `deployment.ack`). A failed one
    /// becomes a dead letter. An applied one stops being a dead letter and does not fail
    /// afterwards. A gateway handles one event after another, so a report also confirms what was
    /// sent before its event.
    Reported {
        /// The gateway.
        gateway: GatewayKey,
        /// The connection on which the report arrived.
        connection: ConnectionId,
        /// The instance name that the connection was opened with, or `""`.
        instance: Arc<str>,
        /// The sequence that the report is about.
        sequence: Sequence,
        /// `Ok` if it was applied; otherwise why not, with details.
        result: std::result::Result<(), ReportedFailure>,
        /// The report confirms everything up to here.
        confirms: Option<Sequence>,
        /// When the report arrived.
        at: Timestamp,
    },
    /// A report confirmed events that were only sent on another connection. Raises the gateway's
    /// position but no connection's, because this one was not sent all of them.
    ConfirmedElsewhere {
        /// The gateway.
        gateway: GatewayKey,
        /// The report confirms everything up to here.
        to: Sequence,
        /// When the report arrived.
        at: Timestamp,
    },
    /// A report that was not matched before its connection ended, because the database was
    /// unavailable. The transaction that records it looks up its event, and then does the same as
    /// for `Reported`. A report that matches no event is dropped.
    Unmatched {
        /// The gateway.
        gateway: GatewayKey,
        /// The connection that it arrived on.
        connection: ConnectionId,
        /// The name of the replica that opened the connection, or `""`.
        instance: Arc<str>,
        /// The ids and the instant in the report.
        key: DeploymentKey,
        /// `Ok` if it was applied.
        result: std::result::Result<(), ReportedFailure>,
        /// The last sequence sent on this connection.
        sent_here: Sequence,
        /// When the connection ended.
        at: Timestamp,
    },
    /// Skipped permanently (expired, removed by retention, skipped or purged by an admin): a failed attempt and a dead letter.
    /// The position passes it with the next receipt, or at once by `advance_to` if nothing before
    /// it is unconfirmed.
    Skipped {
        /// The gateway.
        gateway: GatewayKey,
        /// The connection that skipped it.
        connection: ConnectionId,
        /// The instance name that the connection was opened with, or `""`.
        instance: Arc<str>,
        /// The skipped sequences.
        range: Range,
        /// Why they were skipped.
        reason: Reason,
        /// The new position of the connection, if it can move at once.
        advance_to: Option<Sequence>,
        /// When they were skipped.
        at: Timestamp,
    },
    /// An outcome on a connection in reliable mode.
    Instance {
        /// The gateway.
        gateway: GatewayKey,
        /// The connection.
        connection: ConnectionId,
        /// The instance name that the connection was opened with, or `""`.
        instance: Arc<str>,
        /// The outcome.
        outcome: InstanceOutcome,
        /// When it was known.
        at: Timestamp,
    },
    /// A connection showed activity.
    Heartbeat {
        /// The connection.
        connection: ConnectionId,
        /// When it last did.
        at: Timestamp,
    },
    /// A connection ended. Its position is kept for its replica.
    Closed {
        /// The gateway.
        gateway: GatewayKey,
        /// The connection.
        connection: ConnectionId,
        /// Why it ended.
        reason: Reason,
        /// Details for people.
        detail: String,
        /// What was sent and not confirmed, in order. Above the gateway's confirmed position it
        /// becomes a failed attempt. At or below it, where another connection has confirmed it, the
        /// attempt's outcome is unknown.
        unconfirmed: Vec<Unconfirmed>,
        /// Whether the gateway has reported progress on the first of these on this connection: it was
        /// still handling that event, so the outcome is unknown, and no attempt blames the event.
        is_in_progress: bool,
        /// The first of these events is given up after this many attempts that blame it, on
        /// any connections: it becomes a dead letter, and the position passes it.
        give_up_after: Option<u32>,
        /// The last activity that is not recorded yet.
        alive_at: Option<Timestamp>,
        /// When it ended.
        at: Timestamp,
    },
}

/// An outcome on a connection in reliable mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceOutcome {
    /// Acknowledged at a level, cumulatively: an attempt with this outcome, and the instance's cursor
    /// rises. If the connection confirms by this level, its position and the gateway's rise, too, and
    /// deliveries that were given up meanwhile, or rejected by another instance, stop being dead
    /// letters (the latter unless all instances must confirm). What another level confirms by writes
    /// no attempt if it is `received`.
    Acknowledged {
        /// The level.
        level: Level,
        /// Whether the connection confirms by this level.
        confirms: bool,
        /// The acknowledged sequences: from the last one acknowledged at this level to the newest.
        /// Without those that this connection rejected.
        range: Range,
        /// When the first of them was sent.
        started_at: Timestamp,
    },
    /// The gateway could not apply an event and is sent it again: a failed attempt. If another
    /// instance has confirmed it, the attempt's outcome is unknown.
    Retried {
        /// Its sequence.
        sequence: Sequence,
        /// The code of the negative acknowledgement.
        code: Reason,
        /// Details for admins. Cut to [`MAX_NACK_DETAIL_BYTES`](super::MAX_NACK_DETAIL_BYTES) bytes.
        detail: String,
        /// When it was sent.
        started_at: Timestamp,
    },
    /// The gateway rejected an event permanently: a failed attempt and a dead letter. If another instance
    /// has confirmed it, it stays delivered and the attempt's outcome is unknown.
    Rejected {
        /// Its sequence.
        sequence: Sequence,
        /// The code of the negative acknowledgement.
        code: Reason,
        /// Details for admins. Cut to [`MAX_NACK_DETAIL_BYTES`](super::MAX_NACK_DETAIL_BYTES) bytes.
        detail: String,
        /// When it was sent.
        started_at: Timestamp,
        /// The new position of the connection, if nothing before the event is unconfirmed. Otherwise
        /// it passes the event with the next acknowledgement.
        advance_to: Option<Sequence>,
    },
    /// Not sent, because their types are not among those that the connection wants: attempts with
    /// the outcome `filtered`, unless the gateway has confirmed them. They don't fail.
    Filtered {
        /// The sequences.
        range: Range,
        /// The new position of the connection, if nothing before them is unconfirmed.
        advance_to: Option<Sequence>,
    },
    /// The gateway has read a snapshot instead of events that could not be delivered. What was
    /// pending up to there becomes settled: attempts with the outcome `snapshot`. The connection's
    /// position rises.
    Covered {
        /// Why they could not be delivered.
        reason: GapReason,
        /// Delivery continues after this sequence.
        resume_at: Sequence,
    },
}

/// A connection that a dead node left open, and that is now closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Its gateway.
    pub gateway_id: GatewayId,
    /// The connection.
    pub connection_id: ConnectionId,
}

/// A live connection of this node that must be closed because another node revoked its access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedConnection {
    /// Its gateway.
    pub gateway: GatewayKey,
    /// The public part of the token that it authenticated with.
    pub token: String,
    /// Why: the token was revoked, or the gateway was disabled or deleted.
    pub reason: Reason,
}

/// A page of connections, newest first.
#[derive(Clone, Debug)]
pub struct ConnectionPage {
    /// The connections.
    pub rows: Vec<ConnectionInfo>,
    /// Where the next page begins; `None` after the last. The work per call is bounded, so a page
    /// that is short or even empty may have a next one.
    pub next: Option<ConnectionCursor>,
}

/// The last connection that a page examined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionCursor {
    /// When it was opened, in microseconds.
    pub connected_at: i64,
    /// Its id, which orders connections opened at the same instant.
    pub id: ConnectionId,
}

/// A live or past connection, as admins see it.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Its id.
    pub connection_id: ConnectionId,
    /// Its gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The transport's name, for example `websocket`.
    pub transport: String,
    /// The node that holds it.
    pub node: String,
    /// The peer's address.
    pub remote_address: String,
    /// When it was opened.
    pub connected_at: Timestamp,
    /// Its last activity, accurate to about ten seconds.
    pub last_heartbeat: Timestamp,
    /// `connected` or `closed`.
    pub status: &'static str,
    /// Its confirmed position.
    pub confirmed: Sequence,
    /// When it was closed; `None` while it is live.
    pub closed_at: Option<Timestamp>,
    /// Why it was closed.
    pub close_reason: Option<Reason>,
}

/// Events published in a bucket of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedCount {
    /// The bucket's start.
    pub from: Timestamp,
    /// Their number.
    pub count: i64,
}
