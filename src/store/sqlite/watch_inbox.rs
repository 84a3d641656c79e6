//! Noticing that somebody else has committed. SQLite tells nobody, but keeps a
//! number that another connection's commit changes; asking for it touches
//! shared memory and no table. Our own commits change it too, which costs a
//! look into an empty inbox.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::open;
use crate::store::{Result, StoreError};

/// How long a commit stays unnoticed at the most.
const POLL: Duration = Duration::from_millis(20);

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
        let moved = next_change(connection, last).await;
        if moved.is_err() {
            // A connection that failed is not asked again.
            *seen = None;
        }
        moved
    }
}

async fn next_change(connection: &mut SqliteConnection, last: &mut i64) -> Result<()> {
    loop {
        let version = version(connection).await?;
        if version != *last {
            *last = version;
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A pragma is no statement that can be checked against a schema.
async fn version(connection: &mut SqliteConnection) -> Result<i64> {
    Ok(sqlx::query_scalar("pragma data_version").fetch_one(connection).await?)
}

fn unwatched(error: &open::OpenError) -> StoreError {
    StoreError::Unavailable(format!("the inbox can't be watched: {error}"))
}
