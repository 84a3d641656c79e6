//! Gateways.

use std::time::Duration;

use async_trait::async_trait;
use gateway_events::clock::Timestamp;
use gateway_events::event::{Epoch, GatewayId, GatewayKey, OrganisationKey, Reason, Sequence};
use gateway_events::store::audit::entries;
use gateway_events::store::{
    Actor, Audited, Confirmation, Conflict, Deleted, Fleet, Gateway, GatewayChange, GatewayFilter,
    GatewayLag, Gateways, Labels, LastRefusal, NotedRefusal, Range, Result, StoreError,
    VerdictState,
};
use serde_json::value::RawValue;

use super::MemoryStore;
use super::ledger::{Ended, How};
use super::tables::{ConnectionRow, Cursor, GatewayRow, Key, Stream, Tables, next};

const MISSING: StoreError = StoreError::NotFound("gateway");

#[async_trait]
impl Gateways for MemoryStore {
    async fn create_gateway(
        &self,
        actor: &Actor,
        id: GatewayId,
        name: &str,
        labels: &Labels,
        replicas: i64,
    ) -> Result<Gateway> {
        self.audited(actor, |tables, now| {
            let done =
                tables.create_gateway(now, actor.organisation, id, name, labels, replicas)?;
            tables.note_state(now, done.value.key, &actor.principal.name);
            Ok(done)
        })
        .await
    }

    async fn gateways(
        &self,
        organisation: OrganisationKey,
        filter: &GatewayFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Gateway>> {
        let now = (self.database.0.clock)();
        self.read(|tables| tables.list_gateways(now, organisation, filter, after, limit)).await
    }

    async fn gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Option<Gateway>> {
        let now = (self.database.0.clock)();
        self.read(|tables| tables.gateway(now, organisation, id)).await
    }

    async fn update_gateway(
        &self,
        actor: &Actor,
        id: GatewayId,
        change: GatewayChange,
    ) -> Result<Gateway> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, now| {
            let done = tables.update_gateway(now, organisation, id, change)?;
            tables.note_state(now, done.value.key, &actor.principal.name);
            Ok(done)
        })
        .await
    }

    async fn delete_gateway(&self, actor: &Actor, id: GatewayId) -> Result<Deleted> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, now| {
            let done = tables.delete_gateway(now, organisation, id)?;
            tables.note_state(now, done.value.key, &actor.principal.name);
            Ok(done)
        })
        .await
    }

    async fn fleet(&self, furthest: usize) -> Result<Fleet> {
        let now = (self.database.0.clock)();
        self.read(|tables| tables.fleet(now, furthest)).await
    }

    async fn set_manifest(&self, gateway: GatewayKey, manifest: &str) -> Result<()> {
        self.write(|tables, now| tables.set_manifest(now, gateway, manifest)).await
    }

    fn note_refusal(&self, gateway: GatewayKey, refusal: NotedRefusal) {
        let now = (self.database.0.clock)();
        if self.check_open().is_ok() {
            self.database.tables().note_refusal(now, gateway, refusal);
        }
    }
}

impl Tables {
    pub(super) fn create_gateway(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: GatewayId,
        name: &str,
        labels: &Labels,
        replicas: i64,
    ) -> Result<Audited<Gateway>> {
        self.refuse_taken_name(organisation, name, None)?;
        if self.gateways.values().any(|row| row.id == id) {
            return Err(Conflict::GatewayId(id).into());
        }
        let key = GatewayKey(next(&mut self.last.gateway));
        let stream = Stream {
            confirmation: Confirmation::Any,
            // Unique, because an id is never reused.
            epoch: Epoch(id.0),
            head: 0,
            floor: 0,
            missed: 0,
            confirmed_total: 0,
            failed_total: 0,
            dead_total: 0,
            last_failure: None,
            reported: 0,
            failing: None,
            left: None,
            attended: 0,
            revision: 0,
            revised_at: None,
        };
        let row = GatewayRow {
            id,
            organisation,
            name: name.to_owned(),
            labels: labels.clone(),
            replicas,
            created_at: now,
            disabled_at: None,
            paused: None,
            deleted_at: None,
            manifest: None,
            last_refusal: None,
            history: Vec::new(),
            stream,
        };
        self.gateways.insert(key, row);
        let gateway = self.shown(now, key)?;
        let entry = entries::gateway_registered(&gateway);
        Ok(Audited::new(gateway, [entry]))
    }

    pub(super) fn list_gateways(
        &self,
        now: Timestamp,
        organisation: OrganisationKey,
        filter: &GatewayFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Gateway>> {
        let after = after.unwrap_or_default();
        let begins = |row: &GatewayRow| {
            let prefix = filter.id_prefix.as_ref();
            prefix.is_none_or(|prefix| row.id.to_string().starts_with(prefix.as_str()))
        };
        let wanted = |(_, row): &(&GatewayKey, &GatewayRow)| {
            row.organisation == organisation
                && row.deleted_at.is_none()
                && row.name.as_str() > after
                && filter.name.as_ref().is_none_or(|name| *name == row.name)
                && begins(row)
        };
        let mut found: Vec<_> = self.gateways.iter().filter(wanted).collect();
        found.sort_by_key(|(_, row)| &row.name);
        found.into_iter().take(limit).map(|(key, _)| self.shown(now, *key)).collect()
    }

    pub(super) fn gateway(
        &self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Option<Gateway>> {
        self.live_key(organisation, id).ok().map(|key| self.shown(now, key)).transpose()
    }

    pub(super) fn update_gateway(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: GatewayId,
        change: GatewayChange,
    ) -> Result<Audited<Gateway>> {
        let key = self.live_key(organisation, id)?;
        let before = self.shown(now, key)?;
        if let Some(name) = &change.name {
            self.refuse_taken_name(organisation, name, Some(key))?;
        }
        let row = self.gateways.get_mut(&key).ok_or(MISSING)?;
        if let Some(change) = change.labels {
            row.labels = change.apply(row.labels.clone())?;
        }
        if let Some(name) = change.name {
            row.name = name;
        }
        row.replicas = change.replicas.unwrap_or(row.replicas);
        row.disabled_at = match change.disabled {
            Some(true) => row.disabled_at.or(Some(now)),
            Some(false) => None,
            None => row.disabled_at,
        };
        if let Some(confirmation) = change.confirmation.filter(|it| *it != before.confirmation) {
            row.stream.confirmation = confirmation;
            self.follow_instances(key)?;
        }
        let after = self.shown(now, key)?;
        let entries = entries::gateway_updated(&before, &after);
        Ok(Audited::new(after, entries))
    }

    pub(super) fn note_refusal(
        &mut self,
        now: Timestamp,
        gateway: GatewayKey,
        refusal: NotedRefusal,
    ) {
        if let Some(row) = self.gateways.get_mut(&gateway) {
            let NotedRefusal { code, cause, address } = refusal;
            row.last_refusal = Some(LastRefusal { at: now, code, cause, address });
        }
    }

    pub(super) fn delete_gateway(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Audited<Deleted>> {
        let key = self.live_key(organisation, id)?;
        let before = self.shown(now, key)?;
        let row = self.gateways.get_mut(&key).ok_or(MISSING)?;
        row.deleted_at = Some(now);
        row.stream.missed = row.stream.head;
        let tokens = self.gateway_tokens.values_mut().filter(|token| token.of == key);
        let mut revoked = 0;
        for token in tokens.filter(|token| token.info.revoked_at.is_none()) {
            token.info.revoked_at = Some(now);
            revoked += 1;
        }
        let (head, floor) = (row.stream.head, row.stream.floor);
        let confirmed = self.shown_position(key);
        let first = Sequence(confirmed.max(floor) + 1);
        let range = Range { first, last: Sequence(head) };
        let undelivered = self.not_dead(key, range);
        for range in undelivered.iter().copied() {
            self.write_attempts(&Ended {
                gateway: key,
                connection: None,
                range,
                how: How::Failed(Reason::GatewayDeleted, ""),
                started_at: now,
                finished_at: now,
            })?;
        }
        self.dead_letter(key, range, Reason::GatewayDeleted, now)?;
        let own = (key, String::new());
        let none = Cursor { received: confirmed, updated_at: now, ..Cursor::default() };
        let shared = self.cursors.remove(&own).unwrap_or(none);
        self.remove_resyncs(now, key, None);
        self.cursors.retain(|(gateway, _), _| *gateway != key);
        self.cursors.insert(own, shared);
        let entry = entries::gateway_deleted(&before, &undelivered, revoked);
        let undelivered: Vec<_> = undelivered.into_iter().map(|range| (key, range)).collect();
        Ok(Audited::new(Deleted { key, undelivered: self.named(&undelivered)? }, [entry]))
    }

    pub(super) fn fleet(&self, now: Timestamp, furthest: usize) -> Result<Fleet> {
        let mut fleet = Fleet::default();
        for (key, row) in self.gateways.iter().filter(|(_, row)| row.deleted_at.is_none()) {
            let gateway = self.shown(now, *key)?;
            let is_live = |row: &&ConnectionRow| row.gateway == *key && row.closed.is_none();
            match (row.disabled_at, self.connections.values().any(|row| is_live(&row))) {
                (Some(_), _) => fleet.disabled += 1,
                (None, true) => fleet.connected += 1,
                (None, false) => fleet.away += 1,
            }
            let is_failing = gateway.verdict().state == VerdictState::Failing;
            fleet.failing += u64::from(is_failing);
            let position = gateway.confirmed.max(gateway.floor);
            let events = u64::try_from(gateway.head.0 - position.0).unwrap_or(0);
            fleet.pending += events;
            fleet.dead_letters += u64::try_from(row.stream.dead_total).unwrap_or(0);
            let age = gateway.oldest_pending_at.map_or(Duration::ZERO, |at| now.since(at));
            let (id, name) = (row.id, row.name.clone());
            fleet.furthest_behind.push(GatewayLag { id, name, events, age });
        }
        let rank = |lag: &GatewayLag| (std::cmp::Reverse(lag.events), lag.name.clone());
        fleet.furthest_behind.sort_by_key(rank);
        fleet.furthest_behind.truncate(furthest);
        Ok(fleet)
    }

    pub(super) fn set_manifest(
        &mut self,
        now: Timestamp,
        gateway: GatewayKey,
        manifest: &str,
    ) -> Result<()> {
        let row = self.gateways.get_mut(&gateway).filter(|row| row.deleted_at.is_none());
        row.ok_or(MISSING)?.manifest = Some((manifest.to_owned(), now));
        Ok(())
    }

    /// The key of a gateway that is not deleted.
    pub(super) fn live_key(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<GatewayKey> {
        let key = self.any_key(organisation, id).ok_or(MISSING)?;
        if self.gateway_row(key)?.deleted_at.is_some() { Err(MISSING) } else { Ok(key) }
    }

    /// The key of a gateway, including deleted ones.
    pub(super) fn any_key(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Option<GatewayKey> {
        let found = self.gateways.iter().find(|(_, row)| row.id == id)?;
        (found.1.organisation == organisation).then_some(*found.0)
    }

    fn refuse_taken_name(
        &self,
        organisation: OrganisationKey,
        name: &str,
        except: Option<GatewayKey>,
    ) -> Result<()> {
        let taken = self.gateways.iter().find(|(key, row)| {
            row.organisation == organisation
                && row.name == name
                && row.deleted_at.is_none()
                && Some(**key) != except
        });
        taken.map_or(Ok(()), |(_, row)| {
            Err(Conflict::GatewayName { name: name.to_owned(), by: row.id }.into())
        })
    }

    pub(super) fn shown(&self, now: Timestamp, key: GatewayKey) -> Result<Gateway> {
        let row = self.gateway_row(key)?;
        let confirmed = self.shown_position(key);
        let manifest = row.manifest.clone().map(|(text, at)| {
            let text = RawValue::from_string(text)
                .map_err(|error| StoreError::Corrupt(format!("manifest: {error}")))?;
            Ok::<_, StoreError>((text, at))
        });
        let pending = self.pending(key)?;
        let oldest = pending.first().and_then(|sequence| self.event_at((key, *sequence)));
        let again_at = pending.first().and_then(|sequence| self.again_at((key, *sequence)));
        let live = self.connections.values();
        let live = live.filter(|row| row.gateway == key && row.closed.is_none());
        Ok(Gateway {
            key,
            id: row.id,
            name: row.name.clone(),
            labels: row.labels.clone(),
            replicas: row.replicas,
            confirmation: row.stream.confirmation,
            created_at: row.created_at,
            disabled_at: row.disabled_at,
            paused: row.paused.clone(),
            manifest: manifest.transpose()?,
            last_refusal: row.last_refusal.clone(),
            epoch: row.stream.epoch,
            head: Sequence(row.stream.head),
            floor: Sequence(row.stream.floor),
            confirmed: Sequence(confirmed),
            pending: i64::try_from(pending.len()).unwrap_or(i64::MAX),
            oldest_pending_at: again_at.or_else(|| oldest.map(|row| row.appended_at)),
            live_connections: i64::try_from(self.live_connections(key)).unwrap_or(i64::MAX),
            connected_since: live.map(|row| row.connected_at).min(),
            left: row.stream.left,
            failing: row.stream.failing,
            last_failure: row.stream.last_failure,
            last_receipt_at: self
                .cursors
                .get(&(key, String::new()))
                .map(|own| own.updated_at)
                .filter(|at| *at > Timestamp::default()),
            as_of: now,
        })
    }

    /// Deliveries in a gateway's log that are neither confirmed nor dead.
    pub(super) fn pending(&self, gateway: GatewayKey) -> Result<Vec<i64>> {
        let stream = &self.gateway_row(gateway)?.stream;
        let position = self.shown_position(gateway).max(stream.floor);
        let ahead = position + 1..=stream.head;
        Ok(ahead.filter(|sequence| !self.is_dead((gateway, *sequence))).collect())
    }

    /// When a delivery was appended by a replay, a resend or a redrive; `None` if it was not.
    pub(super) fn again_at(&self, key: Key) -> Option<Timestamp> {
        self.appended_again.get(&key).copied().or_else(|| self.redriven_at(key))
    }

    /// When a delivery was appended by a redrive; `None` if it was not.
    fn redriven_at(&self, (gateway, sequence): Key) -> Option<Timestamp> {
        self.dead_letters
            .range((gateway, 0)..=(gateway, i64::MAX))
            .find(|((_, first), letter)| {
                let new = letter.redriven_first;
                new.is_some_and(|new| (new..=new + letter.last - first).contains(&sequence))
            })
            .and_then(|(_, letter)| letter.redriven_at)
    }
}
