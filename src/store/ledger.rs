//! What can be asked of the ledger, what a redrive does, and what retention keeps.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, Event, EventId, EventType, GatewayId, Reason, Sequence,
};

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

impl DeliveryState {
    /// A dead letter is failed whatever the cursor says; then the cursor decides.
    pub(super) const fn of(is_dead: bool, is_confirmed: bool) -> Self {
        match (is_dead, is_confirmed) {
            (true, _) => Self::Failed,
            (false, true) => Self::Delivered,
            (false, false) => Self::Pending,
        }
    }
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

impl Delivery {
    /// Fills in the attempts, oldest first, and what follows from them.
    pub(super) fn with(mut self, attempts: Vec<Attempt>) -> Self {
        let failed = |attempt: &&Attempt| attempt.outcome == "failed";
        let last = attempts.iter().rfind(failed);
        self.failures = u32::try_from(attempts.iter().filter(failed).count()).unwrap_or(u32::MAX);
        self.first_failure_at = attempts.iter().find(failed).map(|attempt| attempt.finished_at);
        self.last_failure_at = last.map(|attempt| attempt.finished_at);
        self.reason = last.and_then(|attempt| attempt.reason);
        self.delivered_since = self.failures > 0 && self.state == DeliveryState::Delivered;
        self.attempts = attempts;
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
    /// The bucket's start, aligned to the clock.
    pub from: Timestamp,
    /// Reason, gateway id or type; type is empty once retention has removed the event.
    pub key: String,
    /// The gateway's name, if gateways are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_name: Option<String>,
    /// How many.
    pub count: i64,
}

/// A bucket's width in microseconds.
pub(super) fn bucket_width(bucket: Duration) -> i64 {
    i64::try_from(bucket.as_micros()).unwrap_or(i64::MAX).max(1)
}

/// The beginning of the bucket that an instant lies in, in microseconds: buckets
/// are counted from the epoch.
pub(super) const fn bucket_start(at: Timestamp, width: i64) -> i64 {
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

/// How far a redrive has looked: up to this delivery, which is included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RedriveCursor {
    /// The gateway's inside key.
    pub gateway: i64,
    /// The number in its log.
    pub sequence: i64,
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
    /// Left alone: the event has expired, and would at once be dead again.
    pub expired: i64,
    /// More may match: call again, from `next` on.
    pub more: bool,
    /// Where the next call goes on; the work per call is bounded, so that one
    /// may find nothing and still have a next one.
    #[serde(skip)]
    pub next: Option<RedriveCursor>,
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

/// How long and how much is kept.
#[derive(Clone, Copy, Debug)]
pub struct RetentionLimits {
    /// Confirmed events are kept this long after they were appended; the ledger as long.
    pub max_age: Duration,
    /// Confirmed events kept per gateway at the most.
    pub max_events: i64,
    /// Unconfirmed events are removed after this, and recorded as failed. Rejected
    /// rows of the inbox are kept as long.
    pub hard_max_age: Duration,
    /// Unconfirmed events kept per gateway at the most, likewise.
    pub hard_max_events: i64,
    /// How long the position of an ended unnamed connection is kept.
    pub left_behind: Duration,
    /// Rows looked at per transaction at the most.
    pub batch: i64,
}

/// Where retention goes on. A pass looks at each kind of row once, and what it
/// has looked at and kept is not looked at again by later passes.
#[derive(Clone, Copy, Debug)]
pub struct TrimMark {
    pub(crate) step: TrimStep,
    /// Logs up to this gateway's have been looked at in this pass.
    pub(crate) gateway: i64,
    /// Events up to this one have been looked at: when appended, and its key.
    pub(crate) event: (Timestamp, i64),
    /// Dead letters up to this one: when it died, its gateway and first number.
    pub(crate) letter: (Timestamp, i64, i64),
    /// Some dead letters were kept for a position behind them, which moves: the
    /// next pass looks at all of them again.
    pub(crate) letters_wait: bool,
}

impl Default for TrimMark {
    fn default() -> Self {
        const NEVER: Timestamp = Timestamp::from_micros(i64::MIN);
        Self {
            step: TrimStep::Logs,
            gateway: 0,
            event: (NEVER, 0),
            letter: (NEVER, 0, 0),
            letters_wait: false,
        }
    }
}

/// A kind of row that retention removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrimStep {
    Logs,
    Positions,
    Events,
    Attempts,
    Letters,
    Keys,
    Connections,
    Rejected,
}

impl TrimStep {
    /// The kind after this one; none after the last.
    pub(crate) const fn next(self) -> Option<Self> {
        match self {
            Self::Logs => Some(Self::Positions),
            Self::Positions => Some(Self::Events),
            Self::Events => Some(Self::Attempts),
            Self::Attempts => Some(Self::Letters),
            Self::Letters => Some(Self::Keys),
            Self::Keys => Some(Self::Connections),
            Self::Connections => Some(Self::Rejected),
            Self::Rejected => None,
        }
    }
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
    /// The pass goes on.
    pub more: bool,
}

/// What a verification counted and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
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
