//! Notifies lanes of pauses, resumes, skips and purges on another node. A node notifies its own lanes
//! at once, without this.

use std::sync::Arc;
use std::time::Duration;

use super::Dispatcher;
use crate::clock::Timestamp;
use crate::jobs::{Job, Next};
use crate::store::{Result, StoreError, StreamChanges, TimedKey};

/// A pause takes effect on all nodes within a second.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Changes that one statement reads, at most.
const PAGE: usize = 500;
/// A transaction may commit this long after the time that it recorded.
const LATE: Duration = Duration::from_mins(1);

/// The job that polls for changes of other nodes.
pub(super) struct Poll {
    dispatcher: Arc<Dispatcher>,
    /// Changes before this are known; `None` if there was no connection.
    since: Option<Timestamp>,
}

impl Poll {
    pub(super) const fn new(dispatcher: Arc<Dispatcher>) -> Self {
        Self { dispatcher, since: None }
    }
}

impl Job for Poll {
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Next> {
        // A connection that is opened later reads the state itself.
        if self.dispatcher.live() == 0 {
            self.since = None;
            return Ok(Next::Wait);
        }
        let since = self.since.unwrap_or_else(|| Timestamp::now().minus(LATE));
        let (mut after, mut first) = (TimedKey { at: since, key: 0 }, None);
        loop {
            let page = self.dispatcher.store.stream_changes(after, PAGE).await?;
            let StreamChanges { as_of, changed, next } = page;
            for (gateway, control) in changed {
                self.dispatcher.wake.changed(gateway, control);
            }
            // What is changed while the pages are read is read again by the next run.
            let begun = *first.get_or_insert(as_of);
            let Some(next) = next else {
                self.since = Some(begun.minus(LATE));
                return Ok(Next::Wait);
            };
            after = next;
        }
    }

    fn max_backoff(&self) -> Duration {
        POLL_INTERVAL
    }
}
