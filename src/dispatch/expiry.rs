//! The job that records events which expire while their gateway is not connected, within a second
//! of their expiry. Expired events of connected gateways, which may be many, delay no others.

use std::sync::Arc;
use std::time::Duration;

use super::Dispatcher;
use crate::event::Reason;
use crate::jobs::{Job, Next};
use crate::store::{ExpiryMark, StoreError};

/// The interval between searches for expired events.
pub(super) const INTERVAL: Duration = Duration::from_millis(500);
/// The pause between two batches, so that a long series of them does not block other transactions.
const PAUSE: Duration = Duration::from_millis(5);

/// Records one bounded batch at a time.
pub(super) struct Expiry {
    dispatcher: Arc<Dispatcher>,
    mark: ExpiryMark,
}

impl Expiry {
    pub(super) fn new(dispatcher: Arc<Dispatcher>) -> Self {
        Self { dispatcher, mark: ExpiryMark::default() }
    }
}

impl Job for Expiry {
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Next, StoreError> {
        let found = self.dispatcher.store.expire(&mut self.mark).await?;
        let detail = "the event expired while its gateway was not connected";
        for expired in &found.expired {
            self.dispatcher.failures.count_and_log(expired, Reason::Expired, detail);
        }
        Ok(if found.more { Next::After(PAUSE) } else { Next::Wait })
    }
}
