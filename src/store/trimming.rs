//! Limits and progress of retention.

use std::time::{Duration, Instant};

use super::TimedKey;
use crate::clock::{ClockGuard, Timestamp};
use crate::event::{GatewayKey, Sequence};

/// How long data is kept, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct RetentionLimits {
    /// Confirmed events are kept this long after they were appended; the ledger as long.
    pub max_age: Duration,
    /// Confirmed events kept per gateway, at most.
    pub max_events: i64,
    /// Unconfirmed events are kept this long after they were appended. Their removal is recorded as
    /// a failed delivery. Rejected rows of the inbox are kept as long.
    pub hard_max_age: Duration,
    /// Unconfirmed events kept per gateway, at most. The removal of more than these is recorded as a
    /// failed delivery, too.
    pub hard_max_events: i64,
    /// Open dead letters are kept this long, and at least `max_age`, with their events and failed
    /// attempts, so that they can be redriven. Of each gateway, only those among its last
    /// `hard_max_events` events are kept. Dead letters that the hard limits created are removed
    /// with the ledger.
    pub dead_letter_max_age: Duration,
    /// How long the position of an [unnamed connection](super::positions#definitions) is kept after
    /// its end.
    pub orphaned_cursor_max_age: Duration,
    /// An [instance](super::instances) expires this long after its last activity, unless it is
    /// connected.
    pub instance_max_age: Duration,
    /// Records of the audit log are kept this long, and those of jobs after their end.
    pub audit_max_age: Duration,
    /// Rows examined per transaction, at most.
    pub batch: i64,
}

/// Where retention continues. A pass examines each kind of row once, and later passes skip what it
/// examined and kept. For an hour after the clock was set, ages are measured by the earlier of the
/// new time and the old course of the clock.
#[derive(Clone, Copy, Debug)]
pub struct TrimMark {
    /// The kind of row to examine next.
    pub step: TrimStep,
    /// Logs, or instances, up to this gateway's have been examined in this pass.
    pub gateway: i64,
    /// The last examined event, by when it was appended.
    pub event: TimedKey,
    /// The first event in this pass that another transaction had locked, so that it was kept. The
    /// next pass examines the events from there on again.
    pub locked_event: Option<TimedKey>,
    /// The last examined attempt, by when it finished.
    pub attempt: TimedKey,
    /// The last examined range of dead letters.
    pub dead_letter: DeadLetterPlace,
    /// The last examined range of dead letters that are too old to keep in any case.
    pub old_dead_letter: DeadLetterPlace,
    /// Whether dead letters were kept because a position has not passed them. Positions move, so
    /// the next pass examines all of them again.
    pub dead_letters_wait: bool,
    /// Detects when the database's clock is set.
    pub clock: ClockGuard,
}

/// A position among the ranges of dead letters, which are ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadLetterPlace {
    /// When the range became dead letters.
    pub dead_at: Timestamp,
    /// The gateway.
    pub gateway: GatewayKey,
    /// The range's first sequence.
    pub first: Sequence,
}

impl DeadLetterPlace {
    /// Before every range.
    pub const FIRST: Self = Self {
        dead_at: Timestamp::from_micros(i64::MIN),
        gateway: GatewayKey(0),
        first: Sequence::ZERO,
    };
}

impl RetentionLimits {
    /// Keeps everything.
    pub const KEEP_ALL: Self = Self {
        max_age: Duration::MAX,
        max_events: i64::MAX,
        hard_max_age: Duration::MAX,
        hard_max_events: i64::MAX,
        dead_letter_max_age: Duration::MAX,
        orphaned_cursor_max_age: Duration::MAX,
        instance_max_age: Duration::MAX,
        audit_max_age: Duration::MAX,
        batch: 1,
    };

    /// States of gateways that were replaced before this instant are not kept. They explain which
    /// gateways an event matched, so they are kept as long as events may be.
    pub fn replaced_before(&self, now: Timestamp) -> Timestamp {
        now.minus(self.hard_max_age.max(self.audit_max_age))
    }

    /// Open dead letters that died before this instant are not kept.
    pub fn dead_before(&self, now: Timestamp) -> Timestamp {
        now.minus(self.dead_letter_max_age.max(self.max_age))
    }
}

impl TrimMark {
    /// Returns to the events that were kept because they were locked, at the end of a pass over
    /// events.
    pub fn return_to_locked(&mut self) {
        let before = self.locked_event.take().map(|it| TimedKey { key: it.key - 1, ..it });
        self.event = before.into_iter().fold(self.event, TimedKey::min);
    }

    /// The instant by which a batch measures ages, given the clock's reading.
    pub fn measure_by(&mut self, now: Timestamp) -> Timestamp {
        let at = Instant::now();
        if let Some(jump) = self.clock.read(now, at) {
            tracing::warn!(%jump, "the database's clock was set; for an hour, retention measures ages by the earlier of the old and the new time");
        }
        self.clock.cautious(now, at)
    }
}

impl Default for TrimMark {
    fn default() -> Self {
        Self {
            step: TrimStep::Logs,
            gateway: 0,
            event: TimedKey::FIRST,
            locked_event: None,
            attempt: TimedKey::FIRST,
            dead_letter: DeadLetterPlace::FIRST,
            old_dead_letter: DeadLetterPlace::FIRST,
            dead_letters_wait: false,
            clock: ClockGuard::default(),
        }
    }
}

/// The kinds of rows that retention removes, in the order of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrimStep {
    /// Rows of gateways' logs.
    Logs,
    /// Positions of ended connections.
    Positions,
    /// Instances that have not connected for too long.
    Instances,
    /// Records of expired instances.
    ExpiredInstances,
    /// Events that are in no log.
    Events,
    /// Attempts whose log rows were removed.
    Attempts,
    /// Attempts that are too old.
    OldAttempts,
    /// Dead letters.
    DeadLetters,
    /// Dead letters that are too old to be kept in any case.
    OldDeadLetters,
    /// Idempotency keys.
    Keys,
    /// Ended connections.
    Connections,
    /// The record of connections that were opened and closed.
    Changes,
    /// Rejected inbox rows.
    Rejected,
    /// Expired sessions of the console.
    ConsoleSessions,
    /// Records of the audit log.
    Audit,
    /// Records of ended jobs.
    Jobs,
    /// Earlier states of gateways.
    GatewayHistory,
    /// Records of ended resync requests.
    Resyncs,
    /// Ended notifications and resolved alerts.
    Alerts,
    /// Counts of failed attempts that are more than one row.
    FailureCounts,
    /// Counts of published events.
    EventCounts,
}

impl TrimStep {
    /// The kind after this one; `None` after the last.
    pub const fn next(self) -> Option<Self> {
        match self {
            Self::Logs => Some(Self::Positions),
            Self::Positions => Some(Self::Instances),
            Self::Instances => Some(Self::ExpiredInstances),
            Self::ExpiredInstances => Some(Self::Events),
            Self::Events => Some(Self::Attempts),
            Self::Attempts => Some(Self::OldAttempts),
            Self::OldAttempts => Some(Self::DeadLetters),
            Self::DeadLetters => Some(Self::OldDeadLetters),
            Self::OldDeadLetters => Some(Self::Keys),
            Self::Keys => Some(Self::Connections),
            Self::Connections => Some(Self::Changes),
            Self::Changes => Some(Self::Rejected),
            Self::Rejected => Some(Self::ConsoleSessions),
            Self::ConsoleSessions => Some(Self::Audit),
            Self::Audit => Some(Self::Jobs),
            Self::Jobs => Some(Self::GatewayHistory),
            Self::GatewayHistory => Some(Self::Resyncs),
            Self::Resyncs => Some(Self::Alerts),
            Self::Alerts => Some(Self::FailureCounts),
            Self::FailureCounts => Some(Self::EventCounts),
            Self::EventCounts => None,
        }
    }
}

/// What one batch of retention removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Log rows.
    pub deliveries: u64,
    /// Events that no log refers to any more.
    pub events: u64,
    /// Ledger rows.
    pub attempts: u64,
    /// Unconfirmed deliveries removed by the hard limits.
    pub lost: u64,
    /// Instances that expired.
    pub instances: u64,
    /// Whether the pass continues.
    pub more: bool,
}
