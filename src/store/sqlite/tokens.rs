//! Organisations, access tokens and gateway tokens: digests only. Nothing here
//! compares a secret; that is the edge's to do, in constant time.

use sqlx::SqliteConnection;

use super::gateways::{live_key, parsed};
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, OrganisationKey};
use crate::store::{
    AccessCredential, GatewayCredential, NewToken, Result, Scope, StoreError, TokenInfo,
};

/// Enough to rotate without a pause, and no more to lose.
const LIVE_TOKENS: i64 = 2;

/// How exact "last used" is, in microseconds: a write per request would be a commit per request.
pub(super) const NOTED_EVERY: std::time::Duration = std::time::Duration::from_mins(1);

/// Which table a token lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A gateway's.
    Gateway,
    /// A publisher's or an admin's.
    Access,
}

pub(super) async fn organisation(connection: &mut SqliteConnection, name: &str) -> Result<OrganisationKey> {
    sqlx::query_scalar!(
        r#"select organisation as "organisation!: i64" from organisations where name = $1"#,
        name
    )
    .fetch_optional(connection)
    .await?
    .map(OrganisationKey)
    .ok_or(StoreError::NotFound("organisation"))
}

pub(super) async fn has_access_tokens(connection: &mut SqliteConnection) -> Result<bool> {
    Ok(sqlx::query_scalar!(r#"select exists (select 1 from access_tokens) as "any!: bool""#)
        .fetch_one(connection)
        .await?)
}

pub(super) async fn create_access_token(
    connection: &mut SqliteConnection,
    now: Timestamp,
    organisation: OrganisationKey,
    name: &str,
    scopes: &[Scope],
    token: NewToken,
) -> Result<TokenInfo> {
    let mut scopes = scopes.to_vec();
    scopes.sort_unstable();
    scopes.dedup();
    let words = scopes.iter().map(|scope| scope_word(*scope)).collect::<Vec<_>>().join(" ");
    let digest = token.digest.as_slice();
    let (created_at, expires_at) = (now.micros(), token.expires_at.map(Timestamp::micros));
    sqlx::query!(
        r#"
        insert into access_tokens (id, organisation, name, scopes, digest, created_at, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7)
        "#,
        token.id,
        organisation.0,
        name,
        words,
        digest,
        created_at,
        expires_at
    )
    .execute(connection)
    .await?;
    Ok(fresh(token, name, scopes, now))
}

pub(super) async fn access_tokens(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
) -> Result<Vec<TokenInfo>> {
    let rows = sqlx::query!(
        r#"
        select id as "id!: String", name as "name!: String", scopes as "scopes!: String",
            created_at as "created_at!: i64", expires_at as "expires_at?: i64",
            revoked_at as "revoked_at?: i64", last_used_at as "last_used_at?: i64"
        from access_tokens where organisation = $1 order by created_at, id
        "#,
        organisation.0
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(TokenInfo {
                id: row.id,
                name: row.name,
                scopes: read_scopes(&row.scopes)?,
                created_at: Timestamp::from_micros(row.created_at),
                expires_at: row.expires_at.map(Timestamp::from_micros),
                revoked_at: row.revoked_at.map(Timestamp::from_micros),
                last_used_at: row.last_used_at.map(Timestamp::from_micros),
            })
        })
        .collect()
}

/// Revoking again changes nothing: the first instant stays.
pub(super) async fn revoke_access_token(
    connection: &mut SqliteConnection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: &str,
) -> Result<()> {
    let now = now.micros();
    let done = sqlx::query!(
        r#"
        update access_tokens set revoked_at = coalesce(revoked_at, $3)
        where id = $1 and organisation = $2
        "#,
        id,
        organisation.0,
        now
    )
    .execute(connection)
    .await?;
    if done.rows_affected() == 0 { Err(StoreError::NotFound("access token")) } else { Ok(()) }
}

/// The credential, and when it was last used.
pub(super) async fn access_credential(
    connection: &mut SqliteConnection,
    id: &str,
) -> Result<Option<(AccessCredential, Option<Timestamp>)>> {
    let row = sqlx::query!(
        r#"
        select organisation as "organisation!: i64", scopes as "scopes!: String",
            digest as "digest!: Vec<u8>", expires_at as "expires_at?: i64",
            (revoked_at is not null) as "revoked!: bool", last_used_at as "last_used_at?: i64"
        from access_tokens where id = $1
        "#,
        id
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let credential = AccessCredential {
            digest: read_digest(row.digest)?,
            organisation: OrganisationKey(row.organisation),
            scopes: read_scopes(&row.scopes)?,
            expires_at: row.expires_at.map(Timestamp::from_micros),
            revoked: row.revoked,
        };
        Ok((credential, row.last_used_at.map(Timestamp::from_micros)))
    })
    .transpose()
}

pub(super) async fn create_gateway_token(
    connection: &mut SqliteConnection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: GatewayId,
    token: NewToken,
) -> Result<TokenInfo> {
    let gateway = live_key(connection, organisation, id).await?;
    let (created_at, expires_at) = (now.micros(), token.expires_at.map(Timestamp::micros));
    let live = sqlx::query_scalar!(
        r#"
        select count(*) as "live!: i64" from gateway_tokens
        where gateway = $1 and revoked_at is null and (expires_at is null or expires_at > $2)
        "#,
        gateway.0,
        created_at
    )
    .fetch_one(&mut *connection)
    .await?;
    if live >= LIVE_TOKENS {
        return Err(StoreError::Conflict(format!(
            "gateway {id} has {live} live tokens, which is all it may have; revoke the one that is no longer used, then make the new one"
        )));
    }
    let digest = token.digest.as_slice();
    sqlx::query!(
        r#"
        insert into gateway_tokens (id, gateway, digest, created_at, expires_at)
        values ($1, $2, $3, $4, $5)
        "#,
        token.id,
        gateway.0,
        digest,
        created_at,
        expires_at
    )
    .execute(connection)
    .await?;
    Ok(fresh(token, "", Vec::new(), now))
}

pub(super) async fn gateway_tokens(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<Vec<TokenInfo>> {
    let gateway = live_key(connection, organisation, id).await?;
    let rows = sqlx::query!(
        r#"
        select id as "id!: String", created_at as "created_at!: i64",
            expires_at as "expires_at?: i64", revoked_at as "revoked_at?: i64",
            last_used_at as "last_used_at?: i64"
        from gateway_tokens where gateway = $1 order by created_at, id
        "#,
        gateway.0
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| TokenInfo {
            id: row.id,
            name: String::new(),
            scopes: Vec::new(),
            created_at: Timestamp::from_micros(row.created_at),
            expires_at: row.expires_at.map(Timestamp::from_micros),
            revoked_at: row.revoked_at.map(Timestamp::from_micros),
            last_used_at: row.last_used_at.map(Timestamp::from_micros),
        })
        .collect())
}

/// Revoking again changes nothing: the first instant stays.
pub(super) async fn revoke_gateway_token(
    connection: &mut SqliteConnection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: GatewayId,
    token: &str,
) -> Result<()> {
    let gateway = live_key(connection, organisation, id).await?;
    let now = now.micros();
    let done = sqlx::query!(
        r#"
        update gateway_tokens set revoked_at = coalesce(revoked_at, $3)
        where id = $1 and gateway = $2
        "#,
        token,
        gateway.0,
        now
    )
    .execute(connection)
    .await?;
    if done.rows_affected() == 0 { Err(StoreError::NotFound("gateway token")) } else { Ok(()) }
}

/// The credential, and when it was last used. A deleted gateway's tokens count as revoked.
pub(super) async fn gateway_credential(
    connection: &mut SqliteConnection,
    token: &str,
) -> Result<Option<(GatewayCredential, Option<Timestamp>)>> {
    let row = sqlx::query!(
        r#"
        select g.gateway as "gateway!: i64", g.id as "id!: String",
            g.organisation as "organisation!: i64", t.digest as "digest!: Vec<u8>",
            t.expires_at as "expires_at?: i64", t.last_used_at as "last_used_at?: i64",
            (t.revoked_at is not null or g.deleted_at is not null) as "revoked!: bool",
            (g.disabled_at is not null) as "disabled!: bool"
        from gateway_tokens t join gateways g using (gateway)
        where t.id = $1
        "#,
        token
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let credential = GatewayCredential {
            digest: read_digest(row.digest)?,
            gateway: GatewayKey(row.gateway),
            gateway_id: parsed("gateway id", &row.id)?,
            organisation: OrganisationKey(row.organisation),
            expires_at: row.expires_at.map(Timestamp::from_micros),
            revoked: row.revoked,
            disabled: row.disabled,
        };
        Ok((credential, row.last_used_at.map(Timestamp::from_micros)))
    })
    .transpose()
}

/// Notes that a token was used, at most once a minute.
pub(super) async fn note_token_use(
    connection: &mut SqliteConnection,
    now: Timestamp,
    kind: TokenKind,
    id: &str,
) -> Result<()> {
    let now = now.micros();
    let before = Timestamp::from_micros(now).minus(NOTED_EVERY).micros();
    match kind {
        TokenKind::Gateway => {
            sqlx::query!(
                "update gateway_tokens set last_used_at = $2 where id = $1 and (last_used_at is null or last_used_at <= $3)",
                id,
                now,
                before
            )
            .execute(connection)
            .await?
        }
        TokenKind::Access => {
            sqlx::query!(
                "update access_tokens set last_used_at = $2 where id = $1 and (last_used_at is null or last_used_at <= $3)",
                id,
                now,
                before
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

const fn scope_word(scope: Scope) -> &'static str {
    match scope {
        Scope::Publish => "publish",
        Scope::Read => "read",
        Scope::Admin => "admin",
    }
}

fn read_scopes(words: &str) -> Result<Vec<Scope>> {
    words
        .split_ascii_whitespace()
        .map(|word| {
            [Scope::Publish, Scope::Read, Scope::Admin]
                .into_iter()
                .find(|scope| scope_word(*scope) == word)
                .ok_or_else(|| StoreError::Corrupt(format!("an access token has the scope {word:?}")))
        })
        .collect()
}

fn read_digest(bytes: Vec<u8>) -> Result<[u8; 32]> {
    bytes
        .try_into()
        .map_err(|_| StoreError::Corrupt("a token's digest is not 32 bytes long".to_owned()))
}
