//! Gateways that are not deleted.

use std::collections::BTreeSet;

use super::super::dialect::{Connection, NodeStatements, query_scalar};
use super::details::the_one;
use crate::event::{GatewayId, GatewayKey, OrganisationKey};
use crate::store::{Gateway, Result, StoreError};

/// The key of a gateway that is not deleted.
pub(crate) async fn live_key(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<GatewayKey> {
    query_scalar!(
        r#"
        select gateway as "gateway!: GatewayKey" from gateways
        where id = $1 and organisation = $2 and deleted_at is null
        "#,
        id as _,
        organisation.0
    )
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::NotFound("gateway"))
}

/// A gateway with the state of its log; `None` if there is none with this id, or it is deleted.
pub(crate) async fn gateway(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<Option<Gateway>> {
    match live_key(conn, organisation, id).await {
        Ok(key) => the_one(conn, key).await.map(Some),
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A gateway that is not deleted, with its stream locked.
pub(crate) async fn locked(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<Gateway> {
    let key = live_key(conn, organisation, id).await?;
    conn.lock_streams(&BTreeSet::from([key])).await?;
    // Another node may have deleted it before the stream was locked.
    gateway(conn, organisation, id).await?.ok_or(StoreError::NotFound("gateway"))
}
