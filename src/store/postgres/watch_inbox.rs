//! Noticing that another program has committed to the inbox: the inbox says so
//! when it grows. A notification may be lost, or be switched off here or there,
//! so that the inbox is looked into every second whatever is heard.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::hear::Ear;
use super::servers::Servers;
use crate::store::{Result, StoreError};

const CHANNEL: &str = "gateway_events_inbox";

#[derive(Debug)]
pub(super) struct Watch {
    closed: CancellationToken,
    /// Held by the one caller that waits, for as long as it waits.
    ear: Mutex<Ear>,
}

impl Watch {
    pub(super) fn new(listener: Option<Arc<Servers>>, closed: CancellationToken) -> Self {
        Self { closed, ear: Mutex::new(Ear::new(CHANNEL, listener)) }
    }

    /// Waits for a change since the last call returned, or for a second;
    /// returns at once when it may have missed one.
    pub(super) async fn changed(&self) -> Result<()> {
        let waited = self.closed.run_until_cancelled(Box::pin(async {
            self.ear.lock().await.wait(|_| true).await;
        }));
        waited.await.ok_or_else(|| StoreError::Unavailable("the database is closed".to_owned()))
    }
}
