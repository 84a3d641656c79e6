//! A gateway with what its stream, cursors and connections say.

use super::super::dialect::{self, Connection};
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::event::{Epoch, GatewayId, GatewayKey, Sequence};
use crate::store::{Gateway, Result, StoreError};

/// A gateway's row, before anybody has looked at its JSON.
pub(crate) struct Row {
    pub(crate) gateway: GatewayKey,
    pub(crate) id: GatewayId,
    pub(crate) name: String,
    pub(crate) labels: String,
    pub(crate) replicas: i64,
    pub(crate) created_at: Timestamp,
    pub(crate) disabled_at: Option<Timestamp>,
    pub(crate) manifest: Option<String>,
    pub(crate) manifest_at: Option<Timestamp>,
    pub(crate) epoch: Epoch,
    pub(crate) head: Sequence,
    pub(crate) floor: Sequence,
    pub(crate) confirmed: Sequence,
    pub(crate) live: i64,
    pub(crate) oldest: Option<Timestamp>,
}

/// One gateway that is known to be there.
pub(super) async fn the_one(connection: &mut Connection, gateway: GatewayKey) -> Result<Gateway> {
    details(connection, &[gateway]).await?.pop().ok_or(StoreError::NotFound("gateway"))
}

/// Everything about these gateways, by name. The subqueries look up single
/// rows, so the cost does not depend on how long a log is.
pub(super) async fn details(
    connection: &mut Connection,
    keys: &[GatewayKey],
) -> Result<Vec<Gateway>> {
    let rows = dialect::gateway_details(connection, keys).await?;
    rows.into_iter()
        .map(|row| {
            let manifest = row
                .manifest
                .zip(row.manifest_at)
                .map(|(text, at)| {
                    let text = RawValue::from_string(text)
                        .map_err(|error| StoreError::Corrupt(format!("manifest: {error}")))?;
                    Ok::<_, StoreError>((text, at))
                })
                .transpose()?;
            Ok(Gateway {
                key: row.gateway,
                id: row.id,
                name: row.name,
                labels: serde_json::from_str(&row.labels)
                    .map_err(|error| StoreError::Corrupt(format!("labels: {error}")))?,
                replicas: row.replicas,
                created_at: row.created_at,
                disabled_at: row.disabled_at,
                manifest,
                epoch: row.epoch,
                head: row.head,
                floor: row.floor,
                confirmed: row.confirmed,
                live_connections: row.live,
                oldest_unconfirmed_at: row.oldest,
            })
        })
        .collect()
}
