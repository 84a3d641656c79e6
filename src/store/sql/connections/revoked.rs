//! Live connections whose access was revoked: their token was revoked, or their gateway was
//! disabled or deleted, on any node.

use super::super::dialect::{Connection, query};
use crate::event::{GatewayKey, NodeId, Reason};
use crate::store::{Result, RevokedConnection};

/// The revoked connections of one node.
pub(crate) async fn revoked(conn: &mut Connection, node: NodeId) -> Result<Vec<RevokedConnection>> {
    let rows = query!(
        r#"
        select c.gateway as "gateway!: GatewayKey", c.token as "token!: String",
            (g.deleted_at is not null) as "deleted!: bool",
            (g.disabled_at is not null) as "disabled!: bool"
        from connections c
        join gateways g on g.gateway = c.gateway
        left join gateway_tokens t on t.id = c.token
        where c.node = $1 and c.closed_at is null and (
            g.deleted_at is not null or g.disabled_at is not null
            or t.id is null or t.revoked_at is not null
        )
        "#,
        node as _
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| RevokedConnection {
            gateway: row.gateway,
            token: row.token,
            reason: match (row.deleted, row.disabled) {
                (true, _) => Reason::GatewayDeleted,
                (false, true) => Reason::GatewayDisabled,
                (false, false) => Reason::TokenRevoked,
            },
        })
        .collect())
}
