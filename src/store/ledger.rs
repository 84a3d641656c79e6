//! What can be asked of the ledger, and what a redrive does.
//!
//! # What is counted
//!
//! A *delivery* is one sequence of one gateway's log. An *attempt* is one try at
//! it, with an outcome. The numbers below mean the same in `/stats`, `/gateways`,
//! `/events/{id}`, `/deliveries`, its summary, a redrive's answer and `verify`.
//!
//! | number | definition |
//! |---|---|
//! | *dead* | deliveries that were given up: those in `dead_letters`. One is *redriven* once its event was appended again under a new sequence, and *open* before that |
//! | *confirmed*, *delivered* | deliveries at or below the gateway's position that are not dead |
//! | *pending* | deliveries above the position and above the log's floor that are not dead |
//! | *failures* | failed attempts, one for each delivery that an attempt covers; those on record, or (`failedDeliveries` in `/stats`) all there ever were |
//! | dead letters | open dead deliveries of gateways that are not deleted |
//! | lag | a gateway's pending deliveries, and the age of the oldest: since it was appended or, if it is a redrive, since that |
//! | `state` | `failed` if dead, otherwise `delivered` or `pending` |
//! | delivered since | the delivery failed at least once, and its newest redrive (or itself, without one) is delivered |
//!
//! Retention trims deliveries from a log and keeps their record as long as their
//! event is kept: at least for the time in which a repeated event id is recognised,
//! until every gateway's log has let go of it, and while an open dead letter can
//! be redriven. Such a delivery is shown with `trimmed: true` and the state that
//! it has.
//!
//! Every delivery of a log is exactly one of delivered, pending and failed. Totals
//! in `/stats` never shrink when retention trims the ledger. The `model` stories
//! check these definitions over random histories on all stores.

use super::{Record, Result};
use crate::event::OrganisationKey;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, Event, EventId, EventType, GatewayId, Reason, Sequence,
};

/// Operations on the ledger.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Records outcomes, in one group commit with other requests that are waiting.
    async fn record(&self, records: Vec<Record>) -> Result<()>;
    /// An event with the state of its deliveries at every gateway.
    async fn event_history(
        &self,
        organisation: OrganisationKey,
        id: &EventId,
    ) -> Result<Option<EventHistory>>;
    /// A page of failed deliveries.
    async fn failed_deliveries(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage>;
    /// Failed attempts in `[from, to)`, counted per bucket of time and key.
    async fn failure_summary(
        &self,
        organisation: OrganisationKey,
        from: Timestamp,
        to: Timestamp,
        bucket: Duration,
        by: SummaryBy,
    ) -> Result<Vec<SummaryRow>>;
    /// Totals of an organisation.
    async fn totals(&self, organisation: OrganisationKey) -> Result<Totals>;
    /// Appends dead letters again: at most 1,000 per call, found by a bounded search that blocks
    /// no writes. A dry run only counts.
    async fn redrive(
        &self,
        organisation: OrganisationKey,
        selection: RedriveSelection,
        dry_run: bool,
    ) -> Result<Redriven>;
}

/// Which failed deliveries. A delivery belongs to the answer if a failed
/// attempt at it finished in `[from, to)` for `reason`; it stands there once,
/// at its newest such failure. Newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// Window's start, included.
    pub from: Option<Timestamp>,
    /// Window's end, excluded.
    pub to: Option<Timestamp>,
    /// One gateway.
    pub gateway_id: Option<GatewayId>,
    /// One event type.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// Still to be delivered.
    Pending,
    /// Confirmed by the gateway.
    Delivered,
    /// Given up: a dead letter.
    Failed,
}

impl DeliveryState {
    /// A dead letter is failed whatever the cursor says; then the cursor decides.
    pub const fn of(is_dead: bool, is_confirmed: bool) -> Self {
        match (is_dead, is_confirmed) {
            (true, _) => Self::Failed,
            (false, true) => Self::Delivered,
            (false, false) => Self::Pending,
        }
    }
}

/// One attempt that covers a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// `received`, `applied`, `failed`, `unknown`.
    pub outcome: String,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// What more is known.
    pub detail: Option<String>,
    /// On which connection.
    pub connection_id: Option<ConnectionId>,
    /// When it was handed over, or found undeliverable.
    pub started_at: Timestamp,
    /// When its outcome was known.
    pub finished_at: Timestamp,
}

/// One gateway, one sequence, with its history.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    pub event_type: Option<EventType>,
    /// Its correlation id, likewise.
    pub correlation_id: Option<CorrelationId>,
    /// When it was appended, likewise.
    pub appended_at: Option<Timestamp>,
    /// Where it stands now.
    pub state: DeliveryState,
    /// Whether retention has trimmed it from the gateway's log. It is shown as
    /// long as its event, or a failed attempt at it, is kept.
    pub trimmed: bool,
    /// Whether it has been delivered since it failed: under this sequence, or
    /// as `redriven_as`.
    pub delivered_since: bool,
    /// Whether it has been appended again.
    pub redriven: bool,
    /// Its newest redrive. `None` if it was not redriven, or if an earlier
    /// version redrove it and the log no longer shows where.
    pub redriven_as: Option<RedrivenAs>,
    /// Failed attempts on record, those that `attempts` leaves out included.
    pub failures: i64,
    /// The first of them.
    pub first_failure_at: Option<Timestamp>,
    /// The last of them.
    pub last_failure_at: Option<Timestamp>,
    /// Why the last of them failed.
    pub reason: Option<Reason>,
    /// Attempts on record.
    pub attempt_count: i64,
    /// The attempts, oldest first; of more than 100 only the newest 100.
    pub attempts: Vec<Attempt>,
}

/// A redriven delivery under its new sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedrivenAs {
    /// The new sequence in the gateway's log.
    pub sequence: Sequence,
    /// Where it stands now.
    pub state: DeliveryState,
}

/// The attempts at a delivery: the newest in full, and what all of them come to.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    /// The newest attempts.
    pub newest: Vec<Attempt>,
    /// The number of all attempts.
    pub count: i64,
    /// The number of failed ones.
    pub failures: i64,
    /// When the first of them failed.
    pub first_failure_at: Option<Timestamp>,
    /// When the last of them failed.
    pub last_failure_at: Option<Timestamp>,
    /// Why the last of them failed.
    pub reason: Option<Reason>,
}

impl Delivery {
    /// Fills in the attempts and the newest redrive, and what follows from them.
    #[must_use]
    pub fn with(mut self, attempts: Attempts, redriven_as: Option<RedrivenAs>) -> Self {
        self.attempt_count = attempts.count;
        self.failures = attempts.failures;
        self.first_failure_at = attempts.first_failure_at;
        self.last_failure_at = attempts.last_failure_at;
        self.reason = attempts.reason;
        self.attempts = attempts.newest;
        self.redriven_as = redriven_as;
        let newest = redriven_as.map_or(self.state, |successor| successor.state);
        self.delivered_since = self.failures > 0 && newest == DeliveryState::Delivered;
        self
    }
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SummaryBy {
    /// Reason.
    Reason,
    /// Gateway.
    Gateway,
    /// Event type.
    Type,
}

/// Failed attempts, in deliveries, of one bucket of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryRow {
    /// The bucket's start, aligned to the clock.
    pub from: Timestamp,
    /// Reason, gateway id or type; type is empty once retention has removed the event.
    pub key: String,
    /// The gateway's name, if gateways are counted.
    pub gateway_name: Option<String>,
    /// How many.
    pub count: i64,
}

/// A bucket's width in microseconds.
pub fn bucket_width(bucket: Duration) -> i64 {
    i64::try_from(bucket.as_micros()).unwrap_or(i64::MAX).max(1)
}

/// The beginning of the bucket that an instant lies in, in microseconds: buckets
/// are counted from the epoch.
pub const fn bucket_start(at: Timestamp, width: i64) -> i64 {
    at.micros() - at.micros().rem_euclid(width)
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
    /// All dead letters whose failed attempts match, from a place on.
    Filter(DeliveryFilter, Option<RedriveCursor>),
}

/// How far a redrive by filter has come. First it counts the failed deliveries
/// that it leaves alone, all of them, and then it goes through the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedriveCursor {
    /// It has counted up to here, newest failure first.
    Counting(DeliveryCursor),
    /// It has looked at the dead letters up to this one.
    DeadLetters(RedrivePlace),
}

/// A delivery in the order of a redrive; what was looked at includes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RedrivePlace {
    /// The gateway's inside key.
    pub gateway: i64,
    /// The number in its log.
    pub sequence: i64,
}

/// What one call of a redrive did, or would do. The numbers of all calls up to
/// the one without a `next` add up to exact totals.
#[derive(Clone, Debug, Default)]
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
    /// Left alone: the event has expired, and would at once be dead again.
    pub expired: i64,
    /// More may match: call again, from `next` on.
    pub more: bool,
    /// Where the next call goes on; the work per call is bounded, so that one
    /// may find nothing and still have a next one.
    pub next: Option<RedriveCursor>,
}

/// One delivery that was appended again.
#[derive(Clone, Debug)]
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

/// What a verification counted and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Gateways, deleted ones included.
    pub gateways: i64,
    /// Events in the log.
    pub events: i64,
    /// Deliveries in the log.
    pub deliveries: i64,
    /// Rows of the ledger.
    pub attempts: i64,
    /// Dead letters, in deliveries.
    pub dead_letters: i64,
    /// Rows that wait in the inbox.
    pub inbox: i64,
    /// Rows of the inbox that were rejected, those put back included.
    pub rejected: i64,
    /// What is wrong, each with the gateway and the numbers; empty when all is well.
    pub problems: Vec<String>,
}
