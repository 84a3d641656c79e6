//! Evidence for a diagnosis.

use std::collections::BTreeSet;

use crate::clock::Timestamp;
use crate::event::{GatewayKey, OrganisationKey};
use crate::store::{FailureDetail, LabelTarget, ReasonTally, Result};

/// Evidence for a diagnosis.
pub(crate) trait DiagnosisStatements {
    /// The newest `limit` failed attempts of a gateway by reason, the last one first.
    async fn failures_by_reason(
        &mut self,
        gateway: GatewayKey,
        limit: i64,
    ) -> Result<Vec<ReasonTally>>;
    /// The newest `limit` ranges of a gateway's open dead letters by reason, the last one first.
    async fn dead_letters_by_reason(
        &mut self,
        gateway: GatewayKey,
        limit: i64,
    ) -> Result<Vec<ReasonTally>>;
    /// The newest detail of each reason among the newest `limit` failed attempts of a gateway.
    async fn newest_details(
        &mut self,
        gateway: GatewayKey,
        limit: i64,
    ) -> Result<Vec<FailureDetail>>;
    /// Those of these labels that other gateways of the organisation have.
    async fn shared_labels(
        &mut self,
        organisation: OrganisationKey,
        gateway: GatewayKey,
        labels: &BTreeSet<(String, String)>,
    ) -> Result<BTreeSet<(String, String)>>;
    /// The newest `limit` events with a target of labels since an instant, newest first, with their
    /// keys. None of them is known to be logged.
    async fn label_targets(
        &mut self,
        organisation: OrganisationKey,
        since: Timestamp,
        limit: i64,
    ) -> Result<Vec<(i64, LabelTarget)>>;
}
