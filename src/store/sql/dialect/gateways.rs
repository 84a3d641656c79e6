//! Gateways.

use std::collections::BTreeSet;

use crate::clock::Timestamp;
use crate::event::{Epoch, GatewayId, GatewayKey, OrganisationKey, Reason, Sequence};
use crate::store::{Labels, Result};

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
    async fn gateway_details(
        &mut self,
        gateways: &[GatewayKey],
        manifests: Manifests,
    ) -> Result<Vec<GatewayRow>>;
}

/// Whether to read the manifests of gateways, which may be large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manifests {
    Read,
    Omit,
}

/// A gateway's row, before its JSON is parsed.
pub(crate) struct GatewayRow {
    pub(crate) gateway: GatewayKey,
    pub(crate) id: GatewayId,
    pub(crate) name: String,
    pub(crate) labels: String,
    pub(crate) confirmation: String,
    pub(crate) replicas: i64,
    pub(crate) created_at: Timestamp,
    pub(crate) disabled_at: Option<Timestamp>,
    pub(crate) paused_at: Option<Timestamp>,
    pub(crate) paused_by: Option<String>,
    pub(crate) pause_reason: Option<String>,
    pub(crate) manifest: Option<String>,
    pub(crate) manifest_at: Option<Timestamp>,
    pub(crate) epoch: Epoch,
    pub(crate) head: Sequence,
    pub(crate) floor: Sequence,
    pub(crate) confirmed: Sequence,
    pub(crate) pending: i64,
    pub(crate) oldest_pending_at: Option<Timestamp>,
    pub(crate) live: i64,
    pub(crate) connected_since: Option<Timestamp>,
    pub(crate) left_at: Option<Timestamp>,
    pub(crate) left_reason: Option<Reason>,
    pub(crate) failing_since: Option<Timestamp>,
    pub(crate) failing_reason: Option<Reason>,
    pub(crate) failing_count: i64,
    pub(crate) last_failure_at: Option<Timestamp>,
    pub(crate) last_failure_reason: Option<Reason>,
    pub(crate) last_receipt_at: Option<Timestamp>,
    pub(crate) refused_at: Option<Timestamp>,
    pub(crate) refused_code: Option<String>,
    pub(crate) refused_cause: Option<String>,
    pub(crate) refused_address: Option<String>,
}

/// A gateway selected by its id.
pub(crate) struct GatewayById {
    pub(crate) organisation: OrganisationKey,
    pub(crate) id: GatewayId,
    pub(crate) gateway: GatewayKey,
}

/// A gateway selected by labels.
pub(crate) struct GatewayByLabels {
    pub(crate) gateway: GatewayKey,
    pub(crate) id: GatewayId,
}
