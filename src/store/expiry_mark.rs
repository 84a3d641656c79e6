//! How far the searches for expired events have come.

use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::store::TimedKey;
use crate::store::limits::{EXPIRED_EVENTS, EXPIRED_EVENTS_MOST};

/// An event is examined even if it is committed this long after its expiry.
const LATE: Duration = Duration::from_secs(10);
/// A batch that takes less time is followed by a larger one.
const SHORT: Duration = Duration::from_millis(20);
/// A batch that takes more time is followed by a smaller one.
const LONG: Duration = Duration::from_millis(100);
/// Passes that record nothing take at most one part in this many of the time.
const SHARE: u32 = 10;
/// The longest pause between two passes.
const PAUSE: Duration = Duration::from_mins(1);

/// Which expired events are examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Those that expired since the last batch.
    New,
    /// All of them, because some gateways may have disconnected.
    Again,
}

/// How far two searches for expired events have come. Both skip events of connected gateways, of
/// which there may be many. So one search examines newly expired events only. The other examines
/// all of them again in passes, and pauses between two passes.
#[derive(Clone, Copy, Debug)]
pub struct ExpiryMark {
    /// The last examined event, by its expiry.
    new: TimedKey,
    /// `None` between two passes.
    again: Option<TimedKey>,
    batch: i64,
    began_at: Instant,
    /// The duration of the batches of this pass that recorded nothing.
    spent: Duration,
    next_pass_at: Instant,
}

impl Default for ExpiryMark {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            new: TimedKey::FIRST,
            again: None,
            batch: EXPIRED_EVENTS,
            began_at: now,
            spent: Duration::ZERO,
            next_pass_at: now,
        }
    }
}

impl ExpiryMark {
    /// Events that the next batch reads, at most.
    pub const fn batch(&self) -> i64 {
        self.batch
    }

    /// Begins a batch. Returns the event after which it reads, or `None` during a pause.
    pub fn begin(&mut self, search: Search) -> Option<TimedKey> {
        let now = Instant::now();
        self.began_at = now;
        match search {
            Search::New => Some(self.new),
            Search::Again => {
                if self.again.is_none() && now >= self.next_pass_at {
                    (self.again, self.spent) = (Some(TimedKey::FIRST), Duration::ZERO);
                }
                self.again
            }
        }
    }

    /// Makes the next batch small, after one that failed: it may have timed out.
    pub const fn failed(&mut self) {
        self.batch = EXPIRED_EVENTS;
    }

    /// Records the end of a batch.
    pub fn end(&mut self, search: Search, end: BatchEnd) {
        let BatchEnd { next, now, is_last, is_idle } = end;
        let took = self.began_at.elapsed();
        if took > LONG {
            self.batch = (self.batch / 2).max(EXPIRED_EVENTS);
        } else if took < SHORT && !is_last {
            self.batch = (self.batch * 2).min(EXPIRED_EVENTS_MOST);
        }
        if search == Search::New {
            let late = TimedKey { at: now.minus(LATE), key: 0 };
            self.new = if is_last { next.min(late) } else { next };
            return;
        }
        if is_idle {
            self.spent += took;
        }
        self.again = (!is_last).then_some(next);
        if is_last {
            self.next_pass_at = Instant::now() + (self.spent * (SHARE - 1)).min(PAUSE);
        }
    }
}

/// The result of examining a batch of events for expiry.
#[derive(Clone, Copy, Debug)]
pub struct BatchEnd {
    /// The last event examined, by its expiry.
    pub next: TimedKey,
    /// The database's clock.
    pub now: Timestamp,
    /// Whether no event follows.
    pub is_last: bool,
    /// Whether it recorded nothing.
    pub is_idle: bool,
}
