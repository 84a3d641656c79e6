//! Organisations and the gateways registered in them.

use serde_json::value::RawValue;
use sqlx::sqlite::SqliteConnection;

use super::rows::{corrupt, time};
use crate::clock::Timestamp;
use crate::event::{Epoch, GatewayId, GatewayKey, OrganisationKey, Sequence};
use crate::store::{Gateway, GatewayChange, Labels, Result, StoreError};

/// See [`crate::store::Store::organisation`].
pub(super) async fn organisation(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<OrganisationKey> {
    sqlx::query_scalar!("select organisation from organisations where name = $1", name)
        .fetch_optional(connection)
        .await?
        .map(OrganisationKey)
        .ok_or(StoreError::NotFound("organisation"))
}

/// See [`crate::store::Store::create_gateway`].
pub(super) async fn create_gateway(
    connection: &mut SqliteConnection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: GatewayId,
    name: &str,
    labels: &Labels,
) -> Result<Gateway> {
    let (text, labels, now) =
        (id.to_string(), serde_json::to_string(labels).map_err(corrupt)?, now.micros());
    let key = sqlx::query_scalar!(
        r#"insert into gateways (id, organisation, name, labels, created_at)
           select $1, $2, $3, $4, $5
           where not exists (select 1 from gateways
                             where id = $1 or (organisation = $2 and name = $3 and deleted_at is null))
           returning gateway as "gateway!: i64""#,
        text,
        organisation.0,
        name,
        labels,
        now
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or_else(|| {
        StoreError::Conflict(format!("a gateway named {name:?}, or one with the id {id}, exists already"))
    })?;
    let epoch = Epoch::new().to_string();
    sqlx::query!("insert into streams (gateway, epoch) values ($1, $2)", key, epoch)
        .execute(&mut *connection)
        .await?;
    gateway(connection, organisation, id)
        .await?
        .ok_or(StoreError::NotFound("gateway"))
}

/// See [`crate::store::Store::gateway`].
pub(super) async fn gateway(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<Option<Gateway>> {
    let found = select(connection, organisation, Some(id), None, 1).await?;
    Ok(found.into_iter().next())
}

/// See [`crate::store::Store::gateways`].
pub(super) async fn gateways(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Gateway>> {
    select(connection, organisation, None, after, i64::try_from(limit).unwrap_or(i64::MAX)).await
}

async fn select(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    id: Option<GatewayId>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Gateway>> {
    let id = id.map(|id| id.to_string());
    let rows = sqlx::query!(
        r#"select g.gateway, g.id, g.name, g.labels, g.created_at, g.disabled_at, g.manifest,
                  g.manifest_at, s.epoch, s.head, s.floor,
                  coalesce(c.received, 0) as "confirmed!: i64",
                  (select count(*) from connections k
                   where k.gateway = g.gateway and k.closed_at is null) as "live!: i64",
                  (select e.appended_at from outbox o join events e on e.event = o.event
                   where o.gateway = g.gateway and o.sequence > coalesce(c.received, 0)
                   order by o.sequence limit 1) as "oldest: i64"
           from gateways g
           join streams s on s.gateway = g.gateway
           left join cursors c on c.gateway = g.gateway and c.instance = ''
           where g.organisation = $1 and g.deleted_at is null
             and ($2 is null or g.id = $2) and ($3 is null or g.name > $3)
           order by g.name limit $4"#,
        organisation.0,
        id,
        after,
        limit
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let manifest = match (row.manifest, row.manifest_at) {
                (Some(text), Some(at)) => {
                    Some((RawValue::from_string(text).map_err(corrupt)?, time(at)))
                }
                _ => None,
            };
            Ok(Gateway {
                key: GatewayKey(row.gateway),
                id: row.id.parse().map_err(corrupt)?,
                name: row.name,
                labels: serde_json::from_str(&row.labels).map_err(corrupt)?,
                created_at: time(row.created_at),
                disabled_at: row.disabled_at.map(time),
                manifest,
                epoch: row.epoch.parse().map_err(corrupt)?,
                head: Sequence(row.head),
                floor: Sequence(row.floor),
                confirmed: Sequence(row.confirmed),
                live_connections: row.live,
                oldest_unconfirmed_at: row.oldest.map(time),
            })
        })
        .collect()
}

/// See [`crate::store::Store::update_gateway`].
pub(super) async fn update_gateway(
    connection: &mut SqliteConnection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: GatewayId,
    change: GatewayChange,
) -> Result<Gateway> {
    let current = gateway(connection, organisation, id)
        .await?
        .ok_or(StoreError::NotFound("gateway"))?;
    let name = change.name.unwrap_or(current.name);
    let labels = change.labels.unwrap_or(current.labels);
    let labels = serde_json::to_string(&labels).map_err(corrupt)?;
    let disabled_at = match change.disabled {
        Some(true) => Some(current.disabled_at.unwrap_or(now).micros()),
        Some(false) => None,
        None => current.disabled_at.map(Timestamp::micros),
    };
    let taken = sqlx::query_scalar!(
        r#"select count(*) as "taken!: i64" from gateways
           where organisation = $1 and name = $2 and gateway <> $3 and deleted_at is null"#,
        organisation.0,
        name,
        current.key.0
    )
    .fetch_one(&mut *connection)
    .await?;
    if taken > 0 {
        return Err(StoreError::Conflict(format!("a gateway named {name:?} exists already")));
    }
    sqlx::query!(
        "update gateways set name = $2, labels = $3, disabled_at = $4 where gateway = $1",
        current.key.0,
        name,
        labels,
        disabled_at
    )
    .execute(&mut *connection)
    .await?;
    gateway(connection, organisation, id)
        .await?
        .ok_or(StoreError::NotFound("gateway"))
}

/// See [`crate::store::Store::delete_gateway`].
pub(super) async fn delete_gateway(
    connection: &mut SqliteConnection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<GatewayKey> {
    let (text, now) = (id.to_string(), now.micros());
    let key = sqlx::query_scalar!(
        r#"update gateways set deleted_at = $3
           where organisation = $1 and id = $2 and deleted_at is null
           returning gateway as "gateway!: i64""#,
        organisation.0,
        text,
        now
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(StoreError::NotFound("gateway"))?;
    sqlx::query!("update gateway_tokens set revoked_at = coalesce(revoked_at, $2) where gateway = $1", key, now)
        .execute(&mut *connection)
        .await?;
    sqlx::query!("delete from outbox where gateway = $1", key)
        .execute(&mut *connection)
        .await?;
    sqlx::query!("delete from cursors where gateway = $1", key)
        .execute(&mut *connection)
        .await?;
    // The stream's row stays: the ledger's totals are in it.
    sqlx::query!("update streams set floor = head, missed = head where gateway = $1", key)
        .execute(connection)
        .await?;
    Ok(GatewayKey(key))
}

/// See [`crate::store::Store::set_manifest`].
pub(super) async fn set_manifest(
    connection: &mut SqliteConnection,
    now: Timestamp,
    gateway: GatewayKey,
    manifest: &str,
) -> Result<()> {
    let now = now.micros();
    sqlx::query!(
        "update gateways set manifest = $2, manifest_at = $3 where gateway = $1",
        gateway.0,
        manifest,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}
