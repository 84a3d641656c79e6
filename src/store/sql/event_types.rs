//! Registered event types. The built-in types are not stored: they are merged in when types are
//! read, unless a type of the same name is stored.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::value::RawValue;

use super::Backend;
use super::access::{Access as _, run};
use super::audit::audited;
use super::dialect::{Connection, query};
use crate::clock::Timestamp;
use crate::event::{EventType, OrganisationKey};
use crate::event_types::{built_in, built_ins};
use crate::store::audit::entries;
use crate::store::{
    Actor, Audited, Conflict, EventTypeInfo, EventTypes, Result, StoreError, storable,
};

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

    async fn put_event_type(&self, actor: &Actor, info: &EventTypeInfo) -> Result<bool> {
        let (organisation, info) = (actor.organisation, info.clone());
        audited!(self, actor, |conn, now| put_event_type(conn, now, organisation, info))
    }

    async fn delete_event_type(&self, actor: &Actor, name: &EventType) -> Result<()> {
        let (organisation, name) = (actor.organisation, name.clone());
        audited!(self, actor, |conn, _now| delete_event_type(conn, organisation, name))
    }
}

pub(super) async fn event_types(
    conn: &mut Connection,
    organisation: OrganisationKey,
) -> Result<Vec<EventTypeInfo>> {
    let rows = query!(
        r#"
        select name as "name!: String", description as "description!: String",
            schema as "schema?: String", ttl_seconds as "ttl_seconds?: i64",
            barrier as "barrier!: bool"
        from event_types where organisation = $1
        "#,
        organisation.0
    )
    .fetch_all(conn)
    .await?;
    let mut types: BTreeMap<String, EventTypeInfo> =
        built_ins().map(|info| (info.name.clone(), info.clone())).collect();
    for row in rows {
        types.insert(
            row.name.clone(),
            info(row.name, row.description, row.schema, row.ttl_seconds, row.barrier)?,
        );
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
        select description as "description!: String", schema as "schema?: String",
            ttl_seconds as "ttl_seconds?: i64",
            barrier as "barrier!: bool"
        from event_types where organisation = $1 and name = $2
        "#,
        organisation.0,
        name
    )
    .fetch_optional(conn)
    .await?;
    match row {
        Some(row) => {
            info(name.to_owned(), row.description, row.schema, row.ttl_seconds, row.barrier)
                .map(Some)
        }
        None => Ok(built_in(name).cloned()),
    }
}

pub(super) async fn put_event_type(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    mut new: EventTypeInfo,
) -> Result<Audited<bool>> {
    new.description = storable(&new.description).into_owned();
    let schema = new.schema.as_ref().map(|schema| schema.get());
    let ttl = new.ttl_secs.map(|secs| i64::try_from(secs).unwrap_or(i64::MAX));
    let inserted = query!(
        r#"
        insert into event_types
            (organisation, name, schema, description, ttl_seconds, barrier, created_at, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7, $7)
        on conflict (organisation, name) do nothing
        "#,
        organisation.0,
        new.name,
        schema,
        new.description,
        ttl,
        new.barrier,
        now as _
    )
    .execute(&mut *conn)
    .await?;
    if inserted.rows_affected() > 0 {
        // The built-in schema stays in force, so it is not replaced.
        let built_in = built_in(&new.name).map(|it| EventTypeInfo { schema: None, ..it.clone() });
        let entry = entries::event_type_put(built_in.as_ref(), &new);
        return Ok(Audited::new(built_in.is_none(), entry));
    }
    // Changes nothing, but locks the row, so that no other node changes it meanwhile.
    let row = query!(
        r#"
        update event_types set updated_at = updated_at where organisation = $1 and name = $2
        returning description as "description!: String", schema as "schema?: String",
            ttl_seconds as "ttl_seconds?: i64",
            barrier as "barrier!: bool"
        "#,
        organisation.0,
        new.name
    )
    .fetch_one(&mut *conn)
    .await?;
    let old = info(new.name.clone(), row.description, row.schema, row.ttl_seconds, row.barrier)?;
    let Some(entry) = entries::event_type_put(Some(&old), &new) else {
        return Ok(Audited::new(false, []));
    };
    query!(
        r#"
        update event_types set schema = $3, description = $4, ttl_seconds = $5, barrier = $6,
            updated_at = $7
        where organisation = $1 and name = $2
        "#,
        organisation.0,
        new.name,
        schema,
        new.description,
        ttl,
        new.barrier,
        now as _
    )
    .execute(conn)
    .await?;
    Ok(Audited::new(false, [entry]))
}

async fn delete_event_type(
    conn: &mut Connection,
    organisation: OrganisationKey,
    name: EventType,
) -> Result<Audited<()>> {
    let text = name.as_str();
    let row = query!(
        r#"
        delete from event_types where organisation = $1 and name = $2
        returning description as "description!: String", schema as "schema?: String",
            ttl_seconds as "ttl_seconds?: i64",
            barrier as "barrier!: bool"
        "#,
        organisation.0,
        text
    )
    .fetch_optional(conn)
    .await?;
    match row {
        Some(row) => {
            let old =
                info(text.to_owned(), row.description, row.schema, row.ttl_seconds, row.barrier)?;
            Ok(Audited::new((), [entries::event_type_deleted(&old)]))
        }
        None if built_in(text).is_some() => Err(Conflict::BuiltInType(name).into()),
        None => Err(StoreError::NotFound("event type")),
    }
}

fn info(
    name: String,
    description: String,
    schema: Option<String>,
    ttl_seconds: Option<i64>,
    barrier: bool,
) -> Result<EventTypeInfo> {
    let schema = schema
        .map(RawValue::from_string)
        .transpose()
        .map_err(|error| StoreError::Corrupt(format!("the schema of {name}: {error}")))?;
    let ttl_secs = ttl_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Ok(EventTypeInfo { name, description, schema, ttl_secs, barrier })
}
