//! Sessions of the console. An access token opens one; its id is a secret, of which the store keeps
//! the SHA-256. Whether the token is still valid is for the caller to check, at each use.

use std::time::Duration;

use async_trait::async_trait;

use super::Result;
use crate::clock::Timestamp;

/// Sessions of an access token, at most. One more ends the oldest.
pub const SESSIONS_PER_TOKEN: i64 = 10;

/// A session that has not expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleSession {
    /// The public id of the access token that opened it.
    pub token: String,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was last used, accurate to a minute.
    pub last_used_at: Timestamp,
}

/// Operations on sessions of the console.
#[async_trait]
pub trait ConsoleSessions: Send + Sync + 'static {
    /// Begins a session of an access token. `NotFound` if there is no such token.
    async fn begin_console_session(
        &self,
        digest: [u8; 32],
        token: &str,
        lifetime: Duration,
    ) -> Result<()>;
    /// The session with this digest; `None` if there is none, or if it has expired.
    async fn console_session(&self, digest: &[u8; 32]) -> Result<Option<ConsoleSession>>;
    /// Ends a session. Nothing happens if there is none.
    async fn end_console_session(&self, digest: &[u8; 32]) -> Result<()>;
    /// Records the use of a session, at most once a minute. Returns at once, and skips the record
    /// when the writer's queue is full. `last_used_at` is the recorded time.
    fn note_console_use(&self, digest: &[u8; 32], last_used_at: Timestamp);
}
