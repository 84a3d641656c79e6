//! What gateways report about deployments, whichever way it travels.

use serde::Deserialize;

use crate::clock::Timestamp;

/// What was to happen to a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentAction {
    /// To be deployed.
    Deploy,
    /// To be undeployed.
    Undeploy,
}

impl DeploymentAction {
    /// The last segment of the event types that ask for it.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Deploy => "deployed",
            Self::Undeploy => "undeployed",
        }
    }
}

/// How a deployment went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentStatus {
    /// Applied.
    Success,
    /// Not applied.
    Failed,
}

/// A gateway's report on one deployment. It names no event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentReport {
    /// The deployment.
    pub deployment_id: String,
    /// The artifact that was deployed or undeployed.
    pub artifact_id: String,
    /// The artifact's kind, in the gateway's words.
    #[serde(default)]
    pub resource_type: String,
    /// Deploy or undeploy.
    pub action: DeploymentAction,
    /// How it went.
    pub status: DeploymentStatus,
    /// The `performedAt` of the event that it answers; `None` if it is absent or
    /// not a time.
    #[serde(default, deserialize_with = "lenient_time")]
    pub performed_at: Option<Timestamp>,
    /// Why it failed.
    #[serde(default)]
    pub error_code: Option<String>,
}

/// A report with an unreadable time is still a report.
fn lenient_time<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(value)?;
    Ok(text.and_then(|text| Timestamp::parse(&text).ok()))
}
