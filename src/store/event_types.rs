//! Registered event types.

use async_trait::async_trait;

use super::{Actor, Result};
use crate::event::{EventType, OrganisationKey};

pub use crate::event_types::EventTypeInfo;

/// Operations on event types. The built-in types are part of every organisation. A registered
/// type of the same name replaces the description, and its schema adds to the built-in one.
#[async_trait]
pub trait EventTypes: Send + Sync + 'static {
    /// All types of an organisation, by name.
    async fn event_types(&self, organisation: OrganisationKey) -> Result<Vec<EventTypeInfo>>;
    /// One type; `None` if it is neither registered nor built in.
    async fn event_type(
        &self,
        organisation: OrganisationKey,
        name: &EventType,
    ) -> Result<Option<EventTypeInfo>>;
    /// Registers or replaces a type, and records what changed in the [audit log](super::audit).
    /// Returns true if none of that name was registered.
    async fn put_event_type(&self, actor: &Actor, info: &EventTypeInfo) -> Result<bool>;
    /// Deletes a registered type, and records that in the audit log. A built-in type of the same
    /// name is in force again. A conflict if only the built-in one exists; `NotFound` if none does.
    async fn delete_event_type(&self, actor: &Actor, name: &EventType) -> Result<()>;
}
