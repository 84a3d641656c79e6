//! Access tokens, which authenticate publishers and admins.

use super::super::dialect::{Connection, query, query_scalar};

use super::{fresh, read_digest};
use crate::clock::Timestamp;
use crate::event::OrganisationKey;
use crate::store::audit::entries;
use crate::store::{AccessCredential, Audited, NewToken, Result, Scope, StoreError, TokenInfo};

pub(crate) async fn has_access_tokens(conn: &mut Connection) -> Result<bool> {
    Ok(query_scalar!(r#"select exists (select 1 from access_tokens) as "any!: bool""#)
        .fetch_one(conn)
        .await?)
}

pub(crate) async fn create_access_token(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    name: &str,
    scopes: &[Scope],
    token: NewToken,
) -> Result<Audited<TokenInfo>> {
    let mut scopes = scopes.to_vec();
    scopes.sort_unstable();
    scopes.dedup();
    let words = scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ");
    let digest = token.digest.as_slice();
    query!(
        r#"
        insert into access_tokens (id, organisation, name, scopes, digest, created_at, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7)
        "#,
        token.id,
        organisation.0,
        name,
        words,
        digest,
        now as _,
        token.expires_at as _
    )
    .execute(conn)
    .await?;
    let info = fresh(token, name, scopes, now);
    let entry = entries::access_token_created(&info);
    Ok(Audited::new(info, [entry]))
}

pub(crate) async fn access_tokens(
    conn: &mut Connection,
    organisation: OrganisationKey,
) -> Result<Vec<TokenInfo>> {
    let rows = query!(
        r#"
        select id as "id!: String", name as "name!: String", scopes as "scopes!: String",
            created_at as "created_at!: Timestamp", expires_at as "expires_at?: Timestamp",
            revoked_at as "revoked_at?: Timestamp", last_used_at as "last_used_at?: Timestamp"
        from access_tokens where organisation = $1 order by created_at, id
        "#,
        organisation.0
    )
    .fetch_all(conn)
    .await?;
    let tokens = rows.into_iter().map(|row| TokenInfo {
        id: row.id,
        name: row.name,
        scopes: read_scopes(&row.scopes),
        created_at: row.created_at,
        expires_at: row.expires_at,
        revoked_at: row.revoked_at,
        last_used_at: row.last_used_at,
    });
    Ok(tokens.collect())
}

/// Revoking again changes nothing.
pub(crate) async fn revoke_access_token(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: &str,
) -> Result<Audited<()>> {
    let done = query!(
        r#"
        update access_tokens set revoked_at = $3
        where id = $1 and organisation = $2 and revoked_at is null
        "#,
        id,
        organisation.0,
        now as _
    )
    .execute(&mut *conn)
    .await?;
    let tokens = access_tokens(conn, organisation).await?;
    let Some(token) = tokens.into_iter().find(|token| token.id == id) else {
        return Err(StoreError::NotFound("access token"));
    };
    let entry = (done.rows_affected() > 0).then(|| entries::access_token_revoked(&token));
    Ok(Audited::new((), entry))
}

/// The digest and scopes of a token, by its public part.
pub(crate) async fn access_credential(
    conn: &mut Connection,
    id: &str,
) -> Result<Option<AccessCredential>> {
    let row = query!(
        r#"
        select organisation as "organisation!: OrganisationKey", name as "name!: String",
            scopes as "scopes!: String",
            digest as "digest!: Vec<u8>", expires_at as "expires_at?: Timestamp",
            (revoked_at is not null) as "revoked!: bool", last_used_at as "last_used_at?: Timestamp"
        from access_tokens where id = $1
        "#,
        id
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        Ok(AccessCredential {
            digest: read_digest(row.digest)?,
            organisation: row.organisation,
            name: row.name.into(),
            scopes: read_scopes(&row.scopes),
            expires_at: row.expires_at,
            revoked: row.revoked,
            last_used_at: row.last_used_at,
        })
    })
    .transpose()
}

/// Ignores scopes that only a newer version knows: they permit nothing that this one does.
fn read_scopes(words: &str) -> Vec<Scope> {
    let known = [Scope::Publish, Scope::Read, Scope::Admin];
    let scope = |word| known.into_iter().find(|scope| scope.as_str() == word);
    words.split_ascii_whitespace().filter_map(scope).collect()
}
