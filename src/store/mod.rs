//! The log, the ledger and everything else that outlives the process. The only
//! room that knows sqlx. A verb of [`Store`] is one transaction: when it
//! returns `Ok`, what it says has been synced to disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, Epoch, Event, EventId, EventType, GatewayId, GatewayKey, NodeId,
    OrganisationKey, Reason, Sequence,
};

pub mod sqlite;

/// What a store answers when it can't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, locked for too long, or its queue is full: try again later.
    #[error("the database can't take this now: {0}")]
    Unavailable(String),
    /// The commit failed: whether it happened is unknown; a retry with the same keys is safe.
    #[error(
        "the commit's outcome is unknown ({0}); retry with the same event id or Idempotency-Key"
    )]
    Unknown(String),
    /// Free space fell below the watermark: nothing more is published, receipts still work.
    #[error("the disk is nearly full; publishing is refused until space is freed")]
    StorageFull,
    /// A name is taken, or a limit (two live tokens) is reached.
    #[error("{0}")]
    Conflict(String),
    /// What was named does not exist in this organisation.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// The database holds something that this version can't read.
    #[error("the database is damaged or of another version: {0}")]
    Corrupt(String),
}

/// A store's answer.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

// ---- organisations, gateways, tokens ---------------------------------------

/// Free-form names that gateways are chosen by.
pub type Labels = BTreeMap<String, String>;

/// A registered gateway with what its stream says.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Inside key.
    pub key: GatewayKey,
    /// Outside identity.
    pub id: GatewayId,
    /// Unique name within the organisation.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// When it was registered.
    pub created_at: Timestamp,
    /// Since when it may not connect.
    pub disabled_at: Option<Timestamp>,
    /// The latest manifest that it sent, and when.
    pub manifest: Option<(Box<serde_json::value::RawValue>, Timestamp)>,
    /// Its log's identity.
    pub epoch: Epoch,
    /// Last sequence given.
    pub head: Sequence,
    /// Last sequence trimmed.
    pub floor: Sequence,
    /// The gateway's confirmed position.
    pub confirmed: Sequence,
    /// Live connections on all nodes.
    pub live_connections: i64,
    /// When its oldest unconfirmed event was appended: the lag in time.
    pub oldest_unconfirmed_at: Option<Timestamp>,
}

/// A change to a gateway; `None` leaves things as they are.
#[derive(Clone, Debug, Default)]
pub struct GatewayChange {
    /// New name.
    pub name: Option<String>,
    /// New labels, replacing all.
    pub labels: Option<Labels>,
    /// Disable or enable.
    pub disabled: Option<bool>,
}

/// A token, without its secret.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenInfo {
    /// The public part.
    pub id: String,
    /// A name for access tokens; empty for gateway tokens.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Scopes of an access token; empty for gateway tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// After this it is refused.
    pub expires_at: Option<Timestamp>,
    /// Since when it is refused.
    pub revoked_at: Option<Timestamp>,
    /// When it was last presented (to the minute).
    pub last_used_at: Option<Timestamp>,
}

/// What an access token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Publish events.
    Publish,
    /// Read everything but secrets.
    Read,
    /// Register, revoke, redrive.
    Admin,
}

/// A new token: its digest only.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// The public part.
    pub id: String,
    /// SHA-256 of the whole key.
    pub digest: [u8; 32],
    /// After this it is refused.
    pub expires_at: Option<Timestamp>,
}

/// What a gateway's key leads to.
#[derive(Clone, Debug)]
pub struct GatewayCredential {
    /// The digest to compare with, in constant time.
    pub digest: [u8; 32],
    /// The gateway.
    pub gateway: GatewayKey,
    /// The gateway's outside identity.
    pub gateway_id: GatewayId,
    /// Its organisation.
    pub organisation: OrganisationKey,
    /// The token's expiry.
    pub expires_at: Option<Timestamp>,
    /// Revoked.
    pub revoked: bool,
    /// The gateway is disabled.
    pub disabled: bool,
}

/// What an access token leads to.
#[derive(Clone, Debug)]
pub struct AccessCredential {
    /// The digest to compare with, in constant time.
    pub digest: [u8; 32],
    /// Its organisation.
    pub organisation: OrganisationKey,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Its expiry.
    pub expires_at: Option<Timestamp>,
    /// Revoked.
    pub revoked: bool,
}

pub use crate::event_types::EventTypeInfo;

// ---- append ----------------------------------------------------------------

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
    /// To whom.
    pub target: Target,
    /// SHA-256 of what the publisher sent: the same id with another digest is a clash.
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
    /// Its events, in order.
    pub events: Vec<NewEvent>,
    /// The `Idempotency-Key` and the SHA-256 of the whole body.
    pub idempotency: Option<(String, [u8; 32])>,
}

/// What was appended for one event; also the stored answer of an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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

/// Why one event was not appended. Nothing of it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// These gateways are not registered in the publisher's organisation.
    UnknownGateways(Vec<GatewayId>),
    /// The id belongs to an event with another content.
    IdTaken(EventId),
}

/// The answer to a [`Publish`], event by event.
#[derive(Clone, Debug)]
pub enum Published {
    /// Done now, or (a repeated key) done before: the first answer.
    Done(Vec<std::result::Result<Appended, Refusal>>),
    /// The `Idempotency-Key` was used with another body.
    KeyReused,
}

// ---- streaming -------------------------------------------------------------

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

/// Where an opened connection starts.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The log's identity.
    pub epoch: Epoch,
    /// Everything up to here is confirmed for this connection: it is sent what follows.
    pub position: Sequence,
    /// The log's last number.
    pub head: Sequence,
    /// Earlier attempts at `position + 1` that failed for a reason that blames the event.
    pub failed_attempts: u32,
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
        /// These.
        range: Range,
        /// When the first was written to the socket.
        started_at: Timestamp,
        /// When the receipt came.
        finished_at: Timestamp,
    },
    /// A single delivery was reported as applied or as failed (a `deployment.ack`);
    /// moves no position. A failed one becomes a dead letter.
    Reported {
        /// The gateway.
        gateway: GatewayKey,
        /// On this connection.
        connection: ConnectionId,
        /// This one.
        sequence: Sequence,
        /// `Ok`: applied.
        result: std::result::Result<(), (Reason, String)>,
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
        /// Sent and not confirmed, and when the first of them was written: a failed attempt.
        unconfirmed: Option<(Range, Timestamp)>,
        /// The event at `unconfirmed.first` failed once too often: it becomes a
        /// dead letter, and the position passes it.
        give_up: bool,
        /// When.
        at: Timestamp,
    },
}

/// What a `deployment.ack` names.
#[derive(Clone, Debug)]
pub struct DeploymentKey {
    /// `artifactId`.
    pub artifact_id: String,
    /// `deploymentId`.
    pub deployment_id: String,
    /// The event types' last word: `deployed` or `undeployed`.
    pub suffix: &'static str,
}

/// A live or past connection, as admins see it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
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
    /// Last sign of life.
    pub last_heartbeat: Timestamp,
    /// `connected` or `closed`.
    pub status: &'static str,
    /// Confirmed up to here.
    pub confirmed: Sequence,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Timestamp>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close_reason: Option<Reason>,
}

// ---- asking ----------------------------------------------------------------

/// Which failed deliveries. A delivery belongs to the answer if a failed
/// attempt at it finished in `[from, to)` for `reason`; it stands there once,
/// at its newest such failure. Newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DeliveryFilter {
    /// Window's start, included.
    pub from: Option<Timestamp>,
    /// Window's end, excluded.
    pub to: Option<Timestamp>,
    /// One gateway.
    pub gateway_id: Option<GatewayId>,
    /// One event type.
    #[serde(rename = "type")]
    pub event_type: Option<EventType>,
    /// One reason.
    pub reason: Option<Reason>,
    /// One event.
    pub event_id: Option<EventId>,
    /// One correlation id.
    pub correlation_id: Option<CorrelationId>,
}

/// Where the next page begins. `as_of` (the last attempt on record at the first
/// page) makes all pages one picture although rows keep arriving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryCursor {
    /// Attempts after this one are not looked at.
    pub as_of: i64,
    /// The last row shown: when its attempt finished, …
    pub finished_at: i64,
    /// … which attempt, …
    pub attempt: i64,
    /// … and which sequence of its range.
    pub sequence: i64,
}

/// A delivery's state, derived from cursor and dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// Still to be delivered.
    Pending,
    /// Confirmed by the gateway.
    Delivered,
    /// Given up: a dead letter.
    Failed,
}

/// One attempt that covers a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// `received`, `applied`, `failed`, `unknown`.
    pub outcome: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What more is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// On which connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<ConnectionId>,
    /// When it was handed over, or found undeliverable.
    pub started_at: Timestamp,
    /// When its outcome was known.
    pub finished_at: Timestamp,
}

/// One gateway, one sequence, with its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The number in its log.
    pub sequence: Sequence,
    /// The event; `None` once retention has removed it.
    pub event_id: Option<EventId>,
    /// Its type, likewise.
    #[serde(rename = "type")]
    pub event_type: Option<EventType>,
    /// Its correlation id, likewise.
    pub correlation_id: Option<CorrelationId>,
    /// When it was appended, likewise.
    pub appended_at: Option<Timestamp>,
    /// Where it stands now.
    pub state: DeliveryState,
    /// Whether it has been delivered since it failed.
    pub delivered_since: bool,
    /// Whether it has been appended again.
    pub redriven: bool,
    /// Failed attempts among `attempts`.
    pub failures: u32,
    /// The first of them.
    pub first_failure_at: Option<Timestamp>,
    /// The last of them.
    pub last_failure_at: Option<Timestamp>,
    /// Why the last of them failed.
    pub reason: Option<Reason>,
    /// Every attempt, oldest first (the newest 100).
    pub attempts: Vec<Attempt>,
}

/// A page of deliveries.
#[derive(Clone, Debug)]
pub struct DeliveryPage {
    /// Its rows.
    pub rows: Vec<Delivery>,
    /// Where the next page begins; `None` after the last. A page may be short,
    /// even empty, and still have a next one: the work per call is bounded.
    pub next: Option<DeliveryCursor>,
}

/// What a summary counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SummaryBy {
    /// Reason.
    Reason,
    /// Gateway.
    Gateway,
    /// Event type.
    Type,
}

/// Failed attempts, in deliveries, of one bucket of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SummaryRow {
    /// The bucket's start.
    pub from: Timestamp,
    /// Reason, gateway id or type; type is empty once retention has removed the event.
    pub key: String,
    /// How many.
    pub count: i64,
}

/// An event with its state everywhere.
#[derive(Clone, Debug)]
pub struct EventHistory {
    /// The event.
    pub event: Arc<Event>,
    /// When it was appended.
    pub appended_at: Timestamp,
    /// Its state at every gateway, a redriven one more than once.
    pub deliveries: Vec<Delivery>,
}

/// Totals of an organisation.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Deliveries that gateways confirmed.
    pub confirmed: i64,
    /// Failed attempts, in deliveries.
    pub failed_attempts: i64,
    /// Deliveries given up and not redriven.
    pub dead_letters: i64,
    /// Deliveries still to come.
    pub pending: i64,
    /// The last failure.
    pub last_failure: Option<(Timestamp, Reason)>,
}

/// Which deliveries to append again.
#[derive(Clone, Debug)]
pub enum RedriveSelection {
    /// One.
    One(GatewayId, Sequence),
    /// All dead letters whose failed attempts match.
    Filter(DeliveryFilter),
}

/// What a redrive did, or would do.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Redriven {
    /// Appended again: old and new number.
    pub redriven: Vec<RedrivenDelivery>,
    /// Left alone: still pending, so they will be delivered anyway.
    pub pending: i64,
    /// Left alone: delivered since.
    pub delivered: i64,
    /// Left alone: already redriven.
    pub already_redriven: i64,
    /// Left alone: retention has removed the event.
    pub event_removed: i64,
    /// More match: call again.
    pub more: bool,
}

/// One delivery that was appended again.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RedrivenDelivery {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The event.
    pub event_id: EventId,
    /// The dead one's number.
    pub sequence: Sequence,
    /// The new number; `None` in a dry run.
    pub new_sequence: Option<Sequence>,
}

// ---- housekeeping ----------------------------------------------------------

/// How long and how much is kept.
#[derive(Clone, Copy, Debug)]
pub struct RetentionLimits {
    /// Confirmed events are kept this long after they were appended; the ledger as long.
    pub max_age: Duration,
    /// Confirmed events kept per gateway at the most.
    pub max_events: i64,
    /// Unconfirmed events are removed after this, and recorded as failed.
    pub hard_max_age: Duration,
    /// Unconfirmed events kept per gateway at the most, likewise.
    pub hard_max_events: i64,
    /// How long the position of an ended unnamed connection is kept.
    pub left_behind: Duration,
    /// Rows removed per transaction at the most.
    pub batch: i64,
}

/// What one bounded batch of retention removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Outbox rows.
    pub deliveries: u64,
    /// Events that no outbox row names any more.
    pub events: u64,
    /// Ledger rows.
    pub attempts: u64,
    /// Deliveries lost unconfirmed to the hard limits.
    pub lost: u64,
    /// There is more to remove.
    pub more: bool,
}

/// The log and the ledger. Every verb is one transaction and is run to its end
/// even if the caller stops waiting.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    // -- health
    /// Whether reading and writing work; an error says why not.
    async fn check(&self) -> Result<()>;
    /// Stops the writer after what it holds; later calls are refused.
    async fn close(&self);

    // -- organisations and access tokens
    /// The key of an organisation by name.
    async fn organisation(&self, name: &str) -> Result<OrganisationKey>;
    /// Whether any access token was ever made (false at the very first start).
    async fn has_access_tokens(&self) -> Result<bool>;
    /// Makes an access token.
    async fn create_access_token(
        &self,
        organisation: OrganisationKey,
        name: &str,
        scopes: &[Scope],
        token: NewToken,
    ) -> Result<TokenInfo>;
    /// Lists them.
    async fn access_tokens(&self, organisation: OrganisationKey) -> Result<Vec<TokenInfo>>;
    /// Revokes one.
    async fn revoke_access_token(&self, organisation: OrganisationKey, id: &str) -> Result<()>;
    /// Looks one up by its public part. Notes its use at most once a minute.
    async fn access_credential(&self, id: &str) -> Result<Option<AccessCredential>>;

    // -- gateways and their tokens
    /// Registers a gateway; `Conflict` if the name or the id is taken.
    async fn create_gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        name: &str,
        labels: &Labels,
    ) -> Result<Gateway>;
    /// Lists gateways by name, after `after`.
    async fn gateways(
        &self,
        organisation: OrganisationKey,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Gateway>>;
    /// One gateway.
    async fn gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Option<Gateway>>;
    /// Changes it.
    async fn update_gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        change: GatewayChange,
    ) -> Result<Gateway>;
    /// Deletes it: its log and tokens go, the ledger stays.
    async fn delete_gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<GatewayKey>;
    /// Keeps its latest manifest.
    async fn set_manifest(&self, gateway: GatewayKey, manifest: &str) -> Result<()>;
    /// Makes a token; `Conflict` if two are live.
    async fn create_gateway_token(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        token: NewToken,
    ) -> Result<TokenInfo>;
    /// Lists them.
    async fn gateway_tokens(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Vec<TokenInfo>>;
    /// Revokes one; its live sockets are the caller's to close.
    async fn revoke_gateway_token(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        token: &str,
    ) -> Result<()>;
    /// Looks one up by its public part. Notes its use at most once a minute.
    async fn gateway_credential(&self, token: &str) -> Result<Option<GatewayCredential>>;

    // -- event types
    /// All registered types of an organisation, built-in ones included.
    async fn event_types(&self, organisation: OrganisationKey) -> Result<Vec<EventTypeInfo>>;
    /// One of them.
    async fn event_type(
        &self,
        organisation: OrganisationKey,
        name: &EventType,
    ) -> Result<Option<EventTypeInfo>>;
    /// Registers or replaces one; true if it is new.
    async fn put_event_type(
        &self,
        organisation: OrganisationKey,
        info: &EventTypeInfo,
    ) -> Result<bool>;

    // -- the way of an event
    /// Appends, in one group commit with whatever else waits.
    async fn append(&self, publish: Publish) -> Result<Published>;
    /// Reads a page of a gateway's log, up to `limit` rows and about `max_bytes` of payload.
    async fn read(
        &self,
        gateway: GatewayKey,
        after: Sequence,
        limit: usize,
        max_bytes: usize,
    ) -> Result<OutboxPage>;
    /// Opens a connection and finds its position.
    async fn open_connection(&self, connection: NewConnection) -> Result<Opened>;
    /// Puts outcomes on record, in one group commit with whatever else waits.
    async fn record(&self, records: Vec<Record>) -> Result<()>;
    /// The newest event that a `deployment.ack` can mean, and its payload's `performedAt`.
    async fn find_deployment(
        &self,
        gateway: GatewayKey,
        key: &DeploymentKey,
    ) -> Result<Option<(Sequence, Option<Timestamp>)>>;

    // -- asking
    /// Connections of an organisation, or of one gateway; live ones only, or past ones too. Newest first.
    async fn connections(
        &self,
        organisation: OrganisationKey,
        gateway: Option<GatewayId>,
        live_only: bool,
        limit: usize,
    ) -> Result<Vec<ConnectionInfo>>;
    /// Totals of an organisation.
    async fn totals(&self, organisation: OrganisationKey) -> Result<Totals>;
    /// An event and its state everywhere.
    async fn event_history(
        &self,
        organisation: OrganisationKey,
        id: &EventId,
    ) -> Result<Option<EventHistory>>;
    /// Failed deliveries, a page at a time.
    async fn failed_deliveries(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage>;
    /// Failed attempts per bucket of time and key, within `[from, to)`.
    async fn failure_summary(
        &self,
        organisation: OrganisationKey,
        from: Timestamp,
        to: Timestamp,
        bucket: Duration,
        by: SummaryBy,
    ) -> Result<Vec<SummaryRow>>;
    /// Appends dead letters again (at most 1,000 a call).
    async fn redrive(
        &self,
        organisation: OrganisationKey,
        selection: RedriveSelection,
        dry_run: bool,
    ) -> Result<Redriven>;

    // -- housekeeping
    /// Says that this node lives; the first call registers it.
    async fn node_heartbeat(&self) -> Result<()>;
    /// Closes the connections that dead nodes left open (`node_lost`); returns how many.
    async fn reap_dead_nodes(&self) -> Result<u64>;
    /// Records `not_connected` for what was appended to gateways without a live
    /// connection; `None` looks at all gateways. Returns how many deliveries.
    async fn sweep_not_connected(&self, gateways: Option<&[GatewayKey]>) -> Result<u64>;
    /// Removes one bounded batch of what is too old or too much.
    async fn trim(&self, limits: &RetentionLimits) -> Result<Trimmed>;
    /// The node that this process is.
    fn node(&self) -> NodeId;
}
