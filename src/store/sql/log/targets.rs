//! Whom events are for, looked up inside the appending transaction, so that a
//! gateway registered before a publish is never missed by it. A disabled
//! gateway gets its events like any other and finds them when it is enabled.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::super::dialect::{Connection, GatewayStatements, NodeStatements};

use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, OrganisationKey};
use crate::store::{Labels, Publish, Result, Target};

/// The gateways that a batch's requests mean.
pub(crate) struct Targets {
    named: HashMap<(OrganisationKey, GatewayId), GatewayKey>,
    labelled: HashMap<(OrganisationKey, Labels), Vec<(GatewayKey, GatewayId)>>,
}

impl Targets {
    /// Every gateway that is meant by anything.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = GatewayKey> {
        let labelled = self.labelled.values().flatten().map(|(gateway, _)| *gateway);
        self.named.values().copied().chain(labelled)
    }

    /// Locks these streams, which are all that the transaction will touch, and
    /// forgets targets that were deleted before. Answers the instant, asked when
    /// the locks are held.
    pub(crate) async fn lock(
        &mut self,
        conn: &mut Connection,
        touched: &BTreeSet<GatewayKey>,
    ) -> Result<Timestamp> {
        if !conn.lock_streams(touched).await? {
            return conn.now().await;
        }
        let (now, there) = conn.existing_gateways(touched).await?;
        self.named.retain(|_, gateway| there.contains(gateway));
        for found in self.labelled.values_mut() {
            found.retain(|(gateway, _)| there.contains(gateway));
        }
        Ok(now)
    }

    /// How many deliveries a request comes to at the most.
    pub(crate) fn weight(&self, publish: &Publish) -> usize {
        publish.valid().map(|new| self.count(publish.organisation, &new.target)).sum()
    }

    /// How many gateways a target names or finds.
    pub(crate) fn count(&self, organisation: OrganisationKey, target: &Target) -> usize {
        let none = Labels::new();
        let labels = match target {
            Target::Gateways(ids) => return ids.len(),
            Target::All => &none,
            Target::Labels(labels) => labels,
        };
        // Borrowed parts of a key can't be looked up; there are few labels.
        let found = |(key, found): (&(OrganisationKey, Labels), &Vec<_>)| {
            (key.0 == organisation && key.1 == *labels).then_some(found.len())
        };
        self.labelled.iter().find_map(found).unwrap_or_default()
    }

    /// The gateways of one target, or those that don't exist.
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
        // As a repeat finds them in the log, so that it is answered the same.
        found.sort_unstable();
        if unknown.is_empty() { Ok(found) } else { Err(unknown) }
    }
}

/// Looks up all targets of a batch.
pub(crate) async fn resolve(conn: &mut Connection, publishes: &[&Publish]) -> Result<Targets> {
    let mut ids = BTreeSet::new();
    let mut labels = HashSet::new();
    for publish in publishes {
        for new in publish.valid() {
            match &new.target {
                Target::Gateways(named) => ids.extend(named.iter().copied()),
                Target::All => _ = labels.insert((publish.organisation, Labels::new())),
                Target::Labels(wanted) => {
                    labels.insert((publish.organisation, wanted.clone()));
                }
            }
        }
    }
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

/// A gateway that was asked for by its outside id.
pub(crate) struct GatewayById {
    pub(crate) organisation: OrganisationKey,
    pub(crate) id: GatewayId,
    pub(crate) gateway: GatewayKey,
}

/// A gateway that was asked for by what it is.
pub(crate) struct GatewayByLabels {
    pub(crate) gateway: GatewayKey,
    pub(crate) id: GatewayId,
}
