//! Tells lanes of pauses, resumes, skips and purges on another node. A node tells its own lanes at
//! once, without this.

use std::sync::Arc;
use std::time::Duration;

use super::Dispatcher;
use crate::clock::Timestamp;
use crate::jobs::{Job, Next};
use crate::store::{Result, StoreError, StreamChanges};

/// A pause takes effect on all nodes within a second.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(500);
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
        let changes = self.dispatcher.store.stream_changes(Some(since)).await?;
        let StreamChanges { as_of, changed } = changes;
        for (gateway, control) in changed {
            self.dispatcher.wake.changed(gateway, control);
        }
        self.since = Some(as_of.minus(LATE));
        Ok(Next::Wait)
    }

    fn max_backoff(&self) -> Duration {
        POLL_INTERVAL
    }
}
