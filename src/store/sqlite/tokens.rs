//! Credentials: digests in, digests out; a secret is never here.

use sqlx::sqlite::SqliteConnection;

use super::rows::{corrupt, time};
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, OrganisationKey};
use crate::store::{
    AccessCredential, GatewayCredential, NewToken, Result, Scope, StoreError, TokenInfo,
};

/// Live tokens per gateway: the one in use, and the next one while rotating.
const LIVE_TOKENS: i64 = 2;

/// Uses closer together than this are noted once (microseconds).
const NOTE_USE_EVERY: i64 = 60_000_000;

/// See [`crate::store::Store::has_access_tokens`].
pub(super) async fn has_access_tokens(connection: &mut SqliteConnection) -> Result<bool> {
    let any = sqlx::query_scalar!(r#"select exists (select 1 from access_tokens) as "any!: bool""#)
        .fetch_one(connection)
        .await?;
    Ok(any)
}

/// See [`crate::store::Store::create_access_token`].
pub(super) async fn create_access_token(
    connection: &mut SqliteConnection,
    now: Timestamp,
    organisation: OrganisationKey,
    name: &str,
    scopes: &[Scope],
    token: NewToken,
) -> Result<TokenInfo> {
    let words = scope_words(scopes);
    let (created, expires, digest) =
        (now.micros(), token.expires_at.map(Timestamp::micros), token.digest.as_slice());
    sqlx::query!(
        "insert into access_tokens (id, organisation, name, scopes, digest, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
        token.id,
        organisation.0,
        name,
        words,
        digest,
        created,
        expires
    )
    .execute(connection)
    .await?;
    Ok(TokenInfo {
        id: token.id,
        name: name.to_owned(),
        scopes: scopes.to_vec(),
        created_at: now,
        expires_at: token.expires_at,
        revoked_at: None,
        last_used_at: None,
    })
}

fn scope_words(scopes: &[Scope]) -> String {
    let word = |scope: &Scope| match scope {
        Scope::Publish => "publish",
        Scope::Read => "read",
        Scope::Admin => "admin",
    };
    scopes.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn scopes(words: &str) -> Result<Vec<Scope>> {
    words
        .split_whitespace()
        .map(|word| match word {
            "publish" => Ok(Scope::Publish),
            "read" => Ok(Scope::Read),
            "admin" => Ok(Scope::Admin),
            other => Err(corrupt(format!("unknown scope {other:?}"))),
        })
        .collect()
}

/// See [`crate::store::Store::access_tokens`].
pub(super) async fn access_tokens(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
) -> Result<Vec<TokenInfo>> {
    sqlx::query!(
        "select id, name, scopes, created_at, expires_at, revoked_at, last_used_at
         from access_tokens where organisation = $1 order by created_at, id",
        organisation.0
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(|row| {
        Ok(TokenInfo {
            id: row.id,
            name: row.name,
            scopes: scopes(&row.scopes)?,
            created_at: time(row.created_at),
            expires_at: row.expires_at.map(time),
            revoked_at: row.revoked_at.map(time),
            last_used_at: row.last_used_at.map(time),
        })
    })
    .collect()
}

/// See [`crate::store::Store::revoke_access_token`].
pub(super) async fn revoke_access_token(
    connection: &mut SqliteConnection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: &str,
) -> Result<()> {
    let now = now.micros();
    let found = sqlx::query!(
        "update access_tokens set revoked_at = coalesce(revoked_at, $3)
         where organisation = $1 and id = $2",
        organisation.0,
        id,
        now
    )
    .execute(connection)
    .await?;
    if found.rows_affected() == 0 {
        return Err(StoreError::NotFound("access token"));
    }
    Ok(())
}

/// See [`crate::store::Store::access_credential`]; with it, when its use was last noted.
pub(super) async fn access_credential(
    connection: &mut SqliteConnection,
    id: &str,
) -> Result<Option<(AccessCredential, Option<Timestamp>)>> {
    sqlx::query!(
        "select digest, organisation, scopes, expires_at, revoked_at, last_used_at
         from access_tokens where id = $1",
        id
    )
    .fetch_optional(connection)
    .await?
    .map(|row| {
        let credential = AccessCredential {
            digest: row.digest.as_slice().try_into().map_err(corrupt)?,
            organisation: OrganisationKey(row.organisation),
            scopes: scopes(&row.scopes)?,
            expires_at: row.expires_at.map(time),
            revoked: row.revoked_at.is_some(),
        };
        Ok((credential, row.last_used_at.map(time)))
    })
    .transpose()
}

async fn gateway_key(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<i64> {
    let id = id.to_string();
    sqlx::query_scalar!(
        "select gateway from gateways where organisation = $1 and id = $2 and deleted_at is null",
        organisation.0,
        id
    )
    .fetch_optional(connection)
    .await?
    .ok_or(StoreError::NotFound("gateway"))
}

/// See [`crate::store::Store::create_gateway_token`].
pub(super) async fn create_gateway_token(
    connection: &mut SqliteConnection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: GatewayId,
    token: NewToken,
) -> Result<TokenInfo> {
    let gateway = gateway_key(connection, organisation, id).await?;
    let (created, expires, digest) =
        (now.micros(), token.expires_at.map(Timestamp::micros), token.digest.as_slice());
    let live = sqlx::query_scalar!(
        r#"select count(*) as "live!: i64" from gateway_tokens
           where gateway = $1 and revoked_at is null and (expires_at is null or expires_at > $2)"#,
        gateway,
        created
    )
    .fetch_one(&mut *connection)
    .await?;
    if live >= LIVE_TOKENS {
        return Err(StoreError::Conflict(format!(
            "the gateway has {live} live tokens already; revoke one before making another"
        )));
    }
    sqlx::query!(
        "insert into gateway_tokens (id, gateway, digest, created_at, expires_at)
         values ($1, $2, $3, $4, $5)",
        token.id,
        gateway,
        digest,
        created,
        expires
    )
    .execute(connection)
    .await?;
    Ok(TokenInfo {
        id: token.id,
        name: String::new(),
        scopes: Vec::new(),
        created_at: now,
        expires_at: token.expires_at,
        revoked_at: None,
        last_used_at: None,
    })
}

/// See [`crate::store::Store::gateway_tokens`].
pub(super) async fn gateway_tokens(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<Vec<TokenInfo>> {
    let gateway = gateway_key(connection, organisation, id).await?;
    let rows = sqlx::query!(
        "select id, created_at, expires_at, revoked_at, last_used_at
         from gateway_tokens where gateway = $1 order by created_at, id",
        gateway
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| TokenInfo {
            id: row.id,
            name: String::new(),
            scopes: Vec::new(),
            created_at: time(row.created_at),
            expires_at: row.expires_at.map(time),
            revoked_at: row.revoked_at.map(time),
            last_used_at: row.last_used_at.map(time),
        })
        .collect())
}

/// See [`crate::store::Store::revoke_gateway_token`].
pub(super) async fn revoke_gateway_token(
    connection: &mut SqliteConnection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: GatewayId,
    token: &str,
) -> Result<()> {
    let gateway = gateway_key(connection, organisation, id).await?;
    let now = now.micros();
    let found = sqlx::query!(
        "update gateway_tokens set revoked_at = coalesce(revoked_at, $3)
         where gateway = $1 and id = $2",
        gateway,
        token,
        now
    )
    .execute(connection)
    .await?;
    if found.rows_affected() == 0 {
        return Err(StoreError::NotFound("token"));
    }
    Ok(())
}

/// See [`crate::store::Store::gateway_credential`]; with it, when its use was last noted.
pub(super) async fn gateway_credential(
    connection: &mut SqliteConnection,
    token: &str,
) -> Result<Option<(GatewayCredential, Option<Timestamp>)>> {
    sqlx::query!(
        "select t.digest, t.gateway, t.expires_at, t.revoked_at, t.last_used_at, g.id,
                g.organisation, g.disabled_at
         from gateway_tokens t join gateways g on g.gateway = t.gateway where t.id = $1",
        token
    )
    .fetch_optional(connection)
    .await?
    .map(|row| {
        let credential = GatewayCredential {
            digest: row.digest.as_slice().try_into().map_err(corrupt)?,
            gateway: GatewayKey(row.gateway),
            gateway_id: row.id.parse().map_err(corrupt)?,
            organisation: OrganisationKey(row.organisation),
            expires_at: row.expires_at.map(time),
            revoked: row.revoked_at.is_some(),
            disabled: row.disabled_at.is_some(),
        };
        Ok((credential, row.last_used_at.map(time)))
    })
    .transpose()
}

/// Whether a use is to be written down: once a minute is enough to tell a
/// token that is used from one that is not.
pub(super) fn use_is_news(now: Timestamp, noted: Option<Timestamp>) -> bool {
    noted.is_none_or(|noted| now.micros() - noted.micros() > NOTE_USE_EVERY)
}

/// Notes the use of a token of either kind; their ids differ.
pub(super) async fn note_use(
    connection: &mut SqliteConnection,
    now: Timestamp,
    id: &str,
) -> Result<()> {
    let now = now.micros();
    sqlx::query!("update gateway_tokens set last_used_at = $2 where id = $1", id, now)
        .execute(&mut *connection)
        .await?;
    sqlx::query!("update access_tokens set last_used_at = $2 where id = $1", id, now)
        .execute(connection)
        .await?;
    Ok(())
}
