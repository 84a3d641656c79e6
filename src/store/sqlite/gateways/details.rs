//! A gateway with what its stream, cursors and connections say.

use serde_json::value::RawValue;
use sqlx::SqliteConnection;

use super::parsed;
use crate::clock::Timestamp;
use crate::event::{GatewayKey, Sequence};
use crate::store::{Gateway, Result, StoreError};

/// One gateway that is known to be there.
pub(super) async fn the_one(connection: &mut SqliteConnection, gateway: i64) -> Result<Gateway> {
    details(connection, &[gateway]).await?.pop().ok_or(StoreError::NotFound("gateway"))
}

/// Everything about these gateways, by name. The subqueries look up single
/// rows, so the cost does not depend on how long a log is.
pub(super) async fn details(
    connection: &mut SqliteConnection,
    keys: &[i64],
) -> Result<Vec<Gateway>> {
    let keys = serde_json::Value::from(keys).to_string();
    let rows = sqlx::query!(
        r#"
        with chosen as (
            select g.*, s.epoch, s.head, s.floor,
                coalesce((select received from cursors c where c.gateway = g.gateway and c.instance = ''),
                         (select max(received) from cursors c where c.gateway = g.gateway), 0) as confirmed
            from gateways g join streams s using (gateway)
            where g.gateway in (select value from json_each($1))
        )
        select gateway as "gateway!: i64", id as "id!: String", name as "name!: String",
            labels as "labels!: String", created_at as "created_at!: i64",
            disabled_at as "disabled_at?: i64", manifest as "manifest?: String",
            manifest_at as "manifest_at?: i64", epoch as "epoch!: String", head as "head!: i64",
            floor as "floor!: i64", confirmed as "confirmed!: i64",
            (select count(*) from connections n
             where n.gateway = chosen.gateway and n.closed_at is null) as "live!: i64",
            (select e.appended_at from outbox o join events e using (event)
             where o.gateway = chosen.gateway and o.sequence > chosen.confirmed
             order by o.sequence limit 1) as "oldest?: i64"
        from chosen order by name
        "#,
        keys
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let manifest = row
                .manifest
                .zip(row.manifest_at)
                .map(|(text, at)| {
                    let text = RawValue::from_string(text)
                        .map_err(|error| StoreError::Corrupt(format!("manifest: {error}")))?;
                    Ok::<_, StoreError>((text, Timestamp::from_micros(at)))
                })
                .transpose()?;
            Ok(Gateway {
                key: GatewayKey(row.gateway),
                id: parsed("gateway id", &row.id)?,
                name: row.name,
                labels: serde_json::from_str(&row.labels)
                    .map_err(|error| StoreError::Corrupt(format!("labels: {error}")))?,
                created_at: Timestamp::from_micros(row.created_at),
                disabled_at: row.disabled_at.map(Timestamp::from_micros),
                manifest,
                epoch: parsed("epoch", &row.epoch)?,
                head: Sequence(row.head),
                floor: Sequence(row.floor),
                confirmed: Sequence(row.confirmed),
                live_connections: row.live,
                oldest_unconfirmed_at: row.oldest.map(Timestamp::from_micros),
            })
        })
        .collect()
}
