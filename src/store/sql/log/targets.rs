//! Resolves the gateways that events are for, inside the appending transaction: every gateway
//! registered before a publish gets its event. A disabled gateway does, too, and reads it when it
//! is enabled.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::dialect::nodes::Locked;
use super::super::dialect::{Connection, GatewayStatements, NodeStatements};

use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, OrganisationKey};
use crate::store::{Labels, Publish, Result, Target};

/// The gateways that the requests of a batch target.
pub(crate) struct Targets {
    named: HashMap<(OrganisationKey, GatewayId), GatewayKey>,
    labelled: HashMap<(OrganisationKey, Labels), Vec<(GatewayKey, GatewayId)>>,
}

impl Targets {
    /// All gateways targeted by any request. May contain duplicates.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = GatewayKey> {
        let labelled = self.labelled.values().flatten().map(|(gateway, _)| *gateway);
        self.named.values().copied().chain(labelled)
    }

    /// Locks these streams, the only ones that the transaction will change, and removes targets
    /// that were deleted before. Returns the time, read while the locks are held.
    pub(crate) async fn lock(
        &mut self,
        conn: &mut Connection,
        touched: &BTreeSet<GatewayKey>,
    ) -> Result<Timestamp> {
        let Locked { now, may_have_changed } = conn.lock_streams(touched).await?;
        let has_targets = self.gateways().next().is_some();
        if !may_have_changed || !has_targets {
            return Ok(now);
        }
        let there = conn.existing_gateways(touched).await?;
        self.named.retain(|_, gateway| there.contains(gateway));
        for found in self.labelled.values_mut() {
            found.retain(|(gateway, _)| there.contains(gateway));
        }
        Ok(now)
    }

    /// The largest number of deliveries that a request may result in.
    pub(crate) fn weight(&self, publish: &Publish) -> usize {
        publish.valid().map(|new| self.count(publish.organisation, &new.target)).sum()
    }

    /// The number of gateways that a target names or matches.
    pub(crate) fn count(&self, organisation: OrganisationKey, target: &Target) -> usize {
        let none = Labels::new();
        let labels = match target {
            Target::Gateways(ids) => return ids.len(),
            Target::All => &none,
            Target::Labels(labels) => labels,
        };
        // The map can't be searched by a key of borrowed parts. It has few entries.
        let found = |(key, found): (&(OrganisationKey, Labels), &Vec<_>)| {
            (key.0 == organisation && key.1 == *labels).then_some(found.len())
        };
        self.labelled.iter().find_map(found).unwrap_or_default()
    }

    /// The gateways of one target, or those it names that don't exist.
    pub(crate) fn of(
        &self,
        organisation: OrganisationKey,
        target: &Target,
    ) -> std::result::Result<Vec<(GatewayKey, GatewayId)>, Vec<GatewayId>> {
        let none = Labels::new();
        let labels = match target {
            Target::Gateways(ids) => return self.by_name(organisation, ids),
            Target::All => &none,
            Target::Labels(labels) => labels,
        };
        let found = self.labelled.get(&(organisation, labels.clone()));
        Ok(found.cloned().unwrap_or_default())
    }

    fn by_name(
        &self,
        organisation: OrganisationKey,
        ids: &[GatewayId],
    ) -> std::result::Result<Vec<(GatewayKey, GatewayId)>, Vec<GatewayId>> {
        let mut met = HashSet::new();
        let (mut found, mut unknown) = (Vec::new(), Vec::new());
        for id in ids.iter().filter(|id| met.insert(**id)) {
            match self.named.get(&(organisation, *id)) {
                Some(key) => found.push((*key, *id)),
                None => unknown.push(*id),
            }
        }
        // The order in which a repeat reads them from the log, so that both responses are the same.
        found.sort_unstable();
        if unknown.is_empty() { Ok(found) } else { Err(unknown) }
    }
}

/// Resolves all targets of a batch.
pub(crate) async fn resolve(conn: &mut Connection, publishes: &[&Publish]) -> Result<Targets> {
    let mut wanted = Wanted::default();
    for publish in publishes {
        for new in publish.valid() {
            wanted.add(publish.organisation, &new.target);
        }
    }
    wanted.resolve(conn).await
}

/// Resolves one target.
pub(crate) async fn resolve_one(
    conn: &mut Connection,
    organisation: OrganisationKey,
    target: &Target,
) -> Result<Targets> {
    let mut wanted = Wanted::default();
    wanted.add(organisation, target);
    wanted.resolve(conn).await
}

/// Gateways to look up, by id and by labels.
#[derive(Default)]
struct Wanted {
    ids: BTreeSet<GatewayId>,
    labels: HashSet<(OrganisationKey, Labels)>,
}

impl Wanted {
    fn add(&mut self, organisation: OrganisationKey, target: &Target) {
        match target {
            Target::Gateways(ids) => self.ids.extend(ids.iter().copied()),
            Target::All => _ = self.labels.insert((organisation, Labels::new())),
            Target::Labels(labels) => _ = self.labels.insert((organisation, labels.clone())),
        }
    }

    async fn resolve(self, conn: &mut Connection) -> Result<Targets> {
        let Self { ids, labels } = self;
        let mut named = HashMap::new();
        if !ids.is_empty() {
            for row in conn.gateways_by_id(&ids).await? {
                named.insert((row.organisation, row.id), row.gateway);
            }
        }
        let mut labelled = HashMap::with_capacity(labels.len());
        for (organisation, wanted) in labels {
            let found = conn.gateways_by_labels(organisation, &wanted).await?;
            let found = found.into_iter().map(|row| (row.gateway, row.id)).collect();
            labelled.insert((organisation, wanted), found);
        }
        Ok(Targets { named, labelled })
    }
}
