//! The job that counts published events per minute.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::jobs::{Job, Next};
use crate::store::{Feed, Log, StoreError};

/// After this time no transaction that assigned a key is still running: the database ends
/// transactions that are idle or have slow statements in less than half of it.
const SETTLED: Duration = Duration::from_mins(2);

/// The shortest time between two keys that are remembered.
const SPACING: Duration = Duration::from_secs(10);

/// Counts the events that were appended since its last run. Where keys become visible in the order of
/// the commits, it leaves those of the last two minutes for a later run.
pub(super) struct CountEvents {
    feed: Arc<dyn Feed>,
    log: Arc<dyn Log>,
    /// The highest key at each of the last runs, oldest first.
    ends: VecDeque<(Instant, i64)>,
    settled: i64,
}

impl CountEvents {
    pub(super) fn new(feed: Arc<dyn Feed>, log: Arc<dyn Log>) -> Self {
        Self { feed, log, ends: VecDeque::new(), settled: 0 }
    }
}

impl Job for CountEvents {
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Next, StoreError> {
        let (now, end) = (Instant::now(), self.feed.feed_ends().await?.events);
        let is_new = |(at, last): &(Instant, i64)| *last < end && at.elapsed() >= SPACING;
        if self.ends.back().is_none_or(is_new) {
            self.ends.push_back((now, end));
        }
        let wait = if self.feed.feed_has_gaps() { SETTLED } else { Duration::ZERO };
        while let Some((_, end)) = self.ends.pop_front_if(|(at, _)| at.elapsed() >= wait) {
            self.settled = end;
        }
        Ok(if self.log.count_published(self.settled).await? { Next::Again } else { Next::Wait })
    }
}
