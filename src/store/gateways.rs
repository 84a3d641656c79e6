//! Registered gateways.

use async_trait::async_trait;

use super::{Actor, Deleted, Fleet, Gateway, GatewayChange, Labels, NotedRefusal, Result};
use crate::event::{GatewayId, GatewayIdPrefix, GatewayKey, OrganisationKey};

/// Selects gateways. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayFilter {
    /// Its name.
    pub name: Option<String>,
    /// How its id begins.
    pub id_prefix: Option<GatewayIdPrefix>,
}

/// Operations on gateways. Deleted gateways are not found. Those that take an [`Actor`] record what
/// they change in the [audit log](super::audit).
#[async_trait]
pub trait Gateways: Send + Sync + 'static {
    /// Registers a gateway; `Conflict` if the name is taken or the id was ever used.
    async fn create_gateway(
        &self,
        actor: &Actor,
        id: GatewayId,
        name: &str,
        labels: &Labels,
        replicas: i64,
    ) -> Result<Gateway>;
    /// Gateways that match, by name, after the name `after`.
    async fn gateways(
        &self,
        organisation: OrganisationKey,
        filter: &GatewayFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Gateway>>;
    /// One gateway; `None` if it does not exist.
    async fn gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Option<Gateway>>;
    /// Changes a gateway; `Conflict` if the new name is taken.
    async fn update_gateway(
        &self,
        actor: &Actor,
        id: GatewayId,
        change: GatewayChange,
    ) -> Result<Gateway>;
    /// Deletes a gateway. Revokes its tokens and records its undelivered events as failed
    /// (`gateway_deleted`).
    async fn delete_gateway(&self, actor: &Actor, id: GatewayId) -> Result<Deleted>;
    /// The state of all gateways of all organisations, with the `furthest` that are furthest behind.
    async fn fleet(&self, furthest: usize) -> Result<Fleet>;
    /// Stores the manifest that a gateway sent, in place of the previous one.
    async fn set_manifest(&self, gateway: GatewayKey, manifest: &str) -> Result<()>;
    /// Records a gateway's last refused connection attempt. Returns at once, and skips the record
    /// when the writer's queue is full. The caller limits how often it calls.
    fn note_refusal(&self, gateway: GatewayKey, refusal: NotedRefusal);
}
