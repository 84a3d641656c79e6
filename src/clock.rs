//! The only clock. Instants that are stored or shown are [`Timestamp`]s
//! (microseconds, UTC); time-outs use tokio's monotonic clock and never these.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant in microseconds since the Unix epoch, UTC; what both databases
/// can hold without loss. Shown and read as RFC 3339.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Why a text is no [`Timestamp`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TimestampError {
    /// Not RFC 3339, or without an offset.
    #[error(
        "`{0}` is not an RFC 3339 time with an offset, such as 2026-01-31T09:30:00Z or 2026-01-31T10:30:00+01:00"
    )]
    Malformed(String),
    /// Outside the years that every part of the service can show again.
    #[error("`{0}` lies outside the years 0001 to 9999")]
    OutOfRange(String),
}

impl Timestamp {
    /// The wall clock's time, cut to whole microseconds.
    #[expect(clippy::disallowed_methods, reason = "this is the only clock")]
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }

    /// Reads an RFC 3339 text; the offset is required.
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

    /// From microseconds since the Unix epoch, as the databases hold them.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// This instant and `duration` later; stops at the end of time.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// This instant and `duration` earlier; stops at the beginning of time.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A duration in whole milliseconds, of a type that JSON logs hold as a number.
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
    fn a_time_survives_being_shown_and_read() {
        let time = Timestamp::from_micros(1_767_225_600_123_456);
        assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
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
