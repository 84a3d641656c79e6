//! Rollouts of events, on one snapshot.

use std::collections::BTreeMap;

use super::super::dialect::{Connection, DeliveryStatements, RolloutStatements, query_as};
use crate::event::{EventId, EventType, OrganisationKey};
use crate::store::filtered::Filtered;
use crate::store::rollout::{self, MAX_DELIVERIES, MAX_EVENTS, RolloutRow, is_reported};
use crate::store::{DeliveryKey, Result, Rollout, RolloutEvent, RolloutOf};

/// An event of the rollout.
struct Row {
    event: i64,
    id: EventId,
    event_type: EventType,
    artifact_id: Option<String>,
    deployment_id: Option<String>,
}

pub(crate) async fn rollout(
    conn: &mut Connection,
    organisation: OrganisationKey,
    of: &RolloutOf,
) -> Result<Rollout> {
    let mut rows = events(conn, organisation, of).await?;
    let mut more = rows.len() > MAX_EVENTS;
    rows.truncate(MAX_EVENTS);
    let keys: Vec<i64> = rows.iter().map(|row| row.event).collect();
    let limit = i64::try_from(MAX_DELIVERIES + 1).unwrap_or(i64::MAX);
    let mut deliveries =
        if keys.is_empty() { Vec::new() } else { conn.rollout_rows(&keys, limit).await? };
    more |= deliveries.len() > MAX_DELIVERIES;
    deliveries.truncate(MAX_DELIVERIES);
    let filtered: Vec<DeliveryKey> =
        deliveries.iter().filter(|row| row.is_filtered).map(RolloutRow::key).collect();
    let filtered = if filtered.is_empty() {
        BTreeMap::new()
    } else {
        Filtered::of(conn.outcomes_at(&filtered).await?)
    };
    let events = rows.into_iter().map(|row| RolloutEvent {
        is_reported: is_reported(
            &row.event_type,
            row.artifact_id.as_deref(),
            row.deployment_id.as_deref(),
        ),
        id: row.id,
        event_type: row.event_type,
    });
    let targets = rollout::targets(deliveries, &filtered);
    Ok(Rollout { events: events.collect(), targets, more })
}

/// The events, one more than a rollout may have.
async fn events(
    conn: &mut Connection,
    organisation: OrganisationKey,
    of: &RolloutOf,
) -> Result<Vec<Row>> {
    let limit = i64::try_from(MAX_EVENTS + 1).unwrap_or(i64::MAX);
    Ok(match of {
        RolloutOf::Event(id) => {
            query_as!(
                Row,
                r#"
                select event as "event!: i64", id as "id!: EventId", type as "event_type!: EventType",
                    artifact_id as "artifact_id?: String", deployment_id as "deployment_id?: String"
                from events where organisation = $1 and id = $2
                "#,
                organisation.0,
                id.as_str()
            )
            .fetch_all(conn)
            .await?
        }
        RolloutOf::Correlation(id) => {
            query_as!(
                Row,
                r#"
                select event as "event!: i64", id as "id!: EventId", type as "event_type!: EventType",
                    artifact_id as "artifact_id?: String", deployment_id as "deployment_id?: String"
                from events where organisation = $1 and correlation_id = $2
                order by event limit $3
                "#,
                organisation.0,
                id.as_str(),
                limit
            )
            .fetch_all(conn)
            .await?
        }
    })
}
