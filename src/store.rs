//! The log, the ledger and everything else that outlives the process. The only
//! room that knows sqlx. A verb of [`Store`] is one transaction: when it
//! returns `Ok`, what it says has been synced to disk.

use std::time::Duration;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, EventId, EventType, GatewayId, GatewayKey, NodeId, OrganisationKey, Sequence,
};

mod away;
mod browse;
pub mod deployments;
mod errors;
mod inbox;
mod instants;
mod ledger;
pub mod limits;
mod log;
#[cfg(test)]
#[path = "../tests/reference/store/mod.rs"]
#[allow(dead_code, reason = "some unit tests use a part of it")]
pub(crate) mod memory;
mod missed;
mod nodes;
mod open;
pub mod positions;
#[cfg(feature = "postgres")]
pub mod postgres;
mod principals;
pub mod ranges;
pub mod receipts;
pub mod repeats;
mod schema;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "postgres")]
mod sqlstate;
mod trimming;
mod verdict;

pub use away::*;
pub use browse::*;
pub use deployments::{DeploymentKey, DeploymentMatch};
pub use inbox::*;
pub use ledger::*;
pub use log::*;
pub use missed::*;
pub use nodes::*;
pub use open::{Open, OpenError, Options, Queue};
pub use principals::*;
pub use schema::SchemaError;
pub use trimming::*;
pub use verdict::*;

#[cfg(feature = "sqlite")]
use errors::sqlite_code;
pub use errors::storable;

/// What a store answers when it can't do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, locked for too long, or its queue is full: try again later.
    #[error("the database can't take this now: {0}")]
    Unavailable(String),
    /// The same, and the connection to the database is not to be used any more: it broke, or
    /// its server takes no writes.
    #[error("the connection to the database is lost: {0}")]
    ConnectionLost(String),
    /// The disk reads or writes no more as it should.
    #[error("the database's disk fails: {0}")]
    Disk(String),
    /// The commit failed: whether it happened is unknown; a retry with the same keys is safe.
    #[error(
        "the commit's outcome is unknown ({0}); retry with the same event id or Idempotency-Key"
    )]
    Unknown(String),
    /// Free space fell below the watermark: nothing more is published, receipts still work.
    #[error("the disk is nearly full; publishing is refused until space is freed")]
    StorageFull,
    /// A question took too long, and was ended so that others are not kept waiting.
    #[error("the answer would take longer than {} ms", .0.as_millis())]
    TooLong(Duration),
    /// A name is taken, or a limit (two live tokens) is reached.
    #[error("{0}")]
    Conflict(String),
    /// What was named does not exist in this organisation.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// The schema was changed while this node ran, and is none that it can use.
    #[error("the database's schema changed: {0}")]
    SchemaChanged(String),
    /// The database holds something that this version can't read.
    #[error("the database is damaged or of another version: {0}")]
    Corrupt(String),
}

/// A store's answer.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The log and the ledger. Every verb is one transaction and is run to its end
/// even if the caller stops waiting.
#[async_trait]
pub trait Store: Inbox + Send + Sync + 'static {
    // -- health
    /// Whether reading and writing work; an error says why not.
    async fn check(&self) -> Result<()>;
    /// Whether there is room to publish. Receipts need less, so that a store
    /// without room still has work to do.
    async fn has_room(&self) -> bool;
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
    /// Looks one up by its public part.
    async fn access_credential(&self, id: &str) -> Result<Option<AccessCredential>>;
    /// Notes that a token was used, at most once a minute, and makes nobody
    /// wait for it. For a token that was accepted, and for no other.
    fn note_use(&self, kind: TokenKind, id: &str, last_used_at: Option<Timestamp>);

    // -- gateways and their tokens
    /// Registers a gateway; `Conflict` if the name or the id is taken.
    async fn create_gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        name: &str,
        labels: &Labels,
        replicas: i64,
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
    /// Deletes it. Its tokens are revoked, and what it has not received is recorded
    /// as failed (`gateway_deleted`).
    async fn delete_gateway(&self, organisation: OrganisationKey, id: GatewayId)
    -> Result<Deleted>;
    /// Keeps its latest manifest.
    async fn set_manifest(&self, gateway: GatewayKey, manifest: &str) -> Result<()>;
    /// Notes that an attempt of this gateway to connect was refused. The caller
    /// does not wait for it, and limits how often it calls.
    fn note_refusal(&self, gateway: GatewayKey, code: &str, address: &str);
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
    /// Looks one up by its public part.
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
    /// The most connections that a gateway held at once within this time, on all
    /// nodes, as far as its newest 2,000 connections tell.
    async fn peak_connections(&self, gateway: GatewayKey, within: Duration) -> Result<usize>;
    /// Puts outcomes on record, in one group commit with whatever else waits.
    async fn record(&self, records: Vec<Record>) -> Result<()>;
    /// The event that a `deployment.ack` answers.
    async fn find_deployment(
        &self,
        gateway: GatewayKey,
        key: &DeploymentKey,
    ) -> Result<Option<DeploymentMatch>>;

    // -- asking
    /// A part of a gateway's log, with states; `None` if there is no such gateway.
    async fn gateway_log(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        span: LogSpan,
    ) -> Result<Option<LogPage>>;
    /// Connections of an organisation, or of one gateway; live ones only, or past ones too. Newest first.
    async fn connections(
        &self,
        organisation: OrganisationKey,
        gateway: Option<GatewayId>,
        live_only: bool,
        after: Option<ConnectionCursor>,
        limit: usize,
    ) -> Result<ConnectionPage>;
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
    /// Appends dead letters again, at most 1,000 a call and after a bounded
    /// search, which waits for nobody and makes nobody wait.
    async fn redrive(
        &self,
        organisation: OrganisationKey,
        selection: RedriveSelection,
        dry_run: bool,
    ) -> Result<Redriven>;

    // -- housekeeping
    /// Stores that this node lives.
    async fn node_heartbeat(&self) -> Result<Heartbeat>;
    /// Says what this node is.
    async fn introduce_node(&self, about: AboutNode) -> Result<()>;
    /// The nodes, the living ones first: those of the whole database.
    async fn nodes(&self, limit: usize) -> Result<Vec<NodeInfo>>;
    /// Closes some of the connections that dead nodes left open (`node_lost`);
    /// to be called until it finds none.
    async fn reap_dead_nodes(&self) -> Result<Reaping>;
    /// Of these connections of this node, those that are not live on record:
    /// another one took this node for dead.
    async fn not_on_record(&self, connections: &[ConnectionId]) -> Result<Vec<ConnectionId>>;
    /// Whom of this node's live connections another node was told to shut out.
    async fn shut_out(&self) -> Result<Vec<ShutOut>>;
    /// Records `not_connected` for what was appended to gateways without a live
    /// connection; `None` looks at all gateways. A gateway whose last connection
    /// ended less than `grace` ago is postponed.
    async fn sweep_not_connected(
        &self,
        gateways: Option<&[GatewayKey]>,
        grace: Duration,
    ) -> Result<Swept>;
    /// Gives up deliveries whose event has expired while their gateway has no
    /// live connection: one bounded batch, from a mark on, which it moves.
    async fn expire(&self, mark: &mut ExpiryMark) -> Result<Expiries>;
    /// Removes one bounded batch of what is too old or too much, and moves
    /// the mark; after the last batch of a pass it stands at the next pass's first.
    async fn trim(&self, limits: &RetentionLimits, mark: &mut TrimMark) -> Result<Trimmed>;
    /// The node that this process is.
    fn node(&self) -> NodeId;
}
