//! Queries of deliveries and of failed attempts.

use crate::clock::{TimeWindow, Timestamp};
use crate::event::{
    ConnectionId, CorrelationId, EventId, EventType, GatewayId, GatewayKey, OrganisationKey,
    Reason, Sequence,
};
use crate::store::filtered::InstanceAttempt;
use crate::store::{
    DeliveryFilter, DeliveryKey, DeliveryState, Outcome, Result, SummaryBy, TimedKey,
};

/// Queries of deliveries and of failed attempts.
pub(crate) trait DeliveryStatements {
    /// Failed attempts, or all of them, at or before a place (finish time and key), newest first.
    /// Reads failed ones along the index of the filter's gateway or reason, and marks the rows that
    /// match.
    async fn failed_attempts(
        &mut self,
        matching: &Matching,
        as_of: i64,
        before: TimedKey,
        limit: i64,
    ) -> Result<Vec<Failed>>;
    /// Failed attempts, or all of them, that match and cover exactly one of these deliveries.
    async fn failures_at(
        &mut self,
        matching: &Matching,
        as_of: i64,
        keys: &[DeliveryKey],
    ) -> Result<Vec<Covering>>;
    /// Failed attempts, or all of them, that match and cover more than one delivery, some of them in these parts
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
    /// The outcomes of each instance at each of these deliveries, without failed and unknown ones.
    async fn outcomes_at(&mut self, keys: &[DeliveryKey]) -> Result<Vec<InstanceAttempt>>;
    /// The newest delivery before a sequence for which a filtered or superseded attempt is on record, or
    /// a later one for which there is one.
    async fn newest_filtered(
        &mut self,
        gateway: GatewayKey,
        before: Sequence,
    ) -> Result<Option<Sequence>>;
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

/// A position in the order of the result. What follows it is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) finished_at: Timestamp,
    pub(crate) attempt: i64,
    pub(crate) sequence: i64,
}

/// A filter with the key of its gateway.
pub(crate) struct Matching {
    pub(crate) organisation: OrganisationKey,
    pub(crate) gateway: Option<GatewayKey>,
    pub(crate) filter: DeliveryFilter,
    /// Which attempts the window selects.
    pub(crate) outcomes: Outcomes,
}

/// Which attempts select deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcomes {
    /// Failed ones.
    Failed,
    /// All, of deliveries that are in this state now.
    Any(Option<DeliveryState>),
}

/// An attempt at a delivery, with aggregates over all attempts at it.
pub(crate) struct AttemptRow {
    pub(crate) gateway: i64,
    pub(crate) sequence: i64,
    pub(crate) outcome: Outcome,
    pub(crate) reason: Option<Reason>,
    pub(crate) detail: Option<String>,
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) started_at: Timestamp,
    pub(crate) finished_at: Timestamp,
    pub(crate) attempts: i64,
    pub(crate) failures: i64,
    pub(crate) first_failure_at: Option<Timestamp>,
    pub(crate) last_failure_at: Option<Timestamp>,
    pub(crate) last_reason: Option<Reason>,
}

/// The columns that a delivery's state is derived from.
#[expect(clippy::struct_excessive_bools, reason = "columns of a row")]
pub(crate) struct StandingRow {
    pub(crate) gateway: i64,
    pub(crate) sequence: i64,
    pub(crate) gateway_id: GatewayId,
    pub(crate) gateway_name: String,
    pub(crate) gateway_deleted: bool,
    pub(crate) event_id: Option<EventId>,
    pub(crate) event_type: Option<EventType>,
    pub(crate) correlation_id: Option<CorrelationId>,
    pub(crate) appended_at: Option<Timestamp>,
    pub(crate) floor: i64,
    pub(crate) confirmed: i64,
    pub(crate) dead: bool,
    pub(crate) redriven: bool,
    pub(crate) redriven_as: Option<i64>,
    /// Whether an instance has filtered it or a newer event has superseded it.
    pub(crate) filtered: bool,
}

impl StandingRow {
    /// Whether the gateway's position, or retention, has passed it.
    pub(crate) fn is_passed(&self) -> bool {
        self.sequence <= self.confirmed.max(self.floor)
    }
}

/// A delivery at its newest failure that matches.
pub(crate) struct Failure {
    pub(crate) gateway: i64,
    pub(crate) sequence: i64,
    pub(crate) attempt: i64,
    pub(crate) finished_at: Timestamp,
}

/// A failed attempt that matches the filter.
pub(crate) struct Covering {
    pub(crate) attempt: i64,
    pub(crate) gateway: i64,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) finished_at: Timestamp,
}

/// Sequences `first..=last` of a gateway, and the lowest first sequence of an attempt that may
/// cover any of them.
#[derive(Clone, Copy)]
pub(crate) struct Within {
    pub(crate) gateway: i64,
    pub(crate) lowest: i64,
    pub(crate) first: i64,
    pub(crate) last: i64,
}

/// A failed attempt read by the scan.
pub(crate) struct Failed {
    pub(crate) attempt: i64,
    pub(crate) gateway: i64,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) finished_at: Timestamp,
    pub(crate) matches: bool,
}

/// A time window that begins with a bucket, and the width of a bucket in microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Buckets {
    pub(crate) window: TimeWindow,
    pub(crate) width: i64,
}

/// Number of deliveries in one bucket with one key.
pub(crate) struct Tally {
    pub(crate) nth: i64,
    pub(crate) key: String,
    /// The gateway's name, if the count is by gateway; otherwise empty.
    pub(crate) name: String,
    pub(crate) count: i64,
}
