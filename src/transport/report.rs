//! The payload of gateways' reports on deployments, for any transport.

use serde::Deserialize;
use utoipa::ToSchema;

use super::message;
use crate::clock::Timestamp;

/// What a deployment was to do.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentAction {
    /// To be deployed.
    Deploy,
    /// To be undeployed.
    Undeploy,
}

/// The result of a deployment.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentStatus {
    /// It was applied.
    Success,
    /// It was not applied.
    Failed,
}

/// A gateway's report on one deployment. It contains no event id.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentReport {
    /// The deployment's id.
    pub deployment_id: String,
    /// The id of the artifact that was deployed or undeployed.
    pub artifact_id: String,
    /// The kind of the artifact, as the gateway calls it.
    #[serde(default)]
    pub resource_type: String,
    /// The requested action.
    pub action: DeploymentAction,
    /// Its result.
    pub status: DeploymentStatus,
    /// The `performedAt` of the event that it answers. Ignored if it is not a time.
    #[serde(default, deserialize_with = "lenient_time")]
    pub performed_at: Option<Timestamp>,
    /// Why it failed, such as `GATEWAY_PROCESSING_ERROR`.
    #[serde(default)]
    pub error_code: Option<String>,
}

/// A report with an invalid time is still a report.
fn lenient_time<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(value)?;
    Ok(text.and_then(|text| Timestamp::parse(&text).ok()))
}

impl From<DeploymentReport> for message::DeploymentReport {
    fn from(report: DeploymentReport) -> Self {
        Self {
            deployment_id: report.deployment_id,
            artifact_id: report.artifact_id,
            resource_type: report.resource_type,
            action: match report.action {
                DeploymentAction::Deploy => message::DeploymentAction::Deploy,
                DeploymentAction::Undeploy => message::DeploymentAction::Undeploy,
            },
            status: match report.status {
                DeploymentStatus::Success => message::DeploymentStatus::Success,
                DeploymentStatus::Failed => message::DeploymentStatus::Failed,
            },
            performed_at: report.performed_at,
            error_code: report.error_code,
        }
    }
}
