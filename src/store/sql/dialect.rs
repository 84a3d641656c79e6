//! The statements that each database words differently: the contract between this folder and
//! its two backends. There is one file per subject, with a trait and the rows that its methods
//! take and return. `sqlite/statements/` and `postgres/statements/` implement each trait for
//! their connection type, in a file of the same name; a method that is missing on one side, or
//! has another signature there, does not compile. These files use nothing else of this folder, so
//! that the operations depend on the contract and not the reverse.
//!
//! # Why the folder is compiled twice
//!
//! sqlx checks a statement against one database and types it by that database, so code that is
//! generic over the database cannot contain a checked statement. Most statements have the same
//! text in both databases. Code compiled once would need a method in a trait and two
//! implementations for each of them. Instead, this folder is compiled once per backend, and
//! only statements whose text differs are methods here. A shared text appears once; `query!`
//! and its siblings append the name of the database as a comment, because sqlx files the
//! metadata of a statement by its text.
//!
//! # When to add a method
//!
//! Only if one text cannot serve both databases: for many rows at once (`json_each` and
//! `unnest`), for an index that SQLite's planner must be told, and for locks and clocks. The
//! documentation here says what a method does. Comments at its implementations say only why
//! that database needs its wording.

pub(crate) mod browse;
pub(crate) mod connections;
pub(crate) mod cursors;
pub(crate) mod deliveries;
pub(crate) mod expiry;
pub(crate) mod gateways;
pub(crate) mod inbox;
pub(crate) mod ledger;
pub(crate) mod log;
pub(crate) mod nodes;
pub(crate) mod not_connected;
pub(crate) mod redrive;
pub(crate) mod retention;

use futures_util::stream::BoxStream;

use super::connections::list::ConnectionRow;
use super::cursors::Raised;
use super::deliveries::details::{AttemptRow, StandingRow};
use super::deliveries::named::Failure;
use super::deliveries::newest::{Covering, Within};
use super::deliveries::scan::Failed;
use super::deliveries::summary::{Buckets, Tally};
use super::deliveries::{Key, Matching, Place};
use super::expiry::{DueEvent, OpenDelivery};
use super::gateways::details::GatewayRow;
use super::inbox::{RowSize, UndrainedRow};
use super::log::append::{BatchRows, Head};
use super::log::idempotency::{KnownEvent, StoredAnswer};
use super::log::read::LogEntry;
use super::log::targets::{GatewayById, GatewayByLabels};
use super::nodes::{ExclusiveTask, OrphanedConnection};
use super::not_connected::{NotConnected, NotConnectedCount};
use super::redrive::candidates::{Candidate, DeadRange};
use super::retention::SpentEvents;
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, EventId, GatewayId, GatewayKey, NodeId, OrganisationKey, Reason, Sequence,
};
use crate::store::positions::Change;
use crate::store::receipts::Receipts;
use crate::store::{
    AuditRecord, InboxContent, Labels, LoggedEvent, Range, RedrivePlace, RejectedFilter,
    RejectedRow, Rejection, Result, SummaryBy, Unreadable, deployments,
};

pub(crate) use super::super::session::Session;
pub(crate) use super::super::statements::{Connection, query, query_as, query_scalar};

/// Clocks, locks and the liveness of nodes.
///
/// To avoid deadlocks between nodes, a transaction locks all streams that it will change, in
/// ascending key order, before it locks anything else. It skips locked rows of streams that it
/// has not locked. Inbox rows are locked before streams, under a lock of their own. The head of the
/// audit log is locked last.
pub(crate) trait NodeStatements {
    /// The current time by the database's clock.
    async fn now(&mut self) -> Result<Timestamp>;
    /// Converts `at`, read from this node's clock, to the database's clock, which shows `now`.
    fn database_time(now: Timestamp, at: Timestamp) -> Timestamp;
    /// Locks these streams until the end of the transaction. Returns true if other nodes may
    /// have changed them since they were last read, so that they must be read again.
    async fn lock_streams(&mut self, gateways: &BTreeSet<GatewayKey>) -> Result<bool>;
    /// The current time, and those of these gateways that are not deleted.
    async fn existing_gateways(
        &mut self,
        gateways: &BTreeSet<GatewayKey>,
    ) -> Result<(Timestamp, BTreeSet<GatewayKey>)>;
    /// Locks a task until the end of the transaction; false if another node holds the lock.
    async fn try_lock_task(&mut self, task: ExclusiveTask) -> Result<bool>;
    /// A node whose last heartbeat is older than this is dead.
    fn dead_before(now: Timestamp, timeout: Duration) -> Timestamp;
    /// Open connections of nodes other than `node` that have stopped, are unknown, or have no
    /// heartbeat in this range; by gateway, up to
    /// [`ORPHANS_PER_BATCH`](super::nodes::ORPHANS_PER_BATCH).
    async fn connections_of_dead_nodes(
        &mut self,
        heartbeats: &RangeInclusive<Timestamp>,
        node: NodeId,
    ) -> Result<Vec<OrphanedConnection>>;
}

/// Appending to logs, reading them, and recognizing repeated requests.
pub(crate) trait LogStatements {
    /// Raises the heads of streams by these counts and returns the new heads. Streams that do
    /// not exist are missing from the result.
    async fn raise_heads(&mut self, counts: &BTreeMap<GatewayKey, i64>) -> Result<Vec<Head>>;
    /// Inserts the events and outbox rows of a batch, raises the heads of its streams, and
    /// returns the new heads.
    async fn append(&mut self, now: Timestamp, rows: &BatchRows<'_>) -> Result<Vec<Head>>;
    /// Inserts outbox rows: gateway, sequence and event key.
    async fn insert_outbox(&mut self, rows: &[(GatewayKey, Sequence, i64)]) -> Result<()>;
    /// The stored answers of these idempotency keys.
    async fn stored_answers(
        &mut self,
        keys: &[(OrganisationKey, &str)],
    ) -> Result<Vec<StoredAnswer>>;
    /// Stores answers under their idempotency keys; keeps those that exist.
    async fn store_answers(&mut self, now: Timestamp, rows: Vec<StoredAnswer>) -> Result<()>;
    /// The events with these ids, one row per delivery.
    async fn known_events(
        &mut self,
        ids: &[(OrganisationKey, &EventId)],
    ) -> Result<Vec<KnownEvent>>;
    /// The log of a gateway after a sequence, in order. Stops after `limit` rows, or early
    /// after the row that exceeds `max_bytes` of payload if the database can do that.
    fn outbox_rows(
        &mut self,
        gateway: GatewayKey,
        after: Sequence,
        limit: i64,
        max_bytes: usize,
    ) -> BoxStream<'_, sqlx::Result<LogEntry>>;
    /// The newest events up to `sent` with these ids, newest first, with the `performedAt` of
    /// their payloads. Excludes events that expired or were trimmed before they were sent.
    async fn deployment_candidates(
        &mut self,
        gateway: GatewayKey,
        deployment_id: &str,
        artifact_id: &str,
        suffix: &str,
        sent: Sequence,
        limit: i64,
    ) -> Result<Vec<deployments::Candidate>>;
}

/// Looking up gateways.
pub(crate) trait GatewayStatements {
    /// Gateways with these ids, of all organisations.
    async fn gateways_by_id(&mut self, ids: &BTreeSet<GatewayId>) -> Result<Vec<GatewayById>>;
    /// Gateways of an organisation that have all these labels, by key.
    async fn gateways_by_labels(
        &mut self,
        organisation: OrganisationKey,
        labels: &Labels,
    ) -> Result<Vec<GatewayByLabels>>;
    /// Gateways with what their streams, positions and connections say, by name.
    async fn gateway_details(&mut self, gateways: &[GatewayKey]) -> Result<Vec<GatewayRow>>;
}

/// Live and past connections.
pub(crate) trait ConnectionStatements {
    /// Those of these connections that belong to an organisation, newest first.
    async fn connection_details(
        &mut self,
        organisation: OrganisationKey,
        ids: &[ConnectionId],
    ) -> Result<Vec<ConnectionRow>>;
    /// Those of these connections that are closed or unknown.
    async fn not_on_record(&mut self, ids: &[ConnectionId]) -> Result<Vec<ConnectionId>>;
    /// Stores when each connection last showed activity.
    async fn record_heartbeats(&mut self, at: &HashMap<ConnectionId, Timestamp>) -> Result<()>;
}

/// The table `cursors`: the positions of gateways and of their connections. They only move forward.
pub(crate) trait CursorStatements {
    /// Adds what becomes delivered when these gateways' positions move to the streams' totals.
    async fn count_confirmed(&mut self, gateways: &[Raised<'_>], longest_range: i64) -> Result<()>;
    /// Raises positions, up to the heads of their streams; returns how many exist.
    async fn raise_cursors(&mut self, raised: &[Raised<'_>]) -> Result<u64>;
    /// Inserts positions; keeps those that exist.
    async fn insert_cursors(&mut self, raised: &[Raised<'_>]) -> Result<()>;
    /// Deletes positions of unnamed connections.
    async fn delete_cursors(&mut self, gateway: GatewayKey, instances: &[String]) -> Result<()>;
    /// Changes instants of positions of unnamed connections.
    async fn change_cursors(&mut self, gateway: GatewayKey, changes: &[Change]) -> Result<()>;
}

/// Rows of the ledger: attempts and dead letters, as ranges of sequences.
pub(crate) trait LedgerStatements {
    /// Inserts attempts with the outcome `received`. Returns the parts of their ranges that are
    /// dead letters and were not redriven.
    async fn insert_receipts(
        &mut self,
        node: NodeId,
        receipts: &[Receipts],
    ) -> Result<Vec<(GatewayKey, Range)>>;
    /// Inserts failed attempts that were made without a connection.
    async fn insert_failed(
        &mut self,
        now: Timestamp,
        node: NodeId,
        reason: Reason,
        ranges: &[(GatewayKey, Range)],
    ) -> Result<()>;
    /// Inserts dead letters for ranges that contain none, and adds them to the streams' totals.
    async fn insert_dead_letters(
        &mut self,
        now: Timestamp,
        reason: Reason,
        ranges: &[(GatewayKey, Range)],
    ) -> Result<()>;
    /// The ids and types of the events of these deliveries, by gateway and sequence.
    async fn logged_events(
        &mut self,
        deliveries: &[(GatewayKey, Sequence)],
    ) -> Result<Vec<(GatewayKey, LoggedEvent)>>;
}

/// Queries of deliveries and of failed attempts.
pub(crate) trait DeliveryStatements {
    /// Failed attempts at or before a place (finish time and key), newest first. Reads along
    /// the index of the filter's gateway or reason, and marks the rows that match.
    async fn failed_attempts(
        &mut self,
        matching: &Matching,
        as_of: i64,
        before: TimedKey,
        limit: i64,
    ) -> Result<Vec<Failed>>;
    /// Failed attempts that match and cover exactly one of these deliveries.
    async fn failures_at(
        &mut self,
        matching: &Matching,
        as_of: i64,
        keys: &[DeliveryKey],
    ) -> Result<Vec<Covering>>;
    /// Failed attempts that match and cover more than one delivery, some of them in these parts
    /// of logs.
    async fn failures_reaching(
        &mut self,
        matching: &Matching,
        as_of: i64,
        around: &[Within],
    ) -> Result<Vec<Covering>>;
    /// Failed deliveries of the events that the filter names, after `start`, newest failure
    /// first, each at its newest failure that matches.
    async fn failures_of_events(
        &mut self,
        matching: &Matching,
        as_of: i64,
        start: Place,
        limit: i64,
    ) -> Result<Vec<Failure>>;
    /// Those of these deliveries whose event exists and is of this type.
    async fn deliveries_of_type(
        &mut self,
        keys: &[DeliveryKey],
        event_type: &str,
    ) -> Result<Vec<DeliveryKey>>;
    /// What the states of these deliveries follow from, in their order.
    async fn standings(&mut self, keys: &[DeliveryKey]) -> Result<Vec<StandingRow>>;
    /// The newest hundred attempts at each of these deliveries, oldest first, each with
    /// aggregates over all attempts at its delivery.
    async fn attempts_at(&mut self, keys: &[DeliveryKey]) -> Result<Vec<AttemptRow>>;
    /// Failed attempts per bucket and key, in deliveries. By type, all have the key `""`.
    async fn failures_by_range(
        &mut self,
        organisation: OrganisationKey,
        buckets: Buckets,
        by: SummaryBy,
    ) -> Result<Vec<Tally>>;
    /// Failed attempts per bucket and event type, in deliveries whose event exists.
    async fn failures_by_type(
        &mut self,
        organisation: OrganisationKey,
        buckets: Buckets,
    ) -> Result<Vec<Tally>>;
}

/// Searching for deliveries that can be redriven.
pub(crate) trait RedriveStatements {
    /// Ranges of dead letters that are not redriven and that reach beyond `after`, in order, of
    /// gateways up to the key `up_to`.
    async fn open_dead_letters(
        &mut self,
        organisation: OrganisationKey,
        after: DeliveryKey,
        up_to: GatewayKey,
        limit: i64,
    ) -> Result<Vec<DeadRange>>;
    /// Deliveries after `after` of the events that the filter names, in order.
    async fn deliveries_of_events(
        &mut self,
        matching: &Matching,
        after: DeliveryKey,
        limit: i64,
    ) -> Result<Vec<DeliveryKey>>;
    /// Those of these deliveries that are dead letters and not redriven, in order. The event is
    /// missing if retention has removed it.
    async fn open_deliveries(&mut self, keys: &[DeliveryKey]) -> Result<Vec<Candidate>>;
}

/// The sweep for gateways with no live connection.
pub(crate) trait NotConnectedStatements {
    /// Streams whose gateway has no live connection and has rows that are neither confirmed nor
    /// recorded as `not_connected`; among all gateways, or these.
    async fn streams_not_connected(
        &mut self,
        gateways: Option<&[GatewayKey]>,
    ) -> Result<Vec<NotConnected>>;
    /// Marks streams as swept up to these heads, and adds to their totals of failures.
    async fn count_not_connected(
        &mut self,
        now: Timestamp,
        counts: &[NotConnectedCount],
    ) -> Result<()>;
}

/// Expiry of events whose gateway has no live connection.
pub(crate) trait ExpiryStatements {
    /// Events that have expired and may have open deliveries, after a place (expiry and event
    /// key), in that order.
    async fn due_events(
        &mut self,
        now: Timestamp,
        after: TimedKey,
        limit: i64,
    ) -> Result<Vec<DueEvent>>;
    /// Those of these events that have no open delivery.
    async fn settled_events(&mut self, events: &[i64]) -> Result<Vec<i64>>;
    /// Open deliveries of these events whose gateways have no live connection.
    async fn open_and_not_connected(
        &mut self,
        events: &[i64],
        limit: i64,
    ) -> Result<Vec<OpenDelivery>>;
    /// Removes events from the index of those that can expire.
    async fn settle_expiry(&mut self, events: &[i64]) -> Result<()>;
}

/// Retention.
pub(crate) trait RetentionStatements {
    /// Deletes up to `batch` positions whose connection ended before this; returns how many.
    async fn delete_orphaned_cursors(&mut self, before: Timestamp, batch: i64) -> Result<u64>;
    /// Deletes those of these events that are spent and in no log any more, with the record of
    /// their trimmed deliveries; returns how many.
    async fn delete_spent_events(&mut self, events: &[i64], spent: SpentEvents) -> Result<u64>;
}

/// The audit log.
pub(crate) trait AuditStatements {
    /// Inserts records, which have the same organisation, instant and principal.
    async fn insert_audit(&mut self, records: &[AuditRecord]) -> Result<()>;
}

/// The inbox, which other programs write to.
pub(crate) trait InboxStatements {
    /// Locks the draining of the inbox until the end of the transaction.
    async fn lock_inbox(&mut self) -> Result<()>;
    /// Those of these rows that exist, locked; excludes rows that another program is deleting.
    async fn lock_inbox_rows(&mut self, ids: &[i64]) -> Result<Vec<i64>>;
    /// Copies rows to the rejected ones, unchanged.
    async fn reject_inbox_rows(
        &mut self,
        now: Timestamp,
        rejected: &[(i64, Rejection)],
    ) -> Result<()>;
    /// Deletes rows.
    async fn delete_inbox_rows(&mut self, ids: &[i64]) -> Result<()>;
    /// The sizes of the oldest rows, by id; reads no text.
    async fn inbox_sizes(&mut self, limit: i64) -> Result<Vec<RowSize>>;
    /// The columns of these rows, by id.
    async fn inbox_contents(
        &mut self,
        ids: &[i64],
    ) -> Result<Vec<(i64, Result<InboxContent, Unreadable>)>>;
    /// Rejected rows, newest first, with columns cut at 4,096 characters.
    async fn rejected_rows(
        &mut self,
        organisation: OrganisationKey,
        id: Option<i64>,
        filter: &RejectedFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<RejectedRow>>;
    /// The first `max_chars` characters of the payload of a rejected row.
    async fn rejected_payload(&mut self, id: i64, max_chars: i32) -> Result<String>;
    /// The oldest rejected rows that match and were not retried, locked.
    async fn retryable_rows(
        &mut self,
        organisation: OrganisationKey,
        id: Option<i64>,
        filter: &RejectedFilter,
        limit: i64,
    ) -> Result<Vec<i64>>;
    /// Inserts rejected rows into the inbox again and marks them as retried; returns how many.
    async fn retry_rejected_rows(&mut self, now: Timestamp, ids: &[i64]) -> Result<u64>;
    /// Rows that were drained or rejected, but are still in the inbox: a sign of damage.
    async fn drained_rows_still_there(&mut self, limit: i64) -> Result<Vec<UndrainedRow>>;
}
