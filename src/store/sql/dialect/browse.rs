//! Browsing events.

use crate::clock::Timestamp;
use crate::event::{CorrelationId, EventId, EventType, GatewayKey, OrganisationKey, Sequence};
use crate::store::{EventFilter, Result, TimedKey};

/// Browsing events. Statements that return [`Examined`] events read them along one
/// index, and mark those that match the whole filter.
pub(crate) trait BrowseStatements {
    /// Events before a position, newest first, along the index of the filter's artifact, or of all
    /// events.
    async fn events_by_age(
        &mut self,
        matching: &EventMatching,
        before: TimedKey,
        limit: i64,
    ) -> Result<Vec<Examined>>;
    /// Events in the log of the filter's gateway before a sequence, by descending sequence.
    async fn events_of_log(
        &mut self,
        matching: &EventMatching,
        before: Sequence,
        limit: i64,
    ) -> Result<Vec<Examined>>;
    /// Events whose ids begin with the filter's prefix and precede a text, by descending id.
    async fn events_by_id(
        &mut self,
        matching: &EventMatching,
        before: &str,
        limit: i64,
    ) -> Result<Vec<Examined>>;
    /// Events of the filter's correlation id or, without one, its deployment, in no order.
    async fn events_named(&mut self, matching: &EventMatching, limit: i64)
    -> Result<Vec<Examined>>;
    /// These events without their payloads, in their order.
    async fn event_summaries(&mut self, events: &[i64]) -> Result<Vec<SummaryRow>>;
}

/// A filter with the key of its gateway.
pub(crate) struct EventMatching {
    pub(crate) organisation: OrganisationKey,
    pub(crate) gateway: Option<GatewayKey>,
    pub(crate) filter: EventFilter,
}

/// An event that a round has examined.
pub(crate) struct Examined {
    pub(crate) event: i64,
    pub(crate) appended_at: Timestamp,
    pub(crate) id: EventId,
    /// Its sequence in the log of the filter's gateway, if that is read; otherwise 0.
    pub(crate) sequence: Sequence,
    /// Whether it repeats a delivery of that log that is kept.
    pub(crate) is_repeat: bool,
    /// Whether it was appended before the window, as everything that follows.
    pub(crate) is_past: bool,
    pub(crate) matches: bool,
}

/// The columns of a summary.
pub(crate) struct SummaryRow {
    pub(crate) id: EventId,
    pub(crate) event_type: EventType,
    pub(crate) correlation_id: CorrelationId,
    pub(crate) user_id: Option<String>,
    pub(crate) occurred_at: Timestamp,
    pub(crate) appended_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) artifact_id: Option<String>,
    pub(crate) deployment_id: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) matched: i64,
    /// Ids of gateways, separated by commas, if the target is gateways.
    pub(crate) gateways: Option<String>,
}
