//! Whom events are for, looked up inside the appending transaction, so that a
//! gateway registered before a publish is never missed by it. A disabled
//! gateway gets its events like any other and finds them when it is enabled.

use std::collections::{BTreeSet, HashMap, HashSet};

use sqlx::SqliteConnection;

use super::gateways::parsed;
use super::json;
use crate::event::{GatewayId, GatewayKey, OrganisationKey};
use crate::store::{Labels, Publish, Result, Target};

/// The gateways that a batch's requests mean.
pub(super) struct Targets {
    named: HashMap<(OrganisationKey, GatewayId), GatewayKey>,
    labelled: HashMap<(OrganisationKey, Labels), Vec<(GatewayKey, GatewayId)>>,
}

impl Targets {
    /// The gateways of one target, or those that don't exist.
    pub(super) fn of(
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
        if unknown.is_empty() { Ok(found) } else { Err(unknown) }
    }
}

/// Looks up all targets of a batch.
pub(super) async fn resolve(
    connection: &mut SqliteConnection,
    publishes: &[&Publish],
) -> Result<Targets> {
    let mut ids = BTreeSet::new();
    let mut labels = HashSet::new();
    for publish in publishes {
        for new in publish.fit() {
            match &new.target {
                Target::Gateways(named) => ids.extend(named.iter().copied()),
                Target::All => _ = labels.insert((publish.organisation, Labels::new())),
                Target::Labels(wanted) => {
                    labels.insert((publish.organisation, wanted.clone()));
                }
            }
        }
    }
    let named = if ids.is_empty() { HashMap::new() } else { by_id(connection, &ids).await? };
    let mut labelled = HashMap::with_capacity(labels.len());
    for (organisation, wanted) in labels {
        let found = by_labels(connection, organisation, &wanted).await?;
        labelled.insert((organisation, wanted), found);
    }
    Ok(Targets { named, labelled })
}

async fn by_id(
    connection: &mut SqliteConnection,
    ids: &BTreeSet<GatewayId>,
) -> Result<HashMap<(OrganisationKey, GatewayId), GatewayKey>> {
    let ids = json(ids)?;
    let rows = sqlx::query!(
        r#"
        select g.gateway as "gateway!: i64", g.id as "id!: String",
            g.organisation as "organisation!: i64"
        from json_each($1) as wanted
        join gateways g on g.id = wanted.value
        where g.deleted_at is null
        "#,
        ids
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let id = parsed("gateway id", &row.id)?;
            Ok(((OrganisationKey(row.organisation), id), GatewayKey(row.gateway)))
        })
        .collect()
}

async fn by_labels(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    wanted: &Labels,
) -> Result<Vec<(GatewayKey, GatewayId)>> {
    let wanted = json(wanted)?;
    let rows = sqlx::query!(
        r#"
        select gateway as "gateway!: i64", id as "id!: String" from gateways
        where organisation = $1 and deleted_at is null
            and not exists (
                select 1 from json_each($2) as wanted
                where not exists (
                    select 1 from json_each(gateways.labels) as has
                    where has.key = wanted.key and has.value = wanted.value
                )
            )
        order by gateway
        "#,
        organisation.0,
        wanted
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| Ok((GatewayKey(row.gateway), parsed("gateway id", &row.id)?)))
        .collect()
}
