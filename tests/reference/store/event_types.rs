//! Event types.

use std::collections::BTreeMap;

use async_trait::async_trait;
use gateway_events::event::{EventType, OrganisationKey};
use gateway_events::event_types::{built_in, built_ins};
use gateway_events::store::audit::entries;
use gateway_events::store::{
    Actor, Audited, Conflict, EventTypeInfo, EventTypes, Result, StoreError, storable,
};

use super::MemoryStore;
use super::tables::Tables;

#[async_trait]
impl EventTypes for MemoryStore {
    async fn event_types(&self, organisation: OrganisationKey) -> Result<Vec<EventTypeInfo>> {
        self.read(|tables| Ok(tables.list_event_types(organisation))).await
    }

    async fn event_type(
        &self,
        organisation: OrganisationKey,
        name: &EventType,
    ) -> Result<Option<EventTypeInfo>> {
        self.read(|tables| Ok(tables.event_type(organisation, name))).await
    }

    async fn put_event_type(&self, actor: &Actor, info: &EventTypeInfo) -> Result<bool> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, _| Ok(tables.put_event_type(organisation, info))).await
    }

    async fn delete_event_type(&self, actor: &Actor, name: &EventType) -> Result<()> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, _| tables.delete_event_type(organisation, name)).await
    }
}

impl Tables {
    pub(super) fn list_event_types(&self, organisation: OrganisationKey) -> Vec<EventTypeInfo> {
        let mut types: BTreeMap<&str, &EventTypeInfo> =
            built_ins().map(|info| (info.name.as_str(), info)).collect();
        let own = self.event_types.iter().filter(|((of, _), _)| *of == organisation);
        types.extend(own.map(|((_, name), info)| (name.as_str(), info)));
        types.into_values().cloned().collect()
    }

    pub(super) fn event_type(
        &self,
        organisation: OrganisationKey,
        name: &EventType,
    ) -> Option<EventTypeInfo> {
        let own = self.event_types.get(&(organisation, name.as_str().to_owned()));
        own.or_else(|| built_in(name.as_str())).cloned()
    }

    pub(super) fn put_event_type(
        &mut self,
        organisation: OrganisationKey,
        info: &EventTypeInfo,
    ) -> Audited<bool> {
        let mut info = info.clone();
        info.description = storable(&info.description).into_owned();
        let built_in = built_in(&info.name).map(|it| EventTypeInfo { schema: None, ..it.clone() });
        let replaced = self.event_types.insert((organisation, info.name.clone()), info.clone());
        let old = replaced.or(built_in);
        Audited::new(old.is_none(), entries::event_type_put(old.as_ref(), &info))
    }

    pub(super) fn delete_event_type(
        &mut self,
        organisation: OrganisationKey,
        name: &EventType,
    ) -> Result<Audited<()>> {
        match self.event_types.remove(&(organisation, name.as_str().to_owned())) {
            Some(old) => Ok(Audited::new((), [entries::event_type_deleted(&old)])),
            None if built_in(name.as_str()).is_some() => {
                Err(Conflict::BuiltInType(name.clone()).into())
            }
            None => Err(StoreError::NotFound("event type")),
        }
    }
}
