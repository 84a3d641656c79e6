//! Access tokens: who may publish, read or administer an organisation.

use sqlx::SqliteConnection;

use super::{fresh, read_digest};
use crate::clock::Timestamp;
use crate::event::OrganisationKey;
use crate::store::{AccessCredential, NewToken, Result, Scope, StoreError, TokenInfo};

pub(in crate::store::sqlite) async fn has_access_tokens(
    connection: &mut SqliteConnection,
) -> Result<bool> {
    Ok(sqlx::query_scalar!(r#"select exists (select 1 from access_tokens) as "any!: bool""#)
        .fetch_one(connection)
        .await?)
}

pub(in crate::store::sqlite) async fn create_access_token(
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

pub(in crate::store::sqlite) async fn access_tokens(
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
pub(in crate::store::sqlite) async fn revoke_access_token(
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
pub(in crate::store::sqlite) async fn access_credential(
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
                .ok_or_else(|| {
                    StoreError::Corrupt(format!("an access token has the scope {word:?}"))
                })
        })
        .collect()
}
