//! Noticing that somebody else has committed. SQLite tells nobody, but keeps a
//! number that another connection's commit changes; asking for it touches
//! shared memory and no table. To look at the log's file is cheaper still, and
//! says when to ask. Our own commits change both, which costs a look into an
//! empty inbox.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::disk::wal_of;
use super::open;
use crate::store::{Result, StoreError};

/// How often the log's file is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Looks after which the number is asked for although the file seems to be as
/// it was: its times are coarse. After a change it is asked for at each of so
/// many looks, because a log is written before its commit counts.
const QUIET: u32 = 10;

#[derive(Debug)]
pub(super) struct Watch {
    path: PathBuf,
    closed: CancellationToken,
    /// The connection and the number that it saw last. Held by the one caller
    /// that waits, for as long as it waits.
    seen: Mutex<Option<(SqliteConnection, i64)>>,
}

impl Watch {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, closed: CancellationToken::new(), seen: Mutex::new(None) }
    }

    /// Waits for a change since the last call returned; returns at once when
    /// there was none, or when that is not known.
    pub(super) async fn changed(&self) -> Result<()> {
        let waited = self.closed.run_until_cancelled(self.wait()).await;
        waited.unwrap_or_else(|| Err(StoreError::Unavailable("the database is closed".to_owned())))
    }

    pub(super) async fn close(&self) {
        self.closed.cancel();
        if let Some((connection, _)) = self.seen.lock().await.take()
            && let Err(error) = connection.close().await
        {
            tracing::debug!(%error, "the inbox's watch did not close in good order");
        }
    }

    async fn wait(&self) -> Result<()> {
        let mut seen = self.seen.lock().await;
        let Some((connection, last)) = seen.as_mut() else {
            let mut connection =
                open::connect_read_only(&self.path).await.map_err(|error| unwatched(&error))?;
            let version = version(&mut connection).await?;
            *seen = Some((connection, version));
            return Ok(());
        };
        let moved = next_change(&wal_of(&self.path), connection, last).await;
        if moved.is_err() {
            // A connection that failed is not asked again.
            *seen = None;
        }
        moved
    }
}

async fn next_change(wal: &Path, connection: &mut SqliteConnection, last: &mut i64) -> Result<()> {
    let (mut seen, mut looks) = (state(wal), 0);
    loop {
        if looks < QUIET || looks % QUIET == 0 {
            let version = version(connection).await?;
            if version != *last {
                *last = version;
                return Ok(());
            }
        }
        tokio::time::sleep(LOOK).await;
        let now = state(wal);
        looks = if now == seen { looks.wrapping_add(1) } else { 0 };
        seen = now;
    }
}

/// What changes when the log is written, as a rule. The file is a local one,
/// so that this takes microseconds.
fn state(wal: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(wal).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// A pragma is no statement that can be checked against a schema.
async fn version(connection: &mut SqliteConnection) -> Result<i64> {
    Ok(sqlx::query_scalar("pragma data_version").fetch_one(connection).await?)
}

fn unwatched(error: &open::OpenError) -> StoreError {
    StoreError::Unavailable(format!("the inbox can't be watched: {error}"))
}
