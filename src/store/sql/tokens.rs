//! Organisations, access tokens and gateway tokens: digests only. Nothing here
//! compares a secret; that is the edge's to do, in constant time.

use super::dialect::{Connection, query, query_scalar};

use crate::clock::Timestamp;
use crate::event::OrganisationKey;
use crate::store::{NewToken, Result, Scope, StoreError, TokenInfo, TokenKind};

mod access;
mod gateway;

pub(super) use access::{
    access_credential, access_tokens, create_access_token, has_access_tokens, revoke_access_token,
};
pub(super) use gateway::{
    create_gateway_token, gateway_credential, gateway_tokens, revoke_gateway_token,
};

pub(super) use crate::store::limits::NOTED_EVERY;

pub(super) async fn organisation(
    connection: &mut Connection,
    name: &str,
) -> Result<OrganisationKey> {
    query_scalar!(
        r#"select organisation as "organisation!: OrganisationKey" from organisations where name = $1"#,
        name
    )
    .fetch_optional(connection)
    .await?
    .ok_or(StoreError::NotFound("organisation"))
}

/// Makes an access token that may do everything in the organisation `default`.
pub(crate) async fn create_admin_token(
    connection: &mut Connection,
    now: Timestamp,
    name: &str,
    token: NewToken,
) -> Result<()> {
    let organisation = organisation(connection, "default").await?;
    let scopes = [Scope::Publish, Scope::Read, Scope::Admin];
    create_access_token(connection, now, organisation, name, &scopes, token).await.map(drop)
}

/// Notes that a token was used, at most once a minute.
pub(super) async fn note_token_use(
    connection: &mut Connection,
    now: Timestamp,
    kind: TokenKind,
    id: &str,
) -> Result<()> {
    let before = now.minus(NOTED_EVERY);
    match kind {
        TokenKind::Gateway => {
            query!(
                "update gateway_tokens set last_used_at = $2 where id = $1 and (last_used_at is null or last_used_at <= $3)",
                id,
                now as _,
                before as _
            )
            .execute(connection)
            .await?
        }
        TokenKind::Access => {
            query!(
                "update access_tokens set last_used_at = $2 where id = $1 and (last_used_at is null or last_used_at <= $3)",
                id,
                now as _,
                before as _
            )
            .execute(connection)
            .await?
        }
    };
    Ok(())
}

fn fresh(token: NewToken, name: &str, scopes: Vec<Scope>, now: Timestamp) -> TokenInfo {
    TokenInfo {
        id: token.id,
        name: name.to_owned(),
        scopes,
        created_at: now,
        expires_at: token.expires_at,
        revoked_at: None,
        last_used_at: None,
    }
}

fn read_digest(bytes: Vec<u8>) -> Result<[u8; 32]> {
    bytes
        .try_into()
        .map_err(|_| StoreError::Corrupt("a token's digest is not 32 bytes long".to_owned()))
}
