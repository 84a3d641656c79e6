//! Appending.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_events::clock::Timestamp;
use gateway_events::event::{Event, EventId, GatewayId, GatewayKey, OrganisationKey, Sequence};
use gateway_events::store::idempotency::{in_place, named};
use gateway_events::store::limits::MAX_DELIVERIES;
use gateway_events::store::{
    Appended, AppendedDelivery, Idempotency, Labels, NewEvent, Publish, Published, PublishedTarget,
    Refusal, Target, Validated, storable,
};

use super::tables::{EventRow, KeptResponse, Tables, next};

/// The new rows of a log.
pub(super) struct Grown {
    pub(super) gateway: GatewayKey,
    pub(super) head: Sequence,
    pub(super) rows: Vec<(Sequence, Arc<Event>)>,
}

/// The new rows of all logs, while a request is appended.
pub(super) type Growth = BTreeMap<GatewayKey, Vec<(Sequence, Arc<Event>)>>;

pub(super) fn grown(growth: Growth) -> Vec<Grown> {
    let head = |rows: &[(Sequence, _)]| rows.last().map(|(last, _)| *last).unwrap_or_default();
    growth.into_iter().map(|(gateway, rows)| Grown { gateway, head: head(&rows), rows }).collect()
}

impl Tables {
    pub(super) fn append(
        &mut self,
        now: Timestamp,
        publish: &Publish,
        growth: &mut Growth,
    ) -> Published {
        let organisation = publish.organisation;
        if let Some(Idempotency { key, digest }) = &publish.idempotency
            && let Some(kept) = self.responses.get(&(organisation, key.clone()))
        {
            let is_same = kept.digest == *digest;
            return if is_same { in_place(&kept.results, publish) } else { Published::KeyReused };
        }
        let fresh = publish.valid().filter(|new| self.first(organisation, &new.event.id).is_none());
        let deliveries = fresh.map(|new| self.count(organisation, &new.target)).sum();
        if deliveries > MAX_DELIVERIES && publish.events.len() > 1 {
            return Published::TooMany { deliveries, most: MAX_DELIVERIES };
        }
        let items = publish.events.iter();
        let results: Vec<_> =
            items.map(|item| self.append_one(now, organisation, item, growth)).collect();
        if let Some(Idempotency { key, digest }) = &publish.idempotency
            && results.iter().any(std::result::Result::is_ok)
        {
            let kept = KeptResponse { digest: *digest, results: results.clone(), created_at: now };
            self.responses.insert((organisation, key.clone()), kept);
        }
        Published::Done(results)
    }

    fn append_one(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        item: &Validated,
        growth: &mut Growth,
    ) -> std::result::Result<Appended, Refusal> {
        let first = named(item).and_then(|(id, digest)| {
            let (first, appended) = self.first(organisation, id)?;
            Some((first == digest, appended))
        });
        match (first, item) {
            // Repeats are checked before validity: the event was valid when it was first published.
            (Some((true, appended)), _) => Ok(appended),
            (_, Err(invalid)) => Err(Refusal::Invalid(invalid.error.clone())),
            (Some((false, _)), Ok(new)) => Err(Refusal::IdTaken(new.event.id.clone())),
            (None, Ok(new)) => {
                let targets = self.targets(organisation, &new.target)?;
                let event = self.insert_event(now, organisation, new, &targets);
                let mut deliveries = Vec::new();
                for (gateway, gateway_id) in targets {
                    let sequence = self.number(gateway, event, growth);
                    if let Some(collapse) = &new.collapse {
                        let key = collapse.stored().to_owned();
                        self.collapse_keys.insert((gateway, sequence.0), key);
                    }
                    deliveries.push(AppendedDelivery { gateway_id, sequence });
                }
                Ok(Appended { id: new.event.id.clone(), deliveries })
            }
        }
    }

    /// The first result for an id, and the digest of its content.
    pub(super) fn first(
        &self,
        organisation: OrganisationKey,
        id: &EventId,
    ) -> Option<(&[u8; 32], Appended)> {
        let key = self.event_keys.get(&(organisation, id.clone()))?;
        let mut numbers: BTreeMap<GatewayKey, i64> = BTreeMap::new();
        let published = self
            .deliveries()
            .filter(|(place, event)| event == key && !self.appended_again.contains_key(place));
        for ((gateway, sequence), _) in published {
            let first = numbers.entry(gateway).or_insert(sequence);
            *first = sequence.min(*first);
        }
        let deliveries = numbers
            .into_iter()
            .filter_map(|(gateway, sequence)| {
                let gateway_id = self.gateways.get(&gateway)?.id;
                Some(AppendedDelivery { gateway_id, sequence: Sequence(sequence) })
            })
            .collect();
        Some((&self.events.get(key)?.digest, Appended { id: id.clone(), deliveries }))
    }

    /// The number of gateways that a target names or matches.
    pub(super) fn count(&self, organisation: OrganisationKey, target: &Target) -> usize {
        match target {
            Target::Gateways(ids) => ids.len(),
            Target::All => self.labelled(organisation, &Labels::new()).len(),
            Target::Labels(labels) => self.labelled(organisation, labels).len(),
        }
    }

    pub(super) fn targets(
        &self,
        organisation: OrganisationKey,
        target: &Target,
    ) -> std::result::Result<Vec<(GatewayKey, GatewayId)>, Refusal> {
        let ids = match target {
            Target::All => return Ok(self.labelled(organisation, &Labels::new())),
            Target::Labels(labels) => return Ok(self.labelled(organisation, labels)),
            Target::Gateways(ids) => ids,
        };
        let (mut found, mut unknown) = (Vec::new(), Vec::new());
        for (nth, id) in ids.iter().enumerate() {
            match self.live_key(organisation, *id) {
                _ if ids[..nth].contains(id) => {}
                Ok(key) => found.push((key, *id)),
                Err(_) => unknown.push(*id),
            }
        }
        // The order in which a repeat reads them from the log, so that both responses are the same.
        found.sort_unstable();
        if unknown.is_empty() { Ok(found) } else { Err(Refusal::UnknownGateways(unknown)) }
    }

    fn labelled(
        &self,
        organisation: OrganisationKey,
        wanted: &Labels,
    ) -> Vec<(GatewayKey, GatewayId)> {
        let of = self.gateways.iter().filter(|(_, row)| {
            row.organisation == organisation
                && row.deleted_at.is_none()
                && wanted.iter().all(|(name, value)| row.labels.get(name) == Some(value))
        });
        of.map(|(key, row)| (*key, row.id)).collect()
    }

    fn insert_event(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        new: &NewEvent,
        targets: &[(GatewayKey, GatewayId)],
    ) -> i64 {
        let key = next(&mut self.last.event);
        self.event_keys.insert((organisation, new.event.id.clone()), key);
        let text = |id: &Option<String>| id.as_deref().map(|id| storable(id).into_owned());
        let row = EventRow {
            organisation,
            event: Arc::clone(&new.event),
            appended_at: now,
            digest: new.digest,
            artifact_id: text(&new.artifact_id),
            deployment_id: text(&new.deployment_id),
            target: match &new.target {
                Target::Gateways(_) => {
                    PublishedTarget::Gateways(targets.iter().map(|(_, id)| *id).collect())
                }
                Target::All => PublishedTarget::All,
                Target::Labels(labels) => PublishedTarget::Labels(labels.clone()),
            },
            matched: i64::try_from(targets.len()).unwrap_or(i64::MAX),
            purged: None,
        };
        self.events.insert(key, row);
        key
    }

    /// Assigns a log's next sequence to an event.
    pub(super) fn number(
        &mut self,
        gateway: GatewayKey,
        event: i64,
        growth: &mut Growth,
    ) -> Sequence {
        let Some(row) = self.gateways.get_mut(&gateway) else { return Sequence::ZERO };
        let sequence = next(&mut row.stream.head);
        self.outbox.insert((gateway, sequence), event);
        if let Some(row) = self.events.get(&event) {
            let rows = growth.entry(gateway).or_default();
            rows.push((Sequence(sequence), Arc::clone(&row.event)));
        }
        Sequence(sequence)
    }
}
