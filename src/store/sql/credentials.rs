//! Organisations, access tokens and gateway tokens. Only digests are stored, and callers compare
//! them, in constant time.

use async_trait::async_trait;

use super::Backend;
use super::access::{Access as _, run};
use super::audit::{self, audited};
use super::dialect::{Connection, query, query_scalar};
use crate::clock::Timestamp;
use crate::event::{GatewayId, OrganisationKey};
use crate::store::audit::entries;
use crate::store::{
    AccessCredential, Actor, Credentials, GatewayCredential, NewToken, Principal, Result, Scope,
    StoreError, TokenInfo, TokenKind,
};

mod access;
mod gateway;

pub(crate) use access::{
    access_credential, access_tokens, create_access_token, has_access_tokens, revoke_access_token,
};
pub(crate) use gateway::{
    create_gateway_token, gateway_credential, gateway_tokens, revoke_gateway_token,
};

pub(crate) use crate::store::limits::NOTED_EVERY;

#[async_trait]
impl Credentials for Backend {
    async fn organisation(&self, name: &str) -> Result<OrganisationKey> {
        let name = name.to_owned();
        run!(self.point_read, |conn| organisation(conn, &name))
    }

    async fn has_access_tokens(&self) -> Result<bool> {
        run!(self.point_read, |conn| has_access_tokens(conn))
    }

    async fn create_access_token(
        &self,
        actor: &Actor,
        name: &str,
        scopes: &[Scope],
        token: NewToken,
    ) -> Result<TokenInfo> {
        let (organisation, name, scopes) = (actor.organisation, name.to_owned(), scopes.to_vec());
        audited!(self, actor, |conn, now| create_access_token(
            conn,
            now,
            organisation,
            &name,
            &scopes,
            token
        ))
    }

    async fn access_tokens(&self, organisation: OrganisationKey) -> Result<Vec<TokenInfo>> {
        run!(self.query, |conn| access_tokens(conn, organisation))
    }

    async fn revoke_access_token(&self, actor: &Actor, id: &str) -> Result<()> {
        let (organisation, id) = (actor.organisation, id.to_owned());
        audited!(self, actor, |conn, now| revoke_access_token(conn, now, organisation, &id))
    }

    async fn access_credential(&self, id: &str) -> Result<Option<AccessCredential>> {
        let id = id.to_owned();
        run!(self.point_read, |conn| access_credential(conn, &id))
    }

    fn note_use(&self, kind: TokenKind, id: &str, last_used_at: Option<Timestamp>) {
        if last_used_at.is_some_and(|at| Timestamp::now().since(at) < NOTED_EVERY) {
            return;
        }
        let id = id.to_owned();
        self.writer.run_detached(move |conn, now| {
            Box::pin(async move { note_token_use(conn, now, kind, &id).await })
        });
    }

    async fn create_gateway_token(
        &self,
        actor: &Actor,
        id: GatewayId,
        token: NewToken,
    ) -> Result<TokenInfo> {
        let organisation = actor.organisation;
        audited!(self, actor, |conn, now| create_gateway_token(conn, now, organisation, id, token))
    }

    async fn gateway_tokens(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Vec<TokenInfo>> {
        run!(self.query, |conn| gateway_tokens(conn, organisation, id))
    }

    async fn revoke_gateway_token(&self, actor: &Actor, id: GatewayId, token: &str) -> Result<()> {
        let (organisation, token) = (actor.organisation, token.to_owned());
        audited!(self, actor, |conn, now| revoke_gateway_token(conn, now, organisation, id, &token))
    }

    async fn gateway_credential(&self, token: &str) -> Result<Option<GatewayCredential>> {
        let token = token.to_owned();
        run!(self.point_read, |conn| gateway_credential(conn, &token))
    }
}

pub(crate) async fn organisation(conn: &mut Connection, name: &str) -> Result<OrganisationKey> {
    query_scalar!(
        r#"select organisation as "organisation!: OrganisationKey" from organisations where name = $1"#,
        name
    )
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::NotFound("organisation"))
}

/// Creates an access token with all scopes in the organisation `default`, and records that as
/// `access_token.recovered`.
pub(crate) async fn recover_admin_token(
    conn: &mut Connection,
    now: Timestamp,
    principal: Principal,
    name: &str,
    token: NewToken,
) -> Result<()> {
    let organisation = organisation(conn, "default").await?;
    let scopes = [Scope::Publish, Scope::Read, Scope::Admin];
    let created = create_access_token(conn, now, organisation, name, &scopes, token).await?;
    let entry = entries::access_token_recovered(&created.value);
    audit::record(conn, &principal.in_organisation(organisation), vec![entry]).await
}

/// Records the use of a token, at most once a minute.
pub(crate) async fn note_token_use(
    conn: &mut Connection,
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
            .execute(conn)
            .await?
        }
        TokenKind::Access => {
            query!(
                "update access_tokens set last_used_at = $2 where id = $1 and (last_used_at is null or last_used_at <= $3)",
                id,
                now as _,
                before as _
            )
            .execute(conn)
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
