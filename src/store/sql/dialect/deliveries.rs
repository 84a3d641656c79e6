//! The states of deliveries, the attempts at them, and counts of failures.

use crate::clock::{TimeWindow, Timestamp};
use crate::event::{
    ConnectionId, CorrelationId, EventId, EventType, GatewayId, GatewayKey, OrganisationKey,
    Reason, Sequence,
};
use crate::store::filtered::InstanceAttempt;
use crate::store::{DeliveryKey, Outcome, Result, SummaryBy};

/// The states of deliveries, the attempts at them, and counts of failures.
pub(crate) trait DeliveryStatements {
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
