//! Searches with a filter of deliveries.

use crate::clock::Timestamp;
use crate::event::{GatewayKey, OrganisationKey};
use crate::store::{DeliveryFilter, DeliveryKey, DeliveryState, Result, TimedKey};

/// Searches with a filter of deliveries. No other trait has statements with its conditions, so a new
/// condition changes one file for each database.
pub(crate) trait DeliveryFilterStatements {
    /// Failed attempts, or all of them, at or before a position (finish time and key), newest first.
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
    /// Those of these deliveries whose event exists and meets the filter's
    /// [conditions on events](DeliveryFilter::selects_events), in no order.
    async fn deliveries_with_events(
        &mut self,
        matching: &Matching,
        keys: &[DeliveryKey],
    ) -> Result<Vec<DeliveryKey>>;
    /// Failed deliveries of the events that the filter names, after `start`, newest failure
    /// first, each at its newest failure that matches.
    async fn failures_of_events(
        &mut self,
        matching: &Matching,
        as_of: i64,
        start: ScanPosition,
        limit: i64,
    ) -> Result<Vec<Failure>>;
    /// Deliveries to gateways that are not deleted, of the events that the filter names, after `after`,
    /// in order.
    async fn deliveries_of_events(
        &mut self,
        matching: &Matching,
        after: DeliveryKey,
        limit: i64,
    ) -> Result<Vec<DeliveryKey>>;
    /// Deliveries of the events that the filter names and that were appended in its window, before a
    /// position, in descending order.
    async fn deliveries_named(
        &mut self,
        matching: &Matching,
        before: DeliveryKey,
        limit: i64,
    ) -> Result<Vec<DeliveryKey>>;
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

/// A position in the order of the result. What follows it is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ScanPosition {
    pub(crate) finished_at: Timestamp,
    pub(crate) attempt: i64,
    pub(crate) sequence: i64,
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

/// A delivery at its newest failure that matches.
pub(crate) struct Failure {
    pub(crate) gateway: i64,
    pub(crate) sequence: i64,
    pub(crate) attempt: i64,
    pub(crate) finished_at: Timestamp,
}
