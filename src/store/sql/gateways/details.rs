//! Gateways with the state of their streams, positions and connections.

use serde_json::value::RawValue;

use super::super::dialect::{Connection, GatewayStatements, Manifests, NodeStatements};
use crate::event::GatewayKey;
use crate::store::{
    Confirmation, Failing, Gateway, KeyFault, LastRefusal, Pause, Result, StoreError,
};

/// One gateway that is known to exist.
pub(crate) async fn the_one(conn: &mut Connection, gateway: GatewayKey) -> Result<Gateway> {
    details(conn, &[gateway], Manifests::Read).await?.pop().ok_or(StoreError::NotFound("gateway"))
}

/// These gateways with all details, by name, in one statement. Its subqueries look up single rows,
/// and the dead letters after each position, so the cost does not depend on the length of a log.
pub(crate) async fn details(
    conn: &mut Connection,
    keys: &[GatewayKey],
    manifests: Manifests,
) -> Result<Vec<Gateway>> {
    let as_of = conn.now().await?;
    let rows = conn.gateway_details(keys, manifests).await?;
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
            let last_refusal = row.refused_at.map(|at| LastRefusal {
                at,
                code: row.refused_code.unwrap_or_default(),
                cause: row.refused_cause.as_deref().and_then(KeyFault::stored),
                address: row.refused_address.unwrap_or_default(),
            });
            Ok(Gateway {
                key: row.gateway,
                id: row.id,
                name: row.name,
                labels: serde_json::from_str(&row.labels)
                    .map_err(|error| StoreError::Corrupt(format!("labels: {error}")))?,
                confirmation: Confirmation::stored(&row.confirmation),
                replicas: row.replicas,
                created_at: row.created_at,
                disabled_at: row.disabled_at,
                paused: row.paused_at.zip(row.paused_by).map(|(at, by)| Pause {
                    at,
                    by,
                    reason: row.pause_reason,
                }),
                manifest,
                epoch: row.epoch,
                head: row.head,
                floor: row.floor,
                confirmed: row.confirmed,
                pending: row.pending,
                oldest_pending_at: row.oldest_pending_at,
                live_connections: row.live,
                connected_since: row.connected_since,
                left: row.left_at.zip(row.left_reason),
                failing: row.failing_since.zip(row.failing_reason).map(|(since, reason)| Failing {
                    since,
                    reason,
                    count: row.failing_count,
                }),
                last_failure: row.last_failure_at.zip(row.last_failure_reason),
                last_receipt_at: row.last_receipt_at,
                as_of,
                last_refusal,
            })
        })
        .collect()
}
