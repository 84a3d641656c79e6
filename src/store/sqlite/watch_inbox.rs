//! Noticing that somebody else has committed. SQLite tells nobody, but a commit
//! writes to the write-ahead log, which its file's length and time show; and
//! another connection's commit changes a number, which tells commits from other
//! writes. Our own commits change it too, which costs a look into an empty inbox.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connect;
use crate::clock::Timestamp;
use crate::store::{Result, StoreError};

/// How long a commit stays unnoticed at the most.
const POLL: Duration = Duration::from_millis(20);
/// A file's time moves in steps: two writes may have the same. Of what was
/// written longer ago than this, there is no second one.
const SETTLED: Duration = Duration::from_secs(1);
/// The number is asked for this often whatever the file shows: a commit writes
/// to the log first, and moves the number when that is on disk, perhaps much
/// later.
const ANYWAY: Duration = Duration::from_millis(80);

#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    /// The write-ahead log's file.
    log: PathBuf,
    closed: CancellationToken,
    /// Held by the one caller that waits, for as long as it waits.
    seen: Mutex<Option<Seen>>,
}

/// A connection, and what it saw last.
#[derive(Debug)]
struct Seen {
    conn: SqliteConnection,
    version: i64,
    trace: Option<Trace>,
    asked_at: Instant,
}

/// What a write to the log leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trace {
    bytes: u64,
    written_at: SystemTime,
}

impl Trace {
    /// Of the log as it is now; `None` if the next write might leave the same.
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

    /// Waits for a change since the last call returned; returns at once when
    /// there was none, or when that is not known.
    pub(super) async fn changed(&self) -> Result<()> {
        let waited = self.closed.run_until_cancelled(self.wait()).await;
        waited.unwrap_or_else(|| Err(StoreError::Unavailable("the database is closed".to_owned())))
    }

    pub(super) async fn close(&self) {
        self.closed.cancel();
        if let Some(seen) = self.seen.lock().await.take()
            && let Err(error) = seen.conn.close().await
        {
            tracing::debug!(%error, "the inbox's watch did not close in good order");
        }
    }

    async fn wait(&self) -> Result<()> {
        let mut seen = self.seen.lock().await;
        let Some(known) = seen.as_mut() else {
            let mut conn =
                connect::connect_read_only(&self.path).await.map_err(|error| unwatched(&error))?;
            let version = version(&mut conn).await?;
            *seen = Some(Seen { conn, version, trace: None, asked_at: Instant::now() });
            return Ok(());
        };
        let moved = known.change(&self.log).await;
        if moved.is_err() {
            // A connection that failed is not asked again.
            *seen = None;
        }
        moved
    }
}

impl Seen {
    async fn change(&mut self, log: &Path) -> Result<()> {
        loop {
            // Before the number is asked for: what is written in between shows.
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

/// A pragma is no statement that can be checked against a schema.
async fn version(conn: &mut SqliteConnection) -> Result<i64> {
    Ok(sqlx::query_scalar("pragma data_version").fetch_one(conn).await?)
}

fn unwatched(error: &connect::OpenError) -> StoreError {
    StoreError::Unavailable(format!("the inbox can't be watched: {error}"))
}
