//! Follows a gateway's log by the HTTP API: every entry once and in order,
//! whatever happens to the connection. It only looks; the gateway's position
//! stays where it is.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::api::{Api, ApiError};
use crate::api::{LogEntry, LogPage};
use crate::backoff::Backoff;
use crate::event::{Epoch, GatewayId, Sequence};

const WAIT: &str = "20s";
/// A service that does not hold a request back is asked this often.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(30);
const PAGE: usize = 1000;

/// What a follower comes to.
#[derive(Debug)]
pub enum Followed {
    /// The next entry.
    Entry(Box<LogEntry>),
    /// Retention has removed these before they could be read.
    Removed {
        /// The first.
        first: Sequence,
        /// The last, included.
        last: Sequence,
    },
    /// The log was reset or restored: it has another identity, and is followed
    /// from its beginning.
    Restarted,
    /// The service can't be reached now; it is asked again after `wait`.
    Unreachable {
        /// What happened.
        error: ApiError,
        /// How long.
        wait: Duration,
    },
}

/// A place in a gateway's log.
pub struct Follower {
    api: Api,
    path: String,
    epoch: Option<Epoch>,
    after: Sequence,
    ready: VecDeque<Followed>,
    backoff: Backoff,
    /// Not before this is the service asked again.
    not_before: Instant,
}

impl Follower {
    /// Follows what comes after this sequence, or after the log's present end.
    /// Also returns what the log is like now.
    pub async fn start(
        api: Api,
        gateway: GatewayId,
        after: Option<Sequence>,
    ) -> Result<(Self, LogPage), ApiError> {
        let path = format!("/gateways/{gateway}/log");
        // Nothing comes after the largest number: this asks for the head only.
        let query = [("after", Sequence::MAX.to_string())];
        let page: LogPage = api.get_as(&path, &query).await?;
        let follower = Self {
            api,
            path,
            epoch: Some(page.epoch),
            after: after.unwrap_or(page.head),
            ready: VecDeque::new(),
            backoff: Backoff::new(FIRST_RETRY, MAX_RETRY),
            not_before: Instant::now(),
        };
        Ok((follower, page))
    }

    /// Waits for what comes next. An error is one that asking again does not
    /// mend. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Followed, ApiError> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                if let Followed::Entry(entry) = &next {
                    self.after = entry.sequence;
                }
                return Ok(next);
            }
            sleep_until(self.not_before).await;
            let asked_at = Instant::now();
            let query = [
                ("after", self.after.to_string()),
                ("limit", PAGE.to_string()),
                ("wait", WAIT.to_owned()),
            ];
            match self.api.get_as(&self.path, &query).await {
                Ok(page) => self.take(page, asked_at),
                Err(error) if is_passing(&error) => {
                    let wait = self.backoff.next_pause();
                    self.not_before = Instant::now() + wait;
                    return Ok(Followed::Unreachable { error, wait });
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, page: LogPage, asked_at: Instant) {
        self.backoff.reset();
        if self.epoch.replace(page.epoch).is_some_and(|epoch| epoch != page.epoch) {
            self.after = Sequence::ZERO;
            self.ready.push_back(Followed::Restarted);
            return;
        }
        if page.list.is_empty() {
            self.not_before = asked_at + SHORTEST_INTERVAL;
        }
        let next = page.list.first().map(|entry| entry.sequence);
        let last = next.map_or(page.floor, Sequence::previous);
        if last > self.after {
            self.ready.push_back(Followed::Removed { first: self.after.next(), last });
            self.after = last;
        }
        self.ready.extend(page.list.into_iter().map(|entry| Followed::Entry(Box::new(entry))));
    }
}

/// Whether asking again can help.
fn is_passing(error: &ApiError) -> bool {
    match error {
        ApiError::Unreachable { .. } => true,
        _ => error.status().is_some_and(|status| status == 429 || status >= 500),
    }
}
