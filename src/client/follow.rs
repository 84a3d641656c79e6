//! Follows a gateway's log over the HTTP API: each entry once and in order, across connection
//! failures. Reading confirms nothing.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::api::{Api, ApiError};
use crate::api::{LogEntry, LogPage, LogQuery, PageQuery};
use crate::backoff::Backoff;
use crate::event::{Epoch, GatewayId, Sequence};

const WAIT: &str = "20s";
/// The shortest interval between requests to a service that answers without waiting for events.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// What a follower has read.
#[derive(Debug)]
pub enum Followed {
    /// The next entry.
    Entry(Box<LogEntry>),
    /// Retention has removed these entries before they could be read.
    Removed {
        /// The first removed sequence.
        first: Sequence,
        /// The last removed sequence, inclusive.
        last: Sequence,
    },
    /// The log was reset or restored: its epoch has changed. It is followed from its beginning.
    Restarted,
    /// A request failed, and will be retried after `wait`.
    Unreachable {
        /// The error.
        error: ApiError,
        /// The time until the next attempt.
        wait: Duration,
    },
}

/// A position in a gateway's log.
pub struct Follower {
    api: Api,
    gateway: GatewayId,
    epoch: Option<Epoch>,
    after: Sequence,
    ready: VecDeque<Followed>,
    backoff: Backoff,
    /// The earliest time of the next request.
    not_before: Instant,
}

impl Follower {
    /// Follows the log after this sequence, or after its current end. Also returns the state of the
    /// log.
    pub async fn start(
        api: Api,
        gateway: GatewayId,
        after: Option<Sequence>,
    ) -> Result<(Self, LogPage), ApiError> {
        // No entry follows the largest sequence, so this reads only the state of the log.
        let query = LogQuery { after: Some(Sequence::MAX), ..LogQuery::default() };
        let page = api.gateway_log(gateway, &query).await?;
        let follower = Self {
            api,
            gateway,
            epoch: Some(page.epoch),
            after: after.unwrap_or(page.head),
            ready: VecDeque::new(),
            backoff: Backoff::new(FIRST_RETRY, MAX_RETRY),
            not_before: Instant::now(),
        };
        Ok((follower, page))
    }

    /// Waits for what comes next. An error is permanent. Cancel-safe.
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
            let query = LogQuery {
                after: Some(self.after),
                limit: Some(PageQuery::MAX_LIMIT),
                wait: Some(WAIT.to_owned()),
            };
            match self.api.gateway_log(self.gateway, &query).await {
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
            self.not_before = asked_at + MIN_INTERVAL;
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

/// Whether a retry can succeed.
pub(super) fn is_passing(error: &ApiError) -> bool {
    match error {
        ApiError::Unreachable { .. } => true,
        _ => error.status().is_some_and(|status| status == 429 || status >= 500),
    }
}
