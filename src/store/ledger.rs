//! The ledger: attempts at deliveries, queries about them, and redrives.
//!
//! # Definitions
//!
//! A *delivery* is one sequence of one gateway's log. An *attempt* is one try at it, with an
//! outcome. The numbers below mean the same in `/stats`, `/gateways`, `/events/{id}`,
//! `/deliveries`, its summary, the response to a redrive, and `verify`.
//!
//! | number | definition |
//! |---|---|
//! | *dead* | deliveries that were given up: those in `dead_letters`. A dead delivery is *redriven* once its event was appended again under a new sequence, and *open* before that |
//! | *confirmed* | deliveries at or below the gateway's position that are not dead |
//! | *filtered* | confirmed deliveries that instances of the gateway did not want, and none received: see [`filtered`](super::filtered) |
//! | *delivered* | confirmed deliveries that are not filtered |
//! | *pending* | deliveries above the position and above the log's floor that are not dead |
//! | *failures* | failed attempts, one for each delivery that an attempt covers; those on record or, for `failedDeliveries` in `/stats`, all that ever happened |
//! | dead letters | open dead deliveries of gateways that are not deleted |
//! | lag | a gateway's pending deliveries, and the age of the oldest one: since its event was appended or, for a redrive, since the redrive |
//! | `state` | `failed` if dead, otherwise `delivered`, `filtered` or `pending` |
//! | delivered since | the delivery failed at least once, and its newest redrive (or itself, without one) is delivered |
//!
//! Retention trims deliveries from a log and keeps their record as long as their event is kept: at
//! least as long as a repeated event id is recognised, until the event is trimmed from every
//! gateway's log, and while an open dead letter can be redriven. Such a delivery is returned with
//! `trimmed: true` and its state.
//!
//! Every delivery in a log is exactly one of delivered, filtered, pending and failed. Totals in `/stats`
//! never shrink when retention trims the ledger. The `model` tests check these definitions over
//! random histories on all stores.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::filtered::Filtered;
use super::supersession::Superseded;
use super::{
    Actor, AuditHead, DeliveryFilter, PublishedTarget, Purge, Record, Result, Rollout, RolloutOf,
    StoredKey,
};
use crate::clock::{TimeWindow, Timestamp};
use crate::event::{
    ConnectionId, CorrelationId, Event, EventId, EventType, GatewayId, GatewayKey, OrganisationKey,
    Reason, Sequence,
};

/// Operations on the ledger: delivery attempts, their outcomes, dead letters and totals.
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
    /// How far events have come at the gateways that they are for. Without events if there are
    /// none.
    async fn rollout(&self, organisation: OrganisationKey, of: &RolloutOf) -> Result<Rollout>;
    /// A page of failed deliveries.
    async fn failed_deliveries(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage>;
    /// A page of the deliveries that have an attempt in the window, whatever its outcome, and are in a
    /// state, or in any; each once, at its newest attempt that matches, newest first. The filter must
    /// not name an event or a correlation id.
    async fn deliveries_by_outcome(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        state: Option<DeliveryState>,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage>;
    /// A page of the deliveries in a state, or in any, by gateway and newest first. The window contains
    /// the times at which their events were appended; a reason is ignored.
    async fn deliveries_in_state(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        state: Option<DeliveryState>,
        cursor: Option<DeliveryKey>,
        limit: usize,
    ) -> Result<StatePage>;
    /// Failed attempts in a window, counted per bucket of time and key.
    async fn failure_summary(
        &self,
        organisation: OrganisationKey,
        window: TimeWindow,
        bucket: Duration,
        by: SummaryBy,
    ) -> Result<Vec<SummaryRow>>;
    /// Totals of all deliveries of an organisation.
    async fn totals(&self, organisation: OrganisationKey) -> Result<Totals>;
    /// Appends dead letters again: at most 1,000 per call, found by a bounded search that blocks
    /// no writes. A dry run only counts. `Conflict` if a single delivery is selected and its event's
    /// payload was purged. What is appended is recorded in the
    /// [audit log](super::audit), for each gateway and transaction.
    async fn redrive(
        &self,
        actor: &Actor,
        selection: RedriveSelection,
        dry_run: bool,
    ) -> Result<Redriven>;
}

/// A delivery: a sequence in a gateway's log. Deliveries are ordered by gateway and then by
/// sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "StoredKey", from = "StoredKey")]
pub struct DeliveryKey {
    /// The key by which the store refers to the gateway.
    pub gateway: GatewayKey,
    /// The sequence in the gateway's log.
    pub sequence: Sequence,
}

impl DeliveryKey {
    /// From the columns of a row.
    pub const fn new(gateway: i64, sequence: i64) -> Self {
        Self { gateway: GatewayKey(gateway), sequence: Sequence(sequence) }
    }
}

/// Where the next page begins. `as_of`, the last attempt on record at the first page, makes all
/// pages one snapshot although attempts keep arriving.
///
/// It is stored with the job that counts deliveries: the serialized names are those in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryCursor {
    /// Attempts after this one are ignored.
    pub as_of: i64,
    /// When the attempt of the last row finished, in microseconds.
    pub finished_at: i64,
    /// The attempt of the last row.
    pub attempt: i64,
    /// The sequence of the last row, within the attempt's range.
    pub sequence: i64,
}

/// A delivery's state, derived from the gateway's position, its dead letters, and the attempts of
/// instances that filtered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// Not confirmed yet.
    Pending,
    /// Confirmed by the gateway.
    Delivered,
    /// The gateway's position has passed it, but its instances filtered it: see
    /// [`filtered`](super::filtered).
    Filtered,
    /// The gateway's position has passed it, but a newer event with the same type and collapse key was
    /// sent instead: see [`supersession`](super::supersession).
    Superseded,
    /// Given up: it is a dead letter.
    Failed,
}

impl DeliveryState {
    /// A dead letter is failed regardless of the position. Otherwise the position decides, and what
    /// became of a delivery that an instance has filtered or a newer event has superseded.
    pub fn of(is_dead: bool, is_passed: bool, filtered: Option<&Filtered>) -> Self {
        match (is_dead, is_passed, filtered) {
            (true, _, _) => Self::Failed,
            (false, false, _) => Self::Pending,
            (false, true, Some(it)) if it.is_received => Self::Delivered,
            (false, true, Some(it)) if it.is_superseded => Self::Superseded,
            (false, true, Some(_)) => Self::Filtered,
            (false, true, None) => Self::Delivered,
        }
    }

    /// Whether it is settled without a failure: delivered, filtered or superseded.
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Delivered | Self::Filtered | Self::Superseded)
    }
}

/// How an attempt ended. The names are those of the column `attempts.outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The gateway handled the event.
    Received,
    /// The gateway reported that it applied the event.
    Applied,
    /// It failed.
    Failed,
    /// The gateway filtered it: its type is not among those that the connection requested, or
    /// the connection started after it.
    Filtered,
    /// It could not be delivered, and the gateway has read a snapshot instead.
    Snapshot,
    /// It was not sent, because a newer event with the same type and collapse key superseded it.
    Superseded,
    /// Unknown: another connection confirmed the event in the meantime, the node was lost, or a
    /// newer version recorded an outcome that this one does not know.
    Unknown,
}

impl Outcome {
    /// Its name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Applied => "applied",
            Self::Failed => "failed",
            Self::Filtered => "filtered",
            Self::Snapshot => "snapshot",
            Self::Superseded => "superseded",
            Self::Unknown => "unknown",
        }
    }

    /// The detail of an attempt with an unknown outcome whose connection ended, for this reason, while
    /// the gateway was handling the event. It is not the name of a reason, so the attempt blames no
    /// event.
    pub fn interrupted(reason: Reason) -> String {
        format!("the gateway was handling it: {reason}")
    }

    /// The outcome with a name from the database, which a newer version may have written.
    pub fn stored(name: &str) -> Self {
        let known = [
            Self::Received,
            Self::Applied,
            Self::Failed,
            Self::Filtered,
            Self::Snapshot,
            Self::Superseded,
        ];
        known.into_iter().find(|outcome| outcome.as_str() == name).unwrap_or(Self::Unknown)
    }
}

/// One attempt that covers a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed; only for [`Outcome::Failed`].
    pub reason: Option<Reason>,
    /// Details for people.
    pub detail: Option<String>,
    /// The connection that attempted it, if any.
    pub connection_id: Option<ConnectionId>,
    /// When the event was sent, or found undeliverable.
    pub started_at: Timestamp,
    /// When the outcome was known.
    pub finished_at: Timestamp,
}

/// A delivery with its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// Its sequence in the gateway's log.
    pub sequence: Sequence,
    /// The event's id; `None` once retention has removed the event.
    pub event_id: Option<EventId>,
    /// The event's type; `None` once retention has removed the event.
    pub event_type: Option<EventType>,
    /// The event's correlation id; `None` once retention has removed the event.
    pub correlation_id: Option<CorrelationId>,
    /// When the event was appended under this sequence: for a redrive, when it was redriven. After
    /// retention has removed the record of that redrive, when the event was first appended. `None`
    /// once retention has removed the event.
    pub appended_at: Option<Timestamp>,
    /// Its current state.
    pub state: DeliveryState,
    /// Whether retention has trimmed it from the gateway's log. It is returned as long as its
    /// event, or a failed attempt at it, is kept.
    pub trimmed: bool,
    /// Whether it was delivered after it failed: under this sequence, or as `redriven_as`.
    pub delivered_since: bool,
    /// Whether its event was appended again.
    pub redriven: bool,
    /// Its newest redrive. `None` if it was not redriven, or if an earlier version redrove it and
    /// the log no longer shows the new sequence.
    pub redriven_as: Option<RedrivenAs>,
    /// Failed attempts on record, including those that `attempts` omits.
    pub failures: i64,
    /// When the first of them finished.
    pub first_failure_at: Option<Timestamp>,
    /// When the last of them finished.
    pub last_failure_at: Option<Timestamp>,
    /// Why the last of them failed.
    pub reason: Option<Reason>,
    /// Attempts on record.
    pub attempt_count: i64,
    /// The newest attempts, at most 100, oldest first.
    pub attempts: Vec<Attempt>,
}

/// A redriven delivery under its new sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedrivenAs {
    /// The new sequence in the gateway's log.
    pub sequence: Sequence,
    /// Its current state.
    pub state: DeliveryState,
}

/// The attempts at a delivery: the newest ones, and a summary of all.
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
    /// The sequence of the delivery that superseded it, if one did and the ledger still says so.
    pub fn superseded_by(&self) -> Option<Sequence> {
        let attempts = self.attempts.iter().rev();
        let mut attempts = attempts.filter(|attempt| attempt.outcome == Outcome::Superseded);
        attempts.find_map(|attempt| Superseded::by_of(attempt.detail.as_deref()?))
    }

    /// Sets the attempts, the newest redrive, and what is derived from them.
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

/// A page of a list of deliveries.
#[derive(Clone, Debug)]
pub struct DeliveryPage {
    /// The deliveries.
    pub rows: Vec<Delivery>,
    /// Where the next page begins; `None` after the last. The work per call is bounded, so a page
    /// that is short or even empty may have a next one.
    pub next: Option<DeliveryCursor>,
}

/// A page of deliveries in a state.
#[derive(Clone, Debug)]
pub struct StatePage {
    /// The deliveries.
    pub rows: Vec<Delivery>,
    /// The last delivery that was examined; `None` after the last one of all. The work per call is
    /// bounded, so a page that is short or even empty may have a next one.
    pub next: Option<DeliveryKey>,
}

/// What a summary groups by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SummaryBy {
    /// The reason of the failure.
    Reason,
    /// The gateway.
    Gateway,
    /// The event type.
    Type,
}

/// Number of failed deliveries in one bucket of time with one key. A delivery counts once per
/// failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryRow {
    /// The bucket's start, a multiple of its width since the Unix epoch.
    pub from: Timestamp,
    /// Reason, gateway id or event type. The type is empty once retention has removed the event.
    pub key: String,
    /// The gateway's name, if the summary is by gateway.
    pub gateway_name: Option<String>,
    /// The number of failures.
    pub count: i64,
}

/// A bucket's width in microseconds.
pub fn bucket_width(bucket: Duration) -> i64 {
    i64::try_from(bucket.as_micros()).unwrap_or(i64::MAX).max(1)
}

/// The start of the bucket that contains an instant, in microseconds. Buckets are aligned to the
/// Unix epoch.
pub const fn bucket_start(at: Timestamp, width: i64) -> i64 {
    at.micros() - at.micros().rem_euclid(width)
}

/// An event with the state of its deliveries.
#[derive(Clone, Debug)]
pub struct EventHistory {
    /// The event.
    pub event: Arc<Event>,
    /// When it was appended.
    pub appended_at: Timestamp,
    /// What it was published for; `None` for an event of an earlier version.
    pub target: Option<PublishedTarget>,
    /// How many gateways that selected.
    pub matched: i64,
    /// What older events are [superseded](super::supersession) by, if it was published with a collapse
    /// key. `None` once retention has trimmed it from all logs.
    pub collapse_key: Option<String>,
    /// Its delivery to every gateway; to a gateway to which it was redriven, more than one.
    pub deliveries: Vec<Delivery>,
    /// The purge of its payload, if it was purged.
    pub purged: Option<Purge>,
}

/// Totals of an organisation.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Deliveries that gateways confirmed.
    pub confirmed: i64,
    /// Failed attempts; an attempt counts once for each delivery that it covers.
    pub failed_attempts: i64,
    /// Deliveries given up and not redriven.
    pub dead_letters: i64,
    /// Deliveries not confirmed yet.
    pub pending: i64,
    /// When and why the last attempt failed.
    pub last_failure: Option<(Timestamp, Reason)>,
}

/// Which dead letters to append again.
#[derive(Clone, Debug)]
pub enum RedriveSelection {
    /// One delivery.
    One(GatewayId, Sequence),
    /// All dead letters with a failed attempt that matches, after a cursor.
    Filter(DeliveryFilter, Option<RedriveCursor>),
}

/// How far a redrive by filter has come. It first counts the matching deliveries that need no
/// redrive, and then examines the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RedriveCursor {
    /// Still counting skipped deliveries, newest failure first. Resumes after this cursor.
    Counting(DeliveryCursor),
    /// It has examined the dead letters up to this one, in the order of [`DeliveryKey`].
    DeadLetters(DeliveryKey),
}

/// What one call of a redrive did or, in a dry run, would do. The numbers of all calls, up to the
/// one without a `next`, add up to exact totals.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redriven {
    /// Deliveries that were appended again.
    pub redriven: Vec<RedrivenDelivery>,
    /// Skipped: still pending, and therefore going to be delivered.
    pub pending: i64,
    /// Skipped: delivered or filtered since.
    pub delivered: i64,
    /// Skipped: already redriven.
    pub already_redriven: i64,
    /// Skipped: retention has removed the event.
    pub event_removed: i64,
    /// Skipped: the event's payload was purged.
    pub payload_purged: i64,
    /// Skipped: the event has expired, and would become a dead letter at once.
    pub expired: i64,
    /// Skipped: the gateway is deleted.
    pub gateway_deleted: i64,
    /// Whether more may match. If so, call again with `next`.
    pub more: bool,
    /// Where the next call continues. The work per call is bounded, so a call that finds nothing
    /// may have a next one.
    pub next: Option<RedriveCursor>,
}

impl Redriven {
    /// Adds what a part of the call did and skipped.
    pub fn add(&mut self, part: Self) {
        self.redriven.extend(part.redriven);
        self.pending += part.pending;
        self.delivered += part.delivered;
        self.already_redriven += part.already_redriven;
        self.event_removed += part.event_removed;
        self.payload_purged += part.payload_purged;
        self.expired += part.expired;
        self.gateway_deleted += part.gateway_deleted;
    }
}

/// One delivery that was appended again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedrivenDelivery {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The event.
    pub event_id: EventId,
    /// The sequence of the dead letter.
    pub sequence: Sequence,
    /// The new sequence; `None` in a dry run.
    pub new_sequence: Option<Sequence>,
}

/// What a verification counted and found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Gateways, including deleted ones.
    pub gateways: i64,
    /// Events in the log.
    pub events: i64,
    /// Deliveries in the log.
    pub deliveries: i64,
    /// Rows of the ledger.
    pub attempts: i64,
    /// Dead letters in all organisations, as [defined](self#what-is-counted): in
    /// deliveries, not redriven, of gateways that are not deleted.
    pub dead_letters: i64,
    /// Rows in the inbox.
    pub inbox: i64,
    /// Rejected rows that were not put back into the inbox.
    pub rejected: i64,
    /// Records of the audit log.
    pub audit_records: i64,
    /// The newest record of the audit log. A copy that is kept elsewhere proves later that no record
    /// up to it was replaced or removed.
    pub audit_head: AuditHead,
    /// The last record that retention has removed: the older ones are not checked.
    pub audit_removed: i64,
    /// Each inconsistency with its gateway and sequences; empty if there is none.
    pub problems: Vec<String>,
}
