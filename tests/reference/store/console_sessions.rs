//! Sessions of the console.

use std::time::Duration;

use async_trait::async_trait;
use gateway_events::clock::Timestamp;
use gateway_events::store::limits::NOTED_EVERY;
use gateway_events::store::{
    ConsoleSession, ConsoleSessions, Result, SESSIONS_PER_TOKEN, StoreError,
};

use super::MemoryStore;
use super::retention::oldest;
use super::tables::{ConsoleSessionRow, Tables};

#[async_trait]
impl ConsoleSessions for MemoryStore {
    async fn begin_console_session(
        &self,
        digest: [u8; 32],
        token: &str,
        lifetime: Duration,
    ) -> Result<()> {
        self.write(|tables, now| tables.begin_console_session(now, digest, token, lifetime)).await
    }

    async fn console_session(&self, digest: &[u8; 32]) -> Result<Option<ConsoleSession>> {
        let now = (self.database.0.clock)();
        let found = self.read(|tables| Ok(tables.console_sessions.get(digest).cloned())).await?;
        Ok(found.filter(|row| row.expires_at > now).map(|row| ConsoleSession {
            token: row.token,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
        }))
    }

    async fn end_console_session(&self, digest: &[u8; 32]) -> Result<()> {
        self.write(|tables, _| {
            tables.console_sessions.remove(digest);
            Ok(())
        })
        .await
    }

    fn note_console_use(&self, digest: &[u8; 32], last_used_at: Timestamp) {
        let now = (self.database.0.clock)();
        if now.since(last_used_at) < NOTED_EVERY || self.check_open().is_err() {
            return;
        }
        if let Some(row) = self.database.tables().console_sessions.get_mut(digest)
            && row.last_used_at <= now.minus(NOTED_EVERY)
        {
            row.last_used_at = now;
        }
    }
}

impl Tables {
    /// Removes up to `batch` expired sessions; returns how many.
    pub(super) fn trim_console_sessions(&mut self, now: Timestamp, batch: usize) -> usize {
        let rows = self.console_sessions.iter().map(|(digest, row)| (row.expires_at, *digest));
        let gone = oldest(rows.filter(|(at, _)| *at <= now), batch);
        gone.iter().filter(|digest| self.console_sessions.remove(*digest).is_some()).count()
    }

    fn begin_console_session(
        &mut self,
        now: Timestamp,
        digest: [u8; 32],
        token: &str,
        lifetime: Duration,
    ) -> Result<()> {
        let found =
            self.access_tokens.get_mut(token).ok_or(StoreError::NotFound("access token"))?;
        found.info.last_used_at = Some(now);
        let own = self.console_sessions.iter().filter(|(_, row)| row.token == token);
        let mut own: Vec<_> = own.map(|(digest, row)| (row.created_at, *digest)).collect();
        own.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(&other.1)));
        let kept = usize::try_from(SESSIONS_PER_TOKEN - 1).unwrap_or(0);
        for (_, digest) in own.into_iter().skip(kept) {
            self.console_sessions.remove(&digest);
        }
        let row = ConsoleSessionRow {
            token: token.to_owned(),
            created_at: now,
            last_used_at: now,
            expires_at: now.plus(lifetime),
        };
        self.console_sessions.insert(digest, row);
        Ok(())
    }
}
