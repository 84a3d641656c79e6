//! Where the searches for expired events go on.

use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::store::limits::{EXPIRED_EVENTS, EXPIRED_EVENTS_MOST};

/// When an event expires, and its key.
pub type Expired = (Timestamp, i64);

/// Before every event.
const FIRST: Expired = (Timestamp::from_micros(i64::MIN), 0);
/// Events may be committed so long after others that expire later.
const LATE: Duration = Duration::from_secs(10);
/// A batch that takes less is followed by a larger one.
const SHORT: Duration = Duration::from_millis(20);
/// A batch that takes more is followed by a smaller one.
const LONG: Duration = Duration::from_millis(100);
/// The searches that find nothing take at most one in so many parts of the time.
const SHARE: u32 = 10;
/// The longest pause between two passes.
const PAUSE: Duration = Duration::from_mins(1);

/// Which expired events are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Those that have expired since.
    New,
    /// All of them: the gateways of some were connected before.
    Again,
}

/// How far two searches for expired events have come. Events of connected gateways stay
/// where they are, perhaps many of them. So one search looks at those that have expired
/// since, and another looks at all of them again, in passes between which it rests.
#[derive(Clone, Copy, Debug)]
pub struct ExpiryMark {
    new: Expired,
    /// `None` between two passes.
    again: Option<Expired>,
    batch: i64,
    began_at: Instant,
    /// How long the batches of this pass took that gave up nothing.
    spent: Duration,
    next_pass_at: Instant,
}

impl Default for ExpiryMark {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            new: FIRST,
            again: None,
            batch: EXPIRED_EVENTS,
            began_at: now,
            spent: Duration::ZERO,
            next_pass_at: now,
        }
    }
}

impl ExpiryMark {
    /// How many events the next batch reads, at the most.
    pub const fn batch(&self) -> i64 {
        self.batch
    }

    /// Begins a batch. Returns the event after which it reads, or `None` if the search rests.
    pub fn begin(&mut self, search: Search) -> Option<Expired> {
        let now = Instant::now();
        self.began_at = now;
        match search {
            Search::New => Some(self.new),
            Search::Again => {
                if self.again.is_none() && now >= self.next_pass_at {
                    (self.again, self.spent) = (Some(FIRST), Duration::ZERO);
                }
                self.again
            }
        }
    }

    /// After a batch that failed, perhaps because it took too long, the next one is small.
    pub const fn failed(&mut self) {
        self.batch = EXPIRED_EVENTS;
    }

    /// Ends a batch.
    pub fn end(&mut self, search: Search, end: BatchEnd) {
        let BatchEnd { next, now, is_last, is_idle } = end;
        let took = self.began_at.elapsed();
        if took > LONG {
            self.batch = (self.batch / 2).max(EXPIRED_EVENTS);
        } else if took < SHORT && !is_last {
            self.batch = (self.batch * 2).min(EXPIRED_EVENTS_MOST);
        }
        if search == Search::New {
            self.new = if is_last { next.min((now.minus(LATE), 0)) } else { next };
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

/// How a batch ended.
#[derive(Clone, Copy, Debug)]
pub struct BatchEnd {
    /// The last event that was looked at.
    pub next: Expired,
    /// The database's clock.
    pub now: Timestamp,
    /// Whether nothing lies behind it.
    pub is_last: bool,
    /// Whether it gave up nothing.
    pub is_idle: bool,
}
