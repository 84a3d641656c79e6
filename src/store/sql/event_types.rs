//! Registered event types. The built-in types are not stored: they are merged in when types are
//! read, unless a type of the same name is stored.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::value::RawValue;

use super::Backend;
use super::access::{Access as _, run};
use super::dialect::{Connection, query, query_scalar};
use crate::clock::Timestamp;
use crate::event::{EventType, OrganisationKey};
use crate::event_types::{built_in, built_ins};
use crate::store::{EventTypeInfo, EventTypes, Result, StoreError, storable};

#[async_trait]
impl EventTypes for Backend {
    async fn event_types(&self, organisation: OrganisationKey) -> Result<Vec<EventTypeInfo>> {
        run!(self.query, |conn| event_types(conn, organisation))
    }

    async fn event_type(
        &self,
        organisation: OrganisationKey,
        name: &EventType,
    ) -> Result<Option<EventTypeInfo>> {
        let name = name.clone();
        run!(self.point_read, |conn| event_type(conn, organisation, &name))
    }

    async fn put_event_type(
        &self,
        organisation: OrganisationKey,
        info: &EventTypeInfo,
    ) -> Result<bool> {
        let info = info.clone();
        run!(self.write_tx, |conn, now| put_event_type(conn, now, organisation, &info))
    }
}

pub(super) async fn event_types(
    conn: &mut Connection,
    organisation: OrganisationKey,
) -> Result<Vec<EventTypeInfo>> {
    let rows = query!(
        r#"
        select name as "name!: String", description as "description!: String",
            schema as "schema?: String"
        from event_types where organisation = $1
        "#,
        organisation.0
    )
    .fetch_all(conn)
    .await?;
    let mut types: BTreeMap<String, EventTypeInfo> =
        built_ins().map(|info| (info.name.clone(), info.clone())).collect();
    for row in rows {
        types.insert(row.name.clone(), info(row.name, row.description, row.schema)?);
    }
    Ok(types.into_values().collect())
}

pub(super) async fn event_type(
    conn: &mut Connection,
    organisation: OrganisationKey,
    name: &EventType,
) -> Result<Option<EventTypeInfo>> {
    let name = name.as_str();
    let row = query!(
        r#"
        select description as "description!: String", schema as "schema?: String"
        from event_types where organisation = $1 and name = $2
        "#,
        organisation.0,
        name
    )
    .fetch_optional(conn)
    .await?;
    match row {
        Some(row) => info(name.to_owned(), row.description, row.schema).map(Some),
        None => Ok(built_in(name).cloned()),
    }
}

pub(super) async fn put_event_type(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    info: &EventTypeInfo,
) -> Result<bool> {
    let schema = info.schema.as_ref().map(|schema| schema.get());
    let description = storable(&info.description);
    let known = query_scalar!(
        r#"
        select exists (select 1 from event_types where organisation = $1 and name = $2) as "known!: bool"
        "#,
        organisation.0,
        info.name
    )
    .fetch_one(&mut *conn)
    .await?;
    query!(
        r#"
        insert into event_types (organisation, name, schema, description, created_at, updated_at)
        values ($1, $2, $3, $4, $5, $5)
        on conflict (organisation, name) do update
        set schema = excluded.schema, description = excluded.description, updated_at = excluded.updated_at
        "#,
        organisation.0,
        info.name,
        schema,
        description.as_ref(),
        now as _
    )
    .execute(conn)
    .await?;
    Ok(!known && built_in(&info.name).is_none())
}

fn info(name: String, description: String, schema: Option<String>) -> Result<EventTypeInfo> {
    let schema = schema
        .map(RawValue::from_string)
        .transpose()
        .map_err(|error| StoreError::Corrupt(format!("the schema of {name}: {error}")))?;
    Ok(EventTypeInfo { name, description, schema })
}
