//! Sessions of the console.

use std::time::Duration;

use async_trait::async_trait;

use super::Backend;
use super::access::{Access as _, run};
use super::dialect::{Connection, query};
use crate::clock::Timestamp;
use crate::store::limits::NOTED_EVERY;
use crate::store::{ConsoleSession, ConsoleSessions, Result, SESSIONS_PER_TOKEN, StoreError};

#[async_trait]
impl ConsoleSessions for Backend {
    async fn begin_console_session(
        &self,
        digest: [u8; 32],
        token: &str,
        lifetime: Duration,
    ) -> Result<()> {
        let token = token.to_owned();
        run!(self.write_tx, |conn, now| begin(conn, now, &digest, &token, lifetime))
    }

    async fn console_session(&self, digest: &[u8; 32]) -> Result<Option<ConsoleSession>> {
        let digest = *digest;
        let found = run!(self.point_read, |conn| session(conn, &digest))?;
        Ok(found.filter(|session| session.expires_at > Timestamp::now()))
    }

    async fn end_console_session(&self, digest: &[u8; 32]) -> Result<()> {
        let digest = *digest;
        run!(self.write_tx, |conn, _now| end(conn, &digest))
    }

    fn note_console_use(&self, digest: &[u8; 32], last_used_at: Timestamp) {
        if Timestamp::now().since(last_used_at) < NOTED_EVERY {
            return;
        }
        let digest = *digest;
        self.writer.run_detached(move |conn, now| {
            Box::pin(async move { note_use(conn, now, &digest).await })
        });
    }
}

/// The token's record is changed first: on Postgres, that lets sessions of one token begin one after
/// another, so that their number is bounded.
async fn begin(
    conn: &mut Connection,
    now: Timestamp,
    digest: &[u8],
    token: &str,
    lifetime: Duration,
) -> Result<()> {
    let used = query!("update access_tokens set last_used_at = $2 where id = $1", token, now as _)
        .execute(&mut *conn)
        .await?;
    if used.rows_affected() == 0 {
        return Err(StoreError::NotFound("access token"));
    }
    let others = SESSIONS_PER_TOKEN - 1;
    query!(
        r#"
        delete from console_sessions where token = $1 and digest not in (
            select digest from console_sessions where token = $1
            order by created_at desc, digest limit $2
        )
        "#,
        token,
        others
    )
    .execute(&mut *conn)
    .await?;
    let expires_at = now.plus(lifetime);
    query!(
        r#"
        insert into console_sessions (digest, token, created_at, last_used_at, expires_at)
        values ($1, $2, $3, $4, $5)
        "#,
        digest,
        token,
        now as _,
        now as _,
        expires_at as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn session(conn: &mut Connection, digest: &[u8]) -> Result<Option<ConsoleSession>> {
    let row = query!(
        r#"
        select token as "token!: String", expires_at as "expires_at!: Timestamp",
            last_used_at as "last_used_at!: Timestamp"
        from console_sessions where digest = $1
        "#,
        digest
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| ConsoleSession {
        token: row.token,
        expires_at: row.expires_at,
        last_used_at: row.last_used_at,
    }))
}

async fn end(conn: &mut Connection, digest: &[u8]) -> Result<()> {
    query!("delete from console_sessions where digest = $1", digest).execute(conn).await?;
    Ok(())
}

async fn note_use(conn: &mut Connection, now: Timestamp, digest: &[u8]) -> Result<()> {
    let before = now.minus(NOTED_EVERY);
    query!(
        "update console_sessions set last_used_at = $2 where digest = $1 and last_used_at <= $3",
        digest,
        now as _,
        before as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes up to `batch` expired sessions; returns how many.
pub(super) async fn forget(conn: &mut Connection, now: Timestamp, batch: i64) -> Result<u64> {
    let done = query!(
        r#"
        delete from console_sessions where digest in (
            select digest from console_sessions where expires_at <= $1 order by expires_at limit $2
        )
        "#,
        now as _,
        batch
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
