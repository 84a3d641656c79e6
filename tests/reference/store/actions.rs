//! Corrective actions on one gateway or one event.

use std::sync::Arc;

use async_trait::async_trait;
use gateway_events::clock::Timestamp;
use gateway_events::event::{
    Event, EventId, GatewayId, GatewayKey, OrganisationKey, Reason, Sequence,
};
use gateway_events::store::audit::entries;
use gateway_events::store::{
    Actions, Actor, Audited, Conflict, DeliveryState, Gateway, Pause, PauseChange, Purge, Purged,
    Range, Result, ResyncChange, ResyncRequest, Skipped, StoreError, StreamChanges, TimedKey,
};
use gateway_events::wake::Control;
use serde_json::value::RawValue;

use super::MemoryStore;
use super::ledger::{Ended, How};
use super::tables::Tables;

#[async_trait]
impl Actions for MemoryStore {
    async fn pause_gateway(
        &self,
        actor: &Actor,
        id: GatewayId,
        reason: Option<&str>,
        dry_run: bool,
    ) -> Result<PauseChange> {
        self.audited_then(
            actor,
            |tables, now| tables.pause(now, actor, id, reason, dry_run),
            |done| self.changed(done.control.map(|control| (done.gateway.key, control))),
        )
        .await
    }

    async fn resume_gateway(
        &self,
        actor: &Actor,
        id: GatewayId,
        dry_run: bool,
    ) -> Result<PauseChange> {
        self.audited_then(
            actor,
            |tables, now| tables.resume(now, actor.organisation, id, dry_run),
            |done| {
                self.changed(done.control.map(|control| (done.gateway.key, control)));
                self.request_sweep(done.control.map(|_| done.gateway.key));
            },
        )
        .await
    }

    async fn skip_delivery(
        &self,
        actor: &Actor,
        id: GatewayId,
        sequence: Sequence,
        reason: &str,
        dry_run: bool,
    ) -> Result<Skipped> {
        self.audited_then(
            actor,
            |tables, now| tables.skip(now, actor, (id, sequence), reason, dry_run),
            |done| self.changed(done.control.map(|control| (done.key, control))),
        )
        .await
    }

    async fn request_resync(
        &self,
        actor: &Actor,
        id: GatewayId,
        request: &ResyncRequest,
        dry_run: bool,
    ) -> Result<ResyncChange> {
        let work =
            |tables: &mut Tables, now| tables.request_resync(now, actor, id, request, dry_run);
        self.audited(actor, work).await
    }

    async fn purge_event(
        &self,
        actor: &Actor,
        id: &EventId,
        reason: &str,
        dry_run: bool,
    ) -> Result<Purged> {
        self.audited_then(
            actor,
            |tables, now| tables.purge(now, actor, id, reason, dry_run),
            |done| self.changed(done.controls.iter().copied()),
        )
        .await
    }

    async fn stream_changes(&self, after: TimedKey, limit: usize) -> Result<StreamChanges> {
        let as_of = (self.database.0.clock)();
        self.read(|tables| {
            let all = tables.gateways.iter().filter_map(|(key, row)| {
                let at = row.stream.revised_at?;
                Some((TimedKey { at, key: key.0 }, (*key, row.control())))
            });
            let mut all: Vec<_> = all.filter(|(place, _)| *place > after).collect();
            all.sort_unstable_by_key(|(place, _)| *place);
            all.truncate(limit);
            let next = all.last().filter(|_| all.len() == limit).map(|(place, _)| *place);
            let changed = all.into_iter().map(|(_, changed)| changed).collect();
            Ok(StreamChanges { as_of, changed, next })
        })
        .await
    }
}

impl MemoryStore {
    /// Notifies the lanes of all nodes.
    fn changed(&self, controls: impl IntoIterator<Item = (GatewayKey, Control)>) {
        for (gateway, control) in controls {
            for wake in self.database.nodes().values() {
                wake.changed(gateway, control);
            }
        }
    }
}

impl Tables {
    fn existing(
        &self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Gateway> {
        self.gateway(now, organisation, id)?.ok_or(StoreError::NotFound("gateway"))
    }

    fn revise(&mut self, now: Timestamp, gateway: GatewayKey) -> Result<Control> {
        let stream = self.stream(gateway)?;
        stream.revision += 1;
        stream.revised_at = Some(now);
        Ok(self.gateway_row(gateway)?.control())
    }

    fn pause(
        &mut self,
        now: Timestamp,
        actor: &Actor,
        id: GatewayId,
        reason: Option<&str>,
        dry_run: bool,
    ) -> Result<Audited<PauseChange>> {
        let gateway = self.existing(now, actor.organisation, id)?;
        let changed = gateway.paused.is_none();
        if dry_run || !changed {
            return Ok(Audited::new(PauseChange { changed, gateway, control: None }, []));
        }
        let by = actor.principal.name.clone();
        let pause = Pause { at: now, by, reason: reason.map(str::to_owned) };
        if let Some(row) = self.gateways.get_mut(&gateway.key) {
            row.paused = Some(pause);
        }
        let control = Some(self.revise(now, gateway.key)?);
        let gateway = self.existing(now, actor.organisation, id)?;
        let entry = entries::gateway_paused(&gateway);
        Ok(Audited::new(PauseChange { changed, gateway, control }, [entry]))
    }

    fn resume(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: GatewayId,
        dry_run: bool,
    ) -> Result<Audited<PauseChange>> {
        let before = self.existing(now, organisation, id)?;
        let changed = before.paused.is_some();
        if dry_run || !changed {
            return Ok(Audited::new(PauseChange { changed, gateway: before, control: None }, []));
        }
        if let Some(row) = self.gateways.get_mut(&before.key) {
            row.paused = None;
        }
        let control = Some(self.revise(now, before.key)?);
        let gateway = self.existing(now, organisation, id)?;
        let entry = entries::gateway_resumed(&before);
        Ok(Audited::new(PauseChange { changed, gateway, control }, [entry]))
    }

    fn skip(
        &mut self,
        now: Timestamp,
        actor: &Actor,
        (id, sequence): (GatewayId, Sequence),
        reason: &str,
        dry_run: bool,
    ) -> Result<Audited<Skipped>> {
        const MISSING: StoreError = StoreError::NotFound("delivery");
        let gateway = self.existing(now, actor.organisation, id)?;
        let key = gateway.key;
        if !(Sequence(1)..=gateway.head).contains(&sequence) {
            return Err(MISSING);
        }
        let changed = match self.dead_letter_at((key, sequence.0)).map(|(_, letter)| letter.reason)
        {
            Some(Reason::Skipped) => false,
            Some(reason) => return Err(Conflict::GivenUp { sequence, reason }.into()),
            None => match self.standing((key, sequence.0))?.state {
                DeliveryState::Pending if sequence > gateway.floor => true,
                DeliveryState::Pending => return Err(MISSING),
                _ => return Err(Conflict::Delivered(sequence).into()),
            },
        };
        let range = Range { first: sequence, last: sequence };
        let delivery = self.named(&[(key, range)])?.pop().ok_or(MISSING)?;
        if dry_run || !changed {
            return Ok(Audited::new(Skipped { key, changed, delivery, control: None }, []));
        }
        let detail = Skipped::detail(&actor.principal.name, reason);
        self.write_attempts(&Ended {
            gateway: key,
            connection: None,
            range,
            how: How::Failed(Reason::Skipped, &detail),
            started_at: now,
            finished_at: now,
        })?;
        self.dead_letter(key, range, Reason::Skipped, now)?;
        self.skipped.insert((key, sequence.0));
        self.superseded.remove(&(key, sequence.0));
        let control = Some(self.revise(now, key)?);
        let entry = entries::delivery_skipped(&gateway, sequence, delivery.events.first(), reason);
        Ok(Audited::new(Skipped { key, changed, delivery, control }, [entry]))
    }

    fn purge(
        &mut self,
        now: Timestamp,
        actor: &Actor,
        id: &EventId,
        reason: &str,
        dry_run: bool,
    ) -> Result<Audited<Purged>> {
        const MISSING: StoreError = StoreError::NotFound("event");
        let organisation = actor.organisation;
        let event = *self.event_keys.get(&(organisation, id.clone())).ok_or(MISSING)?;
        let row = self.events.get(&event).ok_or(MISSING)?;
        if let Some(purge) = row.purged.clone() {
            let (given_up, controls) = (Vec::new(), Vec::new());
            return Ok(Audited::new(Purged { changed: false, purge, given_up, controls }, []));
        }
        let by = actor.principal.name.clone();
        let purge = Purge { at: now, by, reason: reason.to_owned() };
        let own: Vec<_> =
            self.outbox.iter().filter(|(_, of)| **of == event).map(|(key, _)| *key).collect();
        let pending = own.iter().filter(|key| self.can_expire(**key)).map(|(gateway, sequence)| {
            let sequence = Sequence(*sequence);
            (*gateway, Range { first: sequence, last: sequence })
        });
        let pending: Vec<(GatewayKey, Range)> = pending.collect();
        let given_up = self.named(&pending)?;
        if dry_run {
            let purged = Purged { changed: true, purge, given_up, controls: Vec::new() };
            return Ok(Audited::new(purged, []));
        }
        let row = self.events.get_mut(&event).ok_or(MISSING)?;
        let payload = RawValue::from_string("{}".to_owned());
        let payload = payload.map_err(|error| StoreError::Corrupt(error.to_string()))?;
        row.event = Arc::new(Event { payload, ..Event::clone(&row.event) });
        (row.artifact_id, row.deployment_id) = (None, None);
        row.purged = Some(purge.clone());
        let event_type = row.event.event_type.clone();
        let organisations = &self.organisations;
        let rejected = self.rejected.values_mut().filter(|row| {
            let content = &row.row.content;
            organisations.get(&content.organisation) == Some(&organisation)
                && content.event_id.as_deref() == Some(id.as_str())
        });
        for row in rejected {
            "{}".clone_into(&mut row.row.content.payload);
            if row.rejection.detail.starts_with("payload") {
                Purge::DETAIL.clone_into(&mut row.rejection.detail);
            }
            row.version += 1;
        }
        for (gateway, range) in &pending {
            self.write_attempts(&Ended {
                gateway: *gateway,
                connection: None,
                range: *range,
                how: How::Failed(Reason::Purged, ""),
                started_at: now,
                finished_at: now,
            })?;
            self.dead_letter(*gateway, *range, Reason::Purged, now)?;
        }
        let mut gateways: Vec<GatewayKey> = own.into_iter().map(|(gateway, _)| gateway).collect();
        gateways.dedup();
        let mut controls = Vec::new();
        for gateway in gateways {
            controls.push((gateway, self.revise(now, gateway)?));
        }
        let entry = entries::event_purged(id, &event_type, reason, pending.len());
        Ok(Audited::new(Purged { changed: true, purge, given_up, controls }, [entry]))
    }
}
