//! Notices that another program has committed to the inbox: its trigger notifies. A notification
//! may be lost or disabled, so the inbox is also polled.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::listener::Listener;
use super::servers::Servers;
use crate::store::{Result, StoreError};

const CHANNEL: &str = "gateway_events_inbox";

#[derive(Debug)]
pub(super) struct Watch {
    closed: CancellationToken,
    /// Locked by the one caller that waits.
    listener: Mutex<Listener>,
}

impl Watch {
    pub(super) fn new(listener: Option<Arc<Servers>>, closed: CancellationToken) -> Self {
        Self { closed, listener: Mutex::new(Listener::new(CHANNEL, listener)) }
    }

    /// Waits for a notification or the time to poll. Returns at once if a notification may be lost.
    pub(super) async fn changed(&self) -> Result<()> {
        let waited = self.closed.run_until_cancelled(Box::pin(async {
            self.listener.lock().await.wait(|_| true).await;
        }));
        waited.await.ok_or_else(|| StoreError::Unavailable("the database is closed".to_owned()))
    }
}
