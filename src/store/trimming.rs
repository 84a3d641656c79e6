//! What retention keeps, and how far it has come.

use std::time::{Duration, Instant};

use crate::clock::{ClockGuard, Timestamp};

/// How long and how much is kept.
#[derive(Clone, Copy, Debug)]
pub struct RetentionLimits {
    /// Confirmed events are kept this long after they were appended; the ledger as long.
    pub max_age: Duration,
    /// Confirmed events kept per gateway at the most.
    pub max_events: i64,
    /// Unconfirmed events are removed after this, and recorded as failed. Rejected
    /// rows of the inbox are kept as long.
    pub hard_max_age: Duration,
    /// Unconfirmed events kept per gateway at the most, likewise.
    pub hard_max_events: i64,
    /// Open dead letters are kept this long, and at least `max_age`, with their
    /// events and failed attempts, so that they can be redriven; of each gateway
    /// those among its last `hard_max_events` events. Those that the hard limits
    /// made go with the ledger.
    pub dead_letter_max_age: Duration,
    /// How long the position of an ended unnamed connection is kept.
    pub left_behind: Duration,
    /// Rows looked at per transaction at the most.
    pub batch: i64,
}

/// Where retention goes on. A pass looks at each kind of row once, and what it
/// has looked at and kept is not looked at again by later passes. After the clock
/// was set, nothing is called older than it would be otherwise for an hour.
#[derive(Clone, Copy, Debug)]
pub struct TrimMark {
    /// The kind of row that is looked at next.
    pub step: TrimStep,
    /// Logs up to this gateway's have been looked at in this pass.
    pub gateway: i64,
    /// Events up to this one have been looked at: when appended, and its key.
    pub event: (Timestamp, i64),
    /// Attempts up to this one: when it finished, and its key.
    pub attempt: (Timestamp, i64),
    /// Dead letters up to this one: when it died, its gateway and first number.
    pub letter: (Timestamp, i64, i64),
    /// The same for dead letters that are too old to be kept in any case.
    pub old_letter: (Timestamp, i64, i64),
    /// Some dead letters were kept for a position behind them, which moves: the
    /// next pass looks at all of them again.
    pub letters_wait: bool,
    /// The database's clock, as it was seen.
    pub clock: ClockGuard,
}

impl RetentionLimits {
    /// Nothing is too old or too much.
    pub const KEEP_ALL: Self = Self {
        max_age: Duration::MAX,
        max_events: i64::MAX,
        hard_max_age: Duration::MAX,
        hard_max_events: i64::MAX,
        dead_letter_max_age: Duration::MAX,
        left_behind: Duration::MAX,
        batch: 1,
    };

    /// Open dead letters that died before this are not kept.
    pub fn dead_before(&self, now: Timestamp) -> Timestamp {
        now.minus(self.dead_letter_max_age.max(self.max_age))
    }
}

impl TrimMark {
    /// By which a batch measures ages, given what the clock shows.
    pub fn measure_by(&mut self, now: Timestamp) -> Timestamp {
        let at = Instant::now();
        if let Some(jump) = self.clock.read(now, at) {
            tracing::warn!(%jump, "the clock was set; retention goes by its old course for an hour");
        }
        self.clock.cautious(now, at)
    }
}

impl Default for TrimMark {
    fn default() -> Self {
        const NEVER: Timestamp = Timestamp::from_micros(i64::MIN);
        Self {
            step: TrimStep::Logs,
            gateway: 0,
            event: (NEVER, 0),
            attempt: (NEVER, 0),
            letter: (NEVER, 0, 0),
            old_letter: (NEVER, 0, 0),
            letters_wait: false,
            clock: ClockGuard::default(),
        }
    }
}

/// A kind of row that retention removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrimStep {
    /// Rows of gateways' logs.
    Logs,
    /// Positions of ended connections.
    Positions,
    /// Events that are in no log.
    Events,
    /// Attempts whose rows of the log were removed.
    Attempts,
    /// Attempts that are too old.
    OldAttempts,
    /// Dead letters.
    Letters,
    /// Dead letters that are too old to be kept in any case.
    OldLetters,
    /// Idempotency keys.
    Keys,
    /// Ended connections.
    Connections,
    /// Rejected rows of the inbox.
    Rejected,
}

impl TrimStep {
    /// The kind after this one; none after the last.
    pub const fn next(self) -> Option<Self> {
        match self {
            Self::Logs => Some(Self::Positions),
            Self::Positions => Some(Self::Events),
            Self::Events => Some(Self::Attempts),
            Self::Attempts => Some(Self::OldAttempts),
            Self::OldAttempts => Some(Self::Letters),
            Self::Letters => Some(Self::OldLetters),
            Self::OldLetters => Some(Self::Keys),
            Self::Keys => Some(Self::Connections),
            Self::Connections => Some(Self::Rejected),
            Self::Rejected => None,
        }
    }
}

/// What one bounded batch of retention removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Outbox rows.
    pub deliveries: u64,
    /// Events that no outbox row names any more.
    pub events: u64,
    /// Ledger rows.
    pub attempts: u64,
    /// Deliveries lost unconfirmed to the hard limits.
    pub lost: u64,
    /// The pass goes on.
    pub more: bool,
}
