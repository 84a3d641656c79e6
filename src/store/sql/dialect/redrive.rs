//! Dead letters to append again.

use crate::clock::Timestamp;
use crate::event::{EventId, GatewayId, GatewayKey, OrganisationKey};
use crate::store::{DeliveryKey, Result};

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
    /// Those of these deliveries that are dead letters and not redriven, in order. The event is
    /// missing if retention has removed it.
    async fn open_deliveries(&mut self, keys: &[DeliveryKey]) -> Result<Vec<Candidate>>;
}

/// A dead letter that was not redriven, the range that contains it, and its event, if that is kept.
pub(crate) struct Candidate {
    pub(crate) gateway: GatewayKey,
    pub(crate) gateway_id: GatewayId,
    pub(crate) gateway_name: String,
    pub(crate) sequence: i64,
    pub(crate) range_first: i64,
    pub(crate) event: Option<i64>,
    pub(crate) event_id: Option<EventId>,
    pub(crate) expires_at: Option<Timestamp>,
    /// Whether a replay or a resend appended it, or a redrive of such a delivery.
    pub(crate) appended_again: bool,
    pub(crate) is_purged: bool,
}

/// A range of dead letters, and whether it belongs to the organisation.
pub(crate) struct DeadRange {
    pub(crate) gateway: i64,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) matches: bool,
}
