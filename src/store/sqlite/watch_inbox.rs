//! Notices that another program has committed. SQLite sends no notifications, but every commit
//! writes to the write-ahead log, which changes the file's length or modification time. `pragma
//! data_version` then distinguishes commits of other connections from other writes. The server's
//! own writer is another connection too, which costs a needless read of the inbox.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connect;
use crate::clock::Timestamp;
use crate::store::{Result, StoreError};

/// How long a commit may go unnoticed.
const POLL: Duration = Duration::from_millis(20);
/// Modification times have a limited resolution, so two writes may leave the same one. A later
/// write differs from one that is older than this.
const SETTLED: Duration = Duration::from_secs(1);
/// `data_version` is read this often even if the file has not changed: a commit writes to the log
/// first, and changes the version when the log is on disk, perhaps much later.
const ANYWAY: Duration = Duration::from_millis(80);

#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    /// The file of the write-ahead log.
    log: PathBuf,
    closed: CancellationToken,
    /// Locked while a caller waits; there is only one at a time.
    seen: Mutex<Option<Seen>>,
}

/// A connection, and the state that it saw last.
#[derive(Debug)]
struct Seen {
    conn: SqliteConnection,
    version: i64,
    trace: Option<Trace>,
    asked_at: Instant,
}

/// The length and modification time of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trace {
    bytes: u64,
    written_at: SystemTime,
}

impl Trace {
    /// The current ones; `None` if the next write might leave the same.
    fn of(log: &Path) -> Option<Self> {
        let file = std::fs::metadata(log).ok()?;
        let written_at = file.modified().ok()?;
        let micros = written_at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_micros();
        let age = Timestamp::now().since(Timestamp::from_micros(i64::try_from(micros).ok()?));
        (age > SETTLED).then_some(Self { bytes: file.len(), written_at })
    }
}

impl Watch {
    pub(super) fn new(path: PathBuf) -> Self {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Self { path, log: log.into(), closed: CancellationToken::new(), seen: Mutex::new(None) }
    }

    /// Waits for a change since the previous call returned. Returns at once if there was no
    /// previous call, or if changes may have been missed.
    pub(super) async fn changed(&self) -> Result<()> {
        let waited = self.closed.run_until_cancelled(self.wait()).await;
        waited.unwrap_or_else(|| Err(StoreError::Unavailable("the database is closed".to_owned())))
    }

    pub(super) async fn close(&self) {
        self.closed.cancel();
        if let Some(seen) = self.seen.lock().await.take()
            && let Err(error) = seen.conn.close().await
        {
            tracing::debug!(%error, "failed to close the connection that watches the inbox");
        }
    }

    async fn wait(&self) -> Result<()> {
        let mut seen = self.seen.lock().await;
        let Some(known) = seen.as_mut() else {
            let mut conn = connect::connect_read_only(&self.path)
                .await
                .map_err(|error| watch_failed(&error))?;
            let version = version(&mut conn).await?;
            *seen = Some(Seen { conn, version, trace: None, asked_at: Instant::now() });
            return Ok(());
        };
        let moved = known.change(&self.log).await;
        if moved.is_err() {
            // A connection that failed is not reused.
            *seen = None;
        }
        moved
    }
}

impl Seen {
    async fn change(&mut self, log: &Path) -> Result<()> {
        loop {
            // Before `data_version`, so that a write in between is noticed next time.
            let trace = Trace::of(log);
            let is_quiet = trace.is_some() && trace == self.trace;
            if !is_quiet || self.asked_at.elapsed() >= ANYWAY {
                let version = version(&mut self.conn).await?;
                (self.trace, self.asked_at) = (trace, Instant::now());
                if version != self.version {
                    self.version = version;
                    return Ok(());
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Pragmas can't be checked at compile time.
async fn version(conn: &mut SqliteConnection) -> Result<i64> {
    Ok(sqlx::query_scalar("pragma data_version").fetch_one(conn).await?)
}

fn watch_failed(error: &connect::OpenError) -> StoreError {
    StoreError::Unavailable(format!("failed to watch the inbox: {error}"))
}
