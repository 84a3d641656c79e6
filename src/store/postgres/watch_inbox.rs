//! Noticing that another program has committed to the inbox: the inbox says so
//! when it grows. A notification may be lost, or be switched off, so that the
//! inbox is looked into every second whatever is heard.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::connect;
use super::news::{is_there, subscribe};
use crate::store::{Result, StoreError};

const CHANNEL: &str = "gateway_events_inbox";
/// How long a commit stays unnoticed at the most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks at nothing new, after which the connection is asked whether it still lives.
const QUIET_LOOKS: u32 = 5;

#[derive(Debug)]
pub(super) struct Watch {
    settings: PgConnectOptions,
    closed: CancellationToken,
    /// Held by the one caller that waits, for as long as it waits.
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    has_begun: bool,
    ear: Option<PgListener>,
    quiet: u32,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seen").finish_non_exhaustive()
    }
}

impl Watch {
    pub(super) fn new(settings: PgConnectOptions, closed: CancellationToken) -> Self {
        Self { settings, closed, seen: Mutex::default() }
    }

    /// Waits for a change since the last call returned, or for a second;
    /// returns at once when it may have missed one.
    pub(super) async fn changed(&self) -> Result<()> {
        let waited = self.closed.run_until_cancelled(Box::pin(self.wait())).await;
        waited.ok_or_else(|| StoreError::Unavailable("the database is closed".to_owned()))
    }

    async fn wait(&self) {
        let mut seen = self.seen.lock().await;
        let is_first = !std::mem::replace(&mut seen.has_begun, true);
        let Some(ear) = &mut seen.ear else {
            // A listener keeps its connection, so that it has a pool of its own.
            seen.ear = subscribe(&connect::pool(&self.settings, 1), CHANNEL).await;
            if seen.ear.is_none() && !is_first {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            return;
        };
        let is_deaf = match timeout(LOOK_EVERY, ear.try_recv()).await {
            Ok(Ok(Some(_))) => {
                // One look answers for all that have come.
                while ear.next_buffered().is_some() {}
                seen.quiet = 0;
                false
            }
            Ok(Ok(None) | Err(_)) => true,
            Err(_) => {
                let is_due = seen.quiet >= QUIET_LOOKS;
                seen.quiet = if is_due { 0 } else { seen.quiet + 1 };
                match &mut seen.ear {
                    Some(ear) if is_due => !is_there(ear).await,
                    _ => false,
                }
            }
        };
        if is_deaf {
            seen.ear = None;
        }
    }
}
