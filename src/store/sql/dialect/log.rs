//! Logs: appending to them, reading them, and recognizing repeated requests.

use std::collections::BTreeMap;

use futures_util::stream::BoxStream;

use crate::clock::{TimeWindow, Timestamp};
use crate::event::{
    CorrelationId, EventId, EventType, GatewayId, GatewayKey, NodeId, OrganisationKey, Reason,
    Sequence,
};
use crate::store::supersession::Superseded;
use crate::store::{NewEvent, Result};
use crate::trace_context::TraceParent;

/// Events to count: those after a key up to another one, appended in a window, of an organisation or
/// of each.
#[derive(Clone, Copy)]
pub(crate) struct Events {
    pub(crate) organisation: Option<OrganisationKey>,
    pub(crate) window: TimeWindow,
    pub(crate) after: i64,
    pub(crate) last: i64,
}

impl Events {
    pub(crate) const ALL: Self =
        Self { organisation: None, window: TimeWindow::ALL, after: 0, last: i64::MAX };

    /// Whether they are chosen by their keys rather than by the window.
    pub(crate) fn is_by_key(&self) -> bool {
        self.after > 0 || self.window == TimeWindow::ALL
    }
}

/// Events of an organisation in a minute since the Unix epoch.
pub(crate) struct CountedMinute {
    pub(crate) organisation: OrganisationKey,
    pub(crate) minute: i64,
    pub(crate) count: i64,
}

/// Appending to logs, reading them, and recognizing repeated requests.
pub(crate) trait LogStatements {
    /// Counts events per organisation and minute.
    async fn events_by_minute(&mut self, of: Events) -> Result<Vec<CountedMinute>>;
    /// Raises the heads of streams by these counts and returns the new heads. Streams that do
    /// not exist are missing from the result.
    async fn raise_heads(&mut self, counts: &BTreeMap<GatewayKey, i64>) -> Result<Vec<Head>>;
    /// Inserts the events and outbox rows of a batch, raises the heads of its streams, and
    /// returns the new heads.
    async fn append(&mut self, now: Timestamp, rows: &BatchRows<'_>) -> Result<Vec<Head>>;
    /// Inserts outbox rows of events that exist.
    async fn insert_repeats(&mut self, rows: &[Repeat]) -> Result<()>;
    /// Sets the collapse keys of deliveries that were just inserted.
    async fn set_collapse_keys(&mut self, rows: &[(GatewayKey, Sequence, &str)]) -> Result<()>;
    /// Withholds superseded deliveries of a gateway.
    async fn withhold_superseded(
        &mut self,
        gateway: GatewayKey,
        superseded: &[Superseded],
    ) -> Result<()>;
    /// Inserts an attempt for each of these ranges of superseded deliveries.
    async fn insert_superseded(
        &mut self,
        now: Timestamp,
        node: NodeId,
        gateway: GatewayKey,
        superseded: &[Superseded],
    ) -> Result<()>;
    /// The stored responses of these idempotency keys.
    async fn stored_responses(
        &mut self,
        keys: &[(OrganisationKey, &str)],
    ) -> Result<Vec<StoredResponse>>;
    /// Stores responses under their idempotency keys; keeps those that exist.
    async fn store_responses(&mut self, now: Timestamp, rows: Vec<StoredResponse>) -> Result<()>;
    /// The events with these ids, one row per gateway that they were published for.
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
}

/// What a batch writes, before its sequences are known.
pub(crate) struct BatchRows<'a> {
    pub(crate) events: Vec<BatchEvent<'a>>,
    /// By how much the head of each stream rises.
    pub(crate) counts: BTreeMap<GatewayKey, i64>,
    /// For each delivery: its stream, its number among the stream's new rows (from 1), and the
    /// index of its event in `events`. In the order of the outbox's key, which is the cheapest to
    /// insert.
    pub(crate) deliveries: Vec<(GatewayKey, i64, usize)>,
}

/// An event to insert.
#[derive(Clone, Copy)]
pub(crate) struct BatchEvent<'a> {
    pub(crate) organisation: OrganisationKey,
    pub(crate) new: &'a NewEvent,
    /// How many gateways its target selects.
    pub(crate) matched: i64,
}

/// An outbox row of an event that exists.
pub(crate) struct Repeat {
    pub(crate) gateway: GatewayKey,
    pub(crate) sequence: Sequence,
    pub(crate) event: i64,
    /// The sequence of the delivery that it repeats; `None` if the event was not in this log.
    pub(crate) repeats: Option<Sequence>,
    /// When it was appended; `None` for a redrive, unless of a delivery that has it.
    pub(crate) appended_at: Option<Timestamp>,
}

/// The new head of a stream.
pub(crate) struct Head {
    pub(crate) gateway: GatewayKey,
    pub(crate) head: Sequence,
}

/// One delivery of an existing event; without gateway and sequence if it has none.
pub(crate) struct KnownEvent {
    pub(crate) organisation: OrganisationKey,
    pub(crate) id: EventId,
    pub(crate) digest: Vec<u8>,
    pub(crate) gateway: Option<GatewayId>,
    pub(crate) sequence: Option<Sequence>,
}

/// A stored response: JSON under its key, with the SHA-256 of the request.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StoredResponse {
    pub(crate) organisation: OrganisationKey,
    pub(crate) key: String,
    pub(crate) digest: Vec<u8>,
    pub(crate) response: String,
}

/// A row of a log, before its payload is parsed, with the log's head and floor in the same
/// snapshot. An entry may have only these; a log without rows yields one such entry.
pub(crate) struct LogEntry {
    pub(crate) head: Sequence,
    pub(crate) floor: Sequence,
    pub(crate) sequence: Option<Sequence>,
    pub(crate) id: Option<EventId>,
    pub(crate) event_type: Option<EventType>,
    pub(crate) payload: Option<String>,
    pub(crate) correlation_id: Option<CorrelationId>,
    pub(crate) user_id: Option<String>,
    pub(crate) occurred_at: Option<Timestamp>,
    /// What few events have, as JSON ([`Extras`]); `None` if this one has nothing of it. One column instead
    /// of four, because a backlog is read in rows of which each column costs an allocation.
    pub(crate) extras: Option<String>,
}

/// What few events of a log have. In the statements it is an array, in this order.
#[derive(Default, serde::Deserialize)]
pub(crate) struct Extras {
    /// In microseconds since the Unix epoch.
    pub(crate) expires_at: Option<i64>,
    pub(crate) traceparent: Option<TraceParent>,
    /// As they are stored, a text of JSON.
    pub(crate) attributes: Option<String>,
    pub(crate) withheld: Option<Reason>,
}
