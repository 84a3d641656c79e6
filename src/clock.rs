//! The only clock. Instants that are stored or shown are [`Timestamp`]s (microseconds, UTC).
//! Timeouts use tokio's monotonic clock.
//!
//! Nodes that share a database compare instants, so they share its clock, too: after a call of
//! [`follow`], [`Timestamp::now`] returns the database's time, and changes of this machine's clock
//! have no effect.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod minutes;
mod window;

pub use minutes::{MINUTE, Minutes, minute, start_of_minute};
pub use window::{EmptyWindow, TimeWindow};

/// An instant in microseconds since the Unix epoch, UTC, which both databases can store without
/// loss. Displayed and parsed as RFC 3339.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Why a text is not a [`Timestamp`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TimestampError {
    /// Not RFC 3339, or without an offset.
    #[error(
        "`{0}` is not an RFC 3339 time with an offset, such as 2026-01-31T09:30:00Z or 2026-01-31T10:30:00+01:00"
    )]
    Malformed(String),
    /// Outside the years that RFC 3339 can express.
    #[error("`{0}` is outside the years 0001 to 9999")]
    OutOfRange(String),
}

impl Timestamp {
    /// The last instant that RFC 3339 can express.
    pub const LAST: Self = Self(253_402_300_799_999_999);

    /// The time of the shared database or, without one, of this machine, truncated to microseconds.
    pub fn now() -> Self {
        match SHARED.load(Ordering::Relaxed) {
            NOT_SHARED => Self::of_this_machine(),
            offset => Self(monotonic().saturating_add(offset)),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the only clock")]
    fn of_this_machine() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }

    /// Parses an RFC 3339 text; the offset is required.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        let parsed = DateTime::parse_from_rfc3339(text)
            .map_err(|_| TimestampError::Malformed(text.chars().take(64).collect()))?
            .with_timezone(&Utc);
        let year = chrono::Datelike::year(&parsed);
        if !(1..=9999).contains(&year) {
            return Err(TimestampError::OutOfRange(text.to_owned()));
        }
        Ok(Self(parsed.timestamp_micros()))
    }

    /// Parses the header `Date` of HTTP (RFC 9110, section 5.6.7): whole seconds in GMT.
    pub fn parse_http_date(text: &str) -> Option<Self> {
        let parsed = DateTime::parse_from_rfc2822(text).ok()?;
        Some(Self(parsed.timestamp_micros()))
    }

    /// From microseconds since the Unix epoch, as both databases store them.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// This instant plus `duration`; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// This instant minus `duration`; saturates.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }

    /// The time since `earlier`; zero if that is later than this instant.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// The difference between the shared database's clock and the monotonic clock, in microseconds. One
/// per process, like the clocks themselves.
static SHARED: AtomicI64 = AtomicI64::new(NOT_SHARED);
const NOT_SHARED: i64 = i64::MIN;

/// If this machine's clock differs by less than this from the database's, it is used.
const AGREES: Duration = Duration::from_millis(50);

/// Microseconds since the first call in this process, by tokio's clock: in a simulation that stops
/// and moves it, [`Timestamp::now`] moves with it after a call of [`follow`].
fn monotonic() -> i64 {
    static BEGINNING: LazyLock<tokio::time::Instant> = LazyLock::new(tokio::time::Instant::now);
    micros(BEGINNING.elapsed())
}

/// Makes this process use a shared database's clock, until the next call. `database` is the time in
/// a response that arrived just now, `taken` after the request.
pub fn follow(database: Timestamp, taken: Duration) {
    // In this order, a pause between the two makes the result late, never early.
    let machine = Timestamp::of_this_machine();
    let monotonic = monotonic();
    let database = database.plus(taken / 2);
    let agrees = machine.0.abs_diff(database.0) <= micros(AGREES.max(taken)).unsigned_abs();
    let now = if agrees { machine } else { database };
    SHARED.store(now.0.saturating_sub(monotonic), Ordering::Relaxed);
}

/// Detects that a clock was set, by comparing it with the monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockGuard {
    last: Option<Reading>,
    /// If the clock was set ahead: the last reading before that, and when the change was noticed.
    jump: Option<(Reading, Instant)>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    clock: Timestamp,
    at: Instant,
}

impl Reading {
    /// What the clock would show at `at` if it had not been set.
    fn continued(self, at: Instant) -> Timestamp {
        self.clock.plus(at.saturating_duration_since(self.at))
    }
}

/// By how many microseconds a clock was set; negative if it was set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump(pub i64);

impl ClockGuard {
    /// A clock may differ by this much from the monotonic one between two readings, because reading
    /// it from a database takes time.
    const TOLERANCE: Duration = Duration::from_secs(5);
    /// For this long after the clock was set ahead, ages are measured by its old course.
    const SETTLES: Duration = Duration::from_hours(1);

    /// Records a reading. Returns by how much the clock was set since the last one, if it was.
    pub fn read(&mut self, clock: Timestamp, at: Instant) -> Option<Jump> {
        let last = self.last.replace(Reading { clock, at })?;
        let expected = last.continued(at);
        let jump = (!is_near(expected, clock)).then(|| Jump(clock.0.saturating_sub(expected.0)));
        let since = if jump.is_some() { Some(at) } else { self.jump.map(|(_, since)| since) };
        let before = self.jump.map_or(last, |(before, _)| before);
        let is_ahead = clock > before.continued(at) && !is_near(before.continued(at), clock);
        self.jump = since
            .filter(|since| is_ahead && at.saturating_duration_since(*since) <= Self::SETTLES)
            .map(|since| (before, since));
        jump
    }

    /// The time by which to measure ages. For a while after the clock was set, the earlier of its
    /// reading and what it would show if it had not been set.
    pub fn cautious(&self, clock: Timestamp, at: Instant) -> Timestamp {
        match self.jump {
            Some((before, _)) => clock.min(before.continued(at)),
            None => clock,
        }
    }
}

fn is_near(one: Timestamp, other: Timestamp) -> bool {
    one.0.abs_diff(other.0) <= micros(ClockGuard::TOLERANCE).unsigned_abs()
}

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.0 < 0 { "back" } else { "ahead" };
        write!(f, "{:?} {direction}", Duration::from_micros(self.0.unsigned_abs()))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A duration in whole milliseconds, as a type that JSON logs represent as a number.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::<Utc>::from_timestamp_micros(self.0) {
            Some(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => write!(f, "{}us", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_displayed_time_is_parsed_as_the_same_time() {
        let time = Timestamp::from_micros(1_767_225_600_123_456);
        assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
    }

    #[test]
    fn a_changed_clock_is_detected_and_not_used_for_ages_at_once() {
        let day = Duration::from_hours(24);
        let (begun, start) = (Timestamp::from_micros(1_767_225_600_000_000), Instant::now());
        let mut guard = ClockGuard::default();
        // The error of the clock after this many seconds, and whether it was set since the last
        // reading.
        let mut read = |secs: u64, wrong: Duration, is_set: Option<i64>| {
            let (clock, at) =
                (begun.plus(Duration::from_secs(secs) + wrong), start + Duration::from_secs(secs));
            let jump = guard.read(clock, at);
            assert_eq!(jump.map(|jump| jump.0.signum()), is_set, "after {secs} s");
            (guard.cautious(clock, at), begun.plus(Duration::from_secs(secs)))
        };
        for (secs, wrong, is_set) in [
            (0, Duration::ZERO, None),
            (60, Duration::from_secs(2), None),
            (61, 31 * day, Some(1)),
            (62, 31 * day, None),
            (64, 2 * day, Some(-1)),
            (65, Duration::ZERO, Some(-1)),
            (100, 31 * day, Some(1)),
            (3600, 31 * day, None),
        ] {
            let (cautious, right) = read(secs, wrong, is_set);
            assert!(cautious <= right.plus(Duration::from_secs(5)), "after {secs} s");
        }
        let (believed, right) = read(3800, 31 * day, None);
        assert_eq!(believed, right.plus(31 * day), "it has settled");
        let (cautious, right) = read(3801, Duration::ZERO, Some(-1));
        assert_eq!(cautious, right, "what is set back counts at once");
    }

    #[test]
    fn times_without_an_offset_or_beyond_the_calendar_are_refused() {
        assert!(matches!(
            Timestamp::parse("2026-01-31T09:30:00"),
            Err(TimestampError::Malformed(_))
        ));
        assert!(Timestamp::parse("+262143-01-01T00:00:00Z").is_err());
        assert!(Timestamp::parse("262143-01-01T00:00:00Z").is_err());
    }
}
