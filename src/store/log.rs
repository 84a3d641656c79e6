//! What is appended and streamed, and the outcomes that come back.

use super::{DeploymentKey, DeploymentMatch, LogPage, LogSpan, Result};
use async_trait::async_trait;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Labels, Refusal, ValidationError};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, Epoch, Event, EventId, GatewayId, GatewayKey, OrganisationKey, Reason, Sequence,
};

/// Operations on logs.
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
    /// A part of a gateway's log with the states of its deliveries; `None` if the gateway does
    /// not exist.
    async fn gateway_log(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        span: LogSpan,
    ) -> Result<Option<LogPage>>;
}

/// Whom an event is for.
#[derive(Clone, Debug)]
pub enum Target {
    /// Exactly these.
    Gateways(Vec<GatewayId>),
    /// Every gateway of the organisation.
    All,
    /// Every gateway that has all of these labels.
    Labels(Labels),
}

/// An event to be appended.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// What will be sent.
    pub event: Arc<Event>,
    /// Whether its publisher gave it its id. One of our own is new for certain.
    pub is_named: bool,
    /// To whom.
    pub target: Target,
    /// SHA-256 of its content: the same id with another digest is a clash.
    pub digest: [u8; 32],
    /// The payload's artifact (`apiId`, `providerId`, `proxyId`), for matching a deployment.ack.
    pub artifact_id: Option<String>,
    /// The payload's `deploymentId`, likewise.
    pub deployment_id: Option<String>,
}

/// One request to publish.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The publisher's organisation.
    pub organisation: OrganisationKey,
    /// Its items, in order: events to be appended, and those that are invalid
    /// now. All are here, so that the kept answer of a key covers them all.
    pub events: Vec<Validated>,
    /// The `Idempotency-Key` and the SHA-256 of the whole body.
    pub idempotency: Option<(String, [u8; 32])>,
}

impl Publish {
    /// The events to be appended.
    pub fn valid(&self) -> impl Iterator<Item = &NewEvent> {
        self.events.iter().flatten()
    }
}

/// One item of a request to publish, after validation.
pub type Validated = std::result::Result<NewEvent, InvalidEvent>;

/// An item that can't be appended. It may be invalid only now (it has expired, its
/// type has got a schema): a repeat of what was accepted before gets the first
/// answer all the same.
#[derive(Clone, Debug)]
pub struct InvalidEvent {
    /// Its id and the digest of its content, if it has an id and could be read: they
    /// identify a repeat.
    pub identity: Option<(EventId, [u8; 32])>,
    /// The answer, unless it is a repeat.
    pub error: ValidationError,
}

/// What was appended for one event.
///
/// serde is for the answer that is kept under an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// The event's id.
    pub id: EventId,
    /// Its number in each gateway's log.
    pub deliveries: Vec<AppendedDelivery>,
}

/// One gateway's number for an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppendedDelivery {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The number.
    pub sequence: Sequence,
}

/// The answer to a [`Publish`], event by event.
#[derive(Clone, Debug)]
pub enum Published {
    /// Done now, or (a repeated key) done before: the first answer, item by
    /// item. It is kept if anything was appended.
    Done(Vec<std::result::Result<Appended, Refusal>>),
    /// The `Idempotency-Key` was used with another body.
    KeyReused,
    /// Its events come to more deliveries than one transaction may write;
    /// nothing of it was stored.
    TooMany {
        /// How many.
        deliveries: usize,
        /// How many there may be.
        most: usize,
    },
}

/// A row of a gateway's log.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// Its number.
    pub sequence: Sequence,
    /// Its event, shared by all who send it.
    pub event: Arc<Event>,
}

/// A page of a gateway's log.
#[derive(Clone, Debug)]
pub struct OutboxPage {
    /// Consecutive rows, the first at `after + 1`, unless that was trimmed.
    pub rows: Vec<OutboxRow>,
    /// The log's last number at that moment.
    pub head: Sequence,
    /// The log's last trimmed number: at or above `after` means that some are gone for good.
    pub floor: Sequence,
}

/// A socket that is about to be opened.
#[derive(Clone, Debug)]
pub struct NewConnection {
    /// Its identity.
    pub id: ConnectionId,
    /// The gateway.
    pub gateway: GatewayKey,
    /// The public part of the token used.
    pub token: String,
    /// The replica's name; empty for unnamed connections.
    pub instance: String,
    /// `websocket`, …
    pub transport: &'static str,
    /// The peer's address, for admins.
    pub remote_address: String,
}

impl NewConnection {
    /// Its end, when it may be on record as live although nobody will use it.
    /// Nothing happens to a connection that was never opened.
    pub fn unused(&self, at: Timestamp) -> Record {
        Record::Closed {
            gateway: self.gateway,
            connection: self.id,
            reason: Reason::ConnectionLost,
            detail: String::new(),
            unconfirmed: None,
            give_up_after: None,
            alive_at: None,
            at,
        }
    }
}

/// Where an opened connection starts.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The log's identity.
    pub epoch: Epoch,
    /// Everything up to here is confirmed for this connection: it is sent what follows.
    pub position: Sequence,
    /// The log's last number.
    pub head: Sequence,
    /// The last number that an earlier connection was sent behind `position`,
    /// as far as its end is on record.
    pub sent: Sequence,
    /// An event up to here may have made an earlier connection fail: each of them
    /// is confirmed by itself.
    pub suspect: Sequence,
    /// An earlier connection may have been sent more than is on record, because it
    /// is open on record or was lost with its node.
    pub is_unsure: bool,
}

/// How sure we are of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The gateway handled it (a pong echoed its number).
    Received,
    /// The gateway applied it (a `deployment.ack`).
    Applied,
}

/// A contiguous run of a gateway's sequences, `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: Sequence,
    /// The last, included.
    pub last: Sequence,
}

/// An outcome to be put on record. Records of one connection are kept in order;
/// neighbouring ones with the same outcome are merged.
#[derive(Clone, Debug)]
pub enum Record {
    /// Confirmed, cumulatively: raises the connection's position and the
    /// gateway's, and writes an attempt.
    Confirmed {
        /// The gateway.
        gateway: GatewayKey,
        /// On this connection.
        connection: ConnectionId,
        /// The replica's name that it was opened with, or `""`.
        instance: Arc<str>,
        /// These.
        range: Range,
        /// When the first was written to the socket.
        started_at: Timestamp,
        /// When the receipt came.
        finished_at: Timestamp,
    },
    /// A single delivery was reported as applied or as failed (a `deployment.ack`).
    /// A failed one becomes a dead letter, one that was applied is none any more, and
    /// what was applied does not fail afterwards. Gateways handle one event after
    /// another, so a report confirms what was sent before its event, too.
    Reported {
        /// The gateway.
        gateway: GatewayKey,
        /// On this connection.
        connection: ConnectionId,
        /// The replica's name that it was opened with, or `""`.
        instance: Arc<str>,
        /// This one.
        sequence: Sequence,
        /// `Ok`: applied.
        result: std::result::Result<(), (Reason, String)>,
        /// Everything up to here is confirmed by the report.
        confirms: Option<Sequence>,
        /// When.
        at: Timestamp,
    },
    /// Passed over for good (expired, or lost to retention): a failed attempt
    /// and a dead letter. The position passes it with the next receipt, or by
    /// `advance_to` at once when nothing is unconfirmed before it.
    Skipped {
        /// The gateway.
        gateway: GatewayKey,
        /// On this connection.
        connection: ConnectionId,
        /// The replica's name that it was opened with, or `""`.
        instance: Arc<str>,
        /// These.
        range: Range,
        /// Why.
        reason: Reason,
        /// Where the connection's position is to be raised to.
        advance_to: Option<Sequence>,
        /// When.
        at: Timestamp,
    },
    /// A sign of life.
    Heartbeat {
        /// Of this connection.
        connection: ConnectionId,
        /// When.
        at: Timestamp,
    },
    /// The connection ended. Its position is left behind.
    Closed {
        /// The gateway.
        gateway: GatewayKey,
        /// This connection.
        connection: ConnectionId,
        /// Why.
        reason: Reason,
        /// What more is known, for people.
        detail: String,
        /// Sent and not confirmed, and when the first of them was written. Above the
        /// gateway's confirmed position it is a failed attempt; at or below, where
        /// another connection has confirmed it, an attempt with unknown outcome.
        unconfirmed: Option<(Range, Timestamp)>,
        /// After so many attempts that blame it, on whichever connections, the event
        /// at `unconfirmed.first` is given up: it becomes a dead letter, and the
        /// position passes it.
        give_up_after: Option<u32>,
        /// The last sign of life that is not on record yet.
        alive_at: Option<Timestamp>,
        /// When.
        at: Timestamp,
    },
}

/// A connection that a dead node left open, and that is closed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Its gateway.
    pub gateway_id: GatewayId,
    /// Its identity.
    pub connection_id: ConnectionId,
}

/// What a live connection of this node must be closed for: another node was
/// told to shut it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShutOut {
    /// Whose.
    pub gateway: GatewayKey,
    /// The public part of the token that it was opened with.
    pub token: String,
    /// Why: the token was revoked, or the gateway disabled or deleted.
    pub reason: Reason,
}

/// A page of connections, newest first.
#[derive(Clone, Debug)]
pub struct ConnectionPage {
    /// Its rows.
    pub rows: Vec<ConnectionInfo>,
    /// Where the next page begins; `None` after the last. A page may be short,
    /// even empty, and still have a next one: the work per call is bounded.
    pub next: Option<ConnectionCursor>,
}

/// The last connection that a page came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionCursor {
    /// When it was opened, …
    pub connected_at: i64,
    /// … and which it is, among those opened at the same instant.
    pub id: ConnectionId,
}

/// A live or past connection, as admins see it.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Its identity.
    pub connection_id: ConnectionId,
    /// Its gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// `websocket`, …
    pub transport: String,
    /// The node that holds it.
    pub node: String,
    /// The peer.
    pub remote_address: String,
    /// Since when.
    pub connected_at: Timestamp,
    /// Last sign of life, to within some ten seconds.
    pub last_heartbeat: Timestamp,
    /// `connected` or `closed`.
    pub status: &'static str,
    /// Confirmed up to here.
    pub confirmed: Sequence,
    /// When it ended.
    pub closed_at: Option<Timestamp>,
    /// Why it ended.
    pub close_reason: Option<Reason>,
}
