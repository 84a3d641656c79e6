//! The history of gateways: a row per change of the name, the labels, and whether it is disabled or
//! deleted.

use super::super::dialect::{Connection, query, query_as};
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, OrganisationKey};
use crate::store::{GatewayHistory, GatewayState, Labels, Result, StoreError};

/// Records the gateway's state if it differs from the last one on record. Call it at the end of each
/// transaction that changes a gateway.
pub(super) async fn note(
    conn: &mut Connection,
    now: Timestamp,
    gateway: GatewayKey,
    by: &str,
) -> Result<()> {
    query!(
        r#"
        update gateway_history set replaced_at = $2
        where gateway = $1 and replaced_at is null and exists (
            select 1 from gateways g
            where g.gateway = $1 and (
                g.name <> gateway_history.name or g.labels <> gateway_history.labels
                or g.disabled_at is distinct from gateway_history.disabled_at
                or g.deleted_at is distinct from gateway_history.deleted_at
            )
        )
        "#,
        gateway.0,
        now as _
    )
    .execute(&mut *conn)
    .await?;
    query!(
        r#"
        insert into gateway_history
            (gateway, changed_at, name, labels, disabled_at, deleted_at, changed_by)
        select g.gateway, $2, g.name, g.labels, g.disabled_at, g.deleted_at, $3 from gateways g
        where g.gateway = $1 and not exists (
            select 1 from gateway_history h where h.gateway = $1 and h.replaced_at is null
        )
        "#,
        gateway.0,
        now as _,
        by
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A row of the history.
struct Row {
    changed_at: Timestamp,
    replaced_at: Option<Timestamp>,
    name: String,
    labels: String,
    disabled_at: Option<Timestamp>,
    deleted_at: Option<Timestamp>,
    changed_by: String,
}

impl Row {
    fn state(self) -> Result<GatewayState> {
        Ok(GatewayState {
            changed_at: self.changed_at,
            replaced_at: self.replaced_at,
            name: self.name,
            labels: labels(&self.labels)?,
            disabled_at: self.disabled_at,
            deleted_at: self.deleted_at,
            changed_by: self.changed_by,
        })
    }
}

fn labels(text: &str) -> Result<Labels> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(format!("labels: {error}")))
}

/// The changes of a gateway, newest first.
pub(crate) async fn of_gateway(
    conn: &mut Connection,
    gateway: GatewayKey,
    limit: i64,
) -> Result<Vec<GatewayState>> {
    let rows = query_as!(
        Row,
        r#"
        select changed_at as "changed_at!: Timestamp", replaced_at as "replaced_at?: Timestamp",
            name as "name!: String", labels as "labels!: String",
            disabled_at as "disabled_at?: Timestamp", deleted_at as "deleted_at?: Timestamp",
            changed_by as "changed_by!: String"
        from gateway_history where gateway = $1 order by entry desc limit $2
        "#,
        gateway.0,
        limit
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Row::state).collect()
}

/// The changes of all gateways of an organisation, by gateway, newest first. Also returns whether
/// there are more than `limit`.
pub(crate) async fn of_organisation(
    conn: &mut Connection,
    organisation: OrganisationKey,
    limit: i64,
) -> Result<(Vec<GatewayHistory>, bool)> {
    let most = limit + 1;
    let mut rows = query!(
        r#"
        select g.id as "id!: GatewayId", g.created_at as "registered_at!: Timestamp",
            h.changed_at as "changed_at!: Timestamp", h.replaced_at as "replaced_at?: Timestamp",
            h.name as "name!: String", h.labels as "labels!: String",
            h.disabled_at as "disabled_at?: Timestamp", h.deleted_at as "deleted_at?: Timestamp",
            h.changed_by as "changed_by!: String"
        from gateway_history h join gateways g on g.gateway = h.gateway
        where g.organisation = $1
        order by h.gateway desc, h.entry desc limit $2
        "#,
        organisation.0,
        most
    )
    .fetch_all(conn)
    .await?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let mut gateways: Vec<GatewayHistory> = Vec::new();
    for row in rows {
        let state = GatewayState {
            changed_at: row.changed_at,
            replaced_at: row.replaced_at,
            name: row.name,
            labels: labels(&row.labels)?,
            disabled_at: row.disabled_at,
            deleted_at: row.deleted_at,
            changed_by: row.changed_by,
        };
        match gateways.last_mut() {
            Some(gateway) if gateway.id == row.id => gateway.changes.push(state),
            _ => gateways.push(GatewayHistory {
                id: row.id,
                registered_at: row.registered_at,
                changes: vec![state],
            }),
        }
    }
    Ok((gateways, more))
}

/// Deletes a batch of rows that were replaced before this; returns how many.
pub(crate) async fn forget(conn: &mut Connection, before: Timestamp, batch: i64) -> Result<u64> {
    let done = query!(
        r#"
        delete from gateway_history where entry in (
            select entry from gateway_history where replaced_at < $1 order by replaced_at limit $2
        )
        "#,
        before as _,
        batch
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
