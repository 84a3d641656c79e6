//! Follows the feed over the HTTP API: each message once and in order, across lost connections and
//! nodes. What can't be received is reported as a gap.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::api::{Api, ApiError};
use super::lines::{Field, Lines};
use crate::api::{FeedEndReason, FeedMessage, FeedQuery};
use crate::backoff::Backoff;

/// A feed that sends nothing for so long is lost: it sends a comment every 10 s.
const SILENCE: Duration = Duration::from_secs(35);
/// The length of the longest line. Messages are much shorter.
const MAX_LINE_BYTES: usize = 256 * 1024;
const FIRST_RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// What a follower has received.
#[derive(Debug)]
pub enum FeedItem {
    /// The feed is open, again if it was before.
    Connected,
    /// A message, and the position after it.
    Message {
        /// The position, with which a later follower continues.
        id: String,
        /// The message.
        message: Box<FeedMessage>,
    },
    /// The connection was lost, or could not be made; it is made again after `wait`.
    Disconnected {
        /// The error, for people.
        why: String,
        /// The time until the next attempt.
        wait: Duration,
    },
}

/// A position in the feed.
pub struct FeedFollower {
    api: Api,
    query: FeedQuery,
    /// The position after what was received.
    last_id: Option<String>,
    /// The position after the last message that was returned.
    returned_id: Option<String>,
    stream: Option<reqwest::Response>,
    lines: Lines,
    ready: VecDeque<FeedItem>,
    backoff: Backoff,
    /// The earliest time of the next attempt.
    not_before: Instant,
}

impl FeedFollower {
    /// Follows the feed after a message, or from now on.
    pub fn new(api: Api, query: FeedQuery, last_id: Option<String>) -> Self {
        Self {
            api,
            query,
            returned_id: last_id.clone(),
            last_id,
            stream: None,
            lines: Lines::new(MAX_LINE_BYTES),
            ready: VecDeque::new(),
            backoff: Backoff::new(FIRST_RETRY, MAX_RETRY),
            not_before: Instant::now(),
        }
    }

    /// The position after the last message that [`next`](Self::next) has returned.
    pub fn last_id(&self) -> Option<&str> {
        // Messages that were received later, and are not returned yet, are after this position.
        let id = if self.ready.is_empty() { &self.last_id } else { &self.returned_id };
        id.as_deref()
    }

    /// Waits for what comes next. An error is permanent. Cancel-safe.
    pub async fn next(&mut self) -> Result<FeedItem, ApiError> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                if let FeedItem::Message { id, .. } = &next {
                    self.returned_id = Some(id.clone());
                }
                return Ok(next);
            }
            let Some(stream) = &mut self.stream else {
                self.connect().await?;
                continue;
            };
            let why = match timeout(SILENCE, stream.chunk()).await {
                Ok(Ok(Some(bytes))) => match self.lines.add(&bytes) {
                    Ok(()) => {
                        self.take();
                        continue;
                    }
                    Err(why) => why.to_owned(),
                },
                Ok(Ok(None)) => "the service ended the feed".to_owned(),
                Ok(Err(_)) => "the connection was lost".to_owned(),
                Err(_) => "the feed was silent for too long".to_owned(),
            };
            self.lost(why);
        }
    }

    async fn connect(&mut self) -> Result<(), ApiError> {
        sleep_until(self.not_before).await;
        match self.api.feed(&self.query, self.last_id.as_deref()).await {
            Ok(stream) => {
                self.stream = Some(stream);
                self.lines = Lines::new(MAX_LINE_BYTES);
                self.ready.push_back(FeedItem::Connected);
                Ok(())
            }
            Err(error) if super::follow::is_passing(&error) => {
                self.lost(error.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn lost(&mut self, why: String) {
        self.stream = None;
        let wait = self.backoff.next_pause();
        self.not_before = Instant::now() + wait;
        self.ready.push_back(FeedItem::Disconnected { why, wait });
    }

    /// Takes the messages that are complete.
    fn take(&mut self) {
        while let Some(field) = self.lines.next() {
            match field {
                Field::Id(id) => self.last_id = Some(id),
                Field::Comment => {}
                Field::Data(data) => {
                    self.backoff.reset();
                    // A kind that only a newer version knows is skipped.
                    let Ok(message) = serde_json::from_str::<FeedMessage>(&data) else { continue };
                    if let FeedMessage::End(end) = &message {
                        let why = match end.reason {
                            FeedEndReason::Shutdown => "the node is shutting down",
                            FeedEndReason::TokenInvalid => "the access token is not valid any more",
                            FeedEndReason::Unavailable => "the node can't read its database",
                        };
                        self.lost(why.to_owned());
                        return;
                    }
                    let id = self.last_id.clone().unwrap_or_default();
                    self.ready.push_back(FeedItem::Message { id, message: Box::new(message) });
                }
            }
        }
    }
}
