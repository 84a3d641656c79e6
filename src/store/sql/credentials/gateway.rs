//! Gateway tokens. A gateway may have two live ones, so that one can replace the other.

use std::collections::BTreeSet;

use super::super::dialect::{Connection, NodeStatements, query, query_scalar};

use super::super::gateways::live::live_key;
use super::{fresh, read_digest};
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, OrganisationKey};
use crate::store::audit::entries;
use crate::store::limits::LIVE_TOKENS;
use crate::store::{Audited, Conflict, GatewayCredential, NewToken, Result, StoreError, TokenInfo};

pub(crate) async fn create_gateway_token(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: GatewayId,
    token: NewToken,
) -> Result<Audited<TokenInfo>> {
    let gateway = live_key(conn, organisation, id).await?;
    // Locks the stream, so that concurrent calls can't both find room for a token.
    conn.lock_streams(&BTreeSet::from([gateway])).await?;
    let live = query_scalar!(
        r#"
        select count(*) as "live!: i64" from gateway_tokens
        where gateway = $1 and revoked_at is null and (expires_at is null or expires_at > $2)
        "#,
        gateway.0,
        now as _
    )
    .fetch_one(&mut *conn)
    .await?;
    if live >= LIVE_TOKENS {
        return Err(Conflict::GatewayTokens { gateway: id, live }.into());
    }
    let digest = token.digest.as_slice();
    query!(
        r#"
        insert into gateway_tokens (id, gateway, digest, created_at, expires_at)
        values ($1, $2, $3, $4, $5)
        "#,
        token.id,
        gateway.0,
        digest,
        now as _,
        token.expires_at as _
    )
    .execute(&mut *conn)
    .await?;
    let info = fresh(token, "", Vec::new(), now);
    let entry = entries::gateway_token_created(id, &name(conn, gateway).await?, &info);
    Ok(Audited::new(info, [entry]))
}

/// The name of a gateway that exists.
async fn name(conn: &mut Connection, gateway: GatewayKey) -> Result<String> {
    let name = query_scalar!(
        r#"select name as "name!: String" from gateways where gateway = $1"#,
        gateway.0
    );
    Ok(name.fetch_one(conn).await?)
}

pub(crate) async fn gateway_tokens(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<Vec<TokenInfo>> {
    let gateway = live_key(conn, organisation, id).await?;
    let rows = query!(
        r#"
        select id as "id!: String", created_at as "created_at!: Timestamp",
            expires_at as "expires_at?: Timestamp", revoked_at as "revoked_at?: Timestamp",
            last_used_at as "last_used_at?: Timestamp"
        from gateway_tokens where gateway = $1 order by created_at, id
        "#,
        gateway.0
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| TokenInfo {
            id: row.id,
            name: String::new(),
            scopes: Vec::new(),
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            last_used_at: row.last_used_at,
        })
        .collect())
}

/// Revoking again changes nothing.
pub(crate) async fn revoke_gateway_token(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: GatewayId,
    token: &str,
) -> Result<Audited<()>> {
    let gateway = live_key(conn, organisation, id).await?;
    let done = query!(
        r#"
        update gateway_tokens set revoked_at = $3
        where id = $1 and gateway = $2 and revoked_at is null
        "#,
        token,
        gateway.0,
        now as _
    )
    .execute(&mut *conn)
    .await?;
    let tokens = gateway_tokens(conn, organisation, id).await?;
    let Some(token) = tokens.into_iter().find(|it| it.id == token) else {
        return Err(StoreError::NotFound("gateway token"));
    };
    if done.rows_affected() == 0 {
        return Ok(Audited::new((), []));
    }
    let entry = entries::gateway_token_revoked(id, &name(conn, gateway).await?, &token);
    Ok(Audited::new((), [entry]))
}

/// Tokens of a deleted gateway count as revoked.
pub(crate) async fn gateway_credential(
    conn: &mut Connection,
    token: &str,
) -> Result<Option<GatewayCredential>> {
    let row = query!(
        r#"
        select g.gateway as "gateway!: GatewayKey", g.id as "id!: GatewayId",
            g.name as "name!: String", g.organisation as "organisation!: OrganisationKey", t.digest as "digest!: Vec<u8>",
            t.expires_at as "expires_at?: Timestamp", t.last_used_at as "last_used_at?: Timestamp",
            (t.revoked_at is not null or g.deleted_at is not null) as "revoked!: bool",
            (g.disabled_at is not null) as "disabled!: bool"
        from gateway_tokens t join gateways g using (gateway)
        where t.id = $1
        "#,
        token
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        Ok(GatewayCredential {
            digest: read_digest(row.digest)?,
            gateway: row.gateway,
            gateway_id: row.id,
            gateway_name: row.name,
            organisation: row.organisation,
            expires_at: row.expires_at,
            revoked: row.revoked,
            disabled: row.disabled,
            last_used_at: row.last_used_at,
        })
    })
    .transpose()
}
