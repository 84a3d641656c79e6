//! Event types that were registered while running. The built-in ones are code
//! ([`crate::event_types`]); a registered one of the same name stands before it.

use serde_json::value::RawValue;
use sqlx::sqlite::SqliteConnection;

use super::rows::corrupt;
use crate::clock::Timestamp;
use crate::event::OrganisationKey;
use crate::store::{EventTypeInfo, Result};

/// The registered types, or the one of that name.
pub(super) async fn registered(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    name: Option<&str>,
) -> Result<Vec<EventTypeInfo>> {
    sqlx::query!(
        "select name, description, schema from event_types
         where organisation = $1 and ($2 is null or name = $2) order by name",
        organisation.0,
        name
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(|row| {
        Ok(EventTypeInfo {
            name: row.name,
            description: row.description,
            schema: row.schema.map(RawValue::from_string).transpose().map_err(corrupt)?,
        })
    })
    .collect()
}

/// Registers or replaces one.
pub(super) async fn put(
    connection: &mut SqliteConnection,
    now: Timestamp,
    organisation: OrganisationKey,
    info: &EventTypeInfo,
) -> Result<()> {
    let (schema, now) = (info.schema.as_ref().map(|schema| schema.get()), now.micros());
    sqlx::query!(
        "insert into event_types (organisation, name, description, schema, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $5)
         on conflict (organisation, name) do update set description = excluded.description,
             schema = excluded.schema, updated_at = excluded.updated_at",
        organisation.0,
        info.name,
        info.description,
        schema,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}
