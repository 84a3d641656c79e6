//! Windows of time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// A window of time, `[from, to)`. It is never empty: `from` is before `to`. By default it is
/// [`TimeWindow::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Bounds")]
pub struct TimeWindow {
    from: Timestamp,
    to: Timestamp,
}

/// A window whose start is not before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time window must start before it ends; {from} is not before {to}")]
pub struct EmptyWindow {
    /// The start.
    pub from: Timestamp,
    /// The end.
    pub to: Timestamp,
}

impl TimeWindow {
    /// Contains every instant that a database stores.
    pub const ALL: Self =
        Self { from: Timestamp::from_micros(i64::MIN), to: Timestamp::from_micros(i64::MAX) };

    /// The window from `from`, included, to `to`, excluded. Fails unless `from` is before `to`.
    pub fn new(from: Timestamp, to: Timestamp) -> Result<Self, EmptyWindow> {
        if from < to { Ok(Self { from, to }) } else { Err(EmptyWindow { from, to }) }
    }

    /// As [`TimeWindow::new`]; without a start or an end, the window is open on that side.
    pub fn between(from: Option<Timestamp>, to: Option<Timestamp>) -> Result<Self, EmptyWindow> {
        Self::new(from.unwrap_or(Self::ALL.from), to.unwrap_or(Self::ALL.to))
    }

    /// The start, included.
    pub const fn from(self) -> Timestamp {
        self.from
    }

    /// The end, excluded.
    pub const fn to(self) -> Timestamp {
        self.to
    }

    /// The time between start and end.
    pub fn length(self) -> Duration {
        self.to.since(self.from)
    }

    /// Whether the instant is in the window.
    pub fn contains(self, at: Timestamp) -> bool {
        self.from <= at && at < self.to
    }

    /// The part before an instant and the part from it on. If the instant is not inside, the first
    /// part is the whole window.
    #[must_use]
    pub fn split(self, at: Timestamp) -> (Self, Option<Self>) {
        if self.from < at && at < self.to {
            (Self { to: at, ..self }, Some(Self { from: at, ..self }))
        } else {
            (self, None)
        }
    }
}

impl Default for TimeWindow {
    fn default() -> Self {
        Self::ALL
    }
}

#[derive(Deserialize)]
struct Bounds {
    from: Timestamp,
    to: Timestamp,
}

impl TryFrom<Bounds> for TimeWindow {
    type Error = EmptyWindow;

    fn try_from(Bounds { from, to }: Bounds) -> Result<Self, EmptyWindow> {
        Self::new(from, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(from: i64, to: i64) -> Result<TimeWindow, EmptyWindow> {
        TimeWindow::new(Timestamp::from_micros(from), Timestamp::from_micros(to))
    }

    #[test]
    fn a_window_starts_before_it_ends() {
        assert!(window(1, 1).is_err());
        assert!(window(2, 1).is_err());
        let text = r#"{"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}"#;
        assert!(serde_json::from_str::<TimeWindow>(text).is_err());
    }

    #[test]
    fn the_parts_of_a_split_window_contain_its_instants_once() {
        let whole = window(2, 6).unwrap();
        for at in 0..9 {
            let (first, rest) = whole.split(Timestamp::from_micros(at));
            for instant in (0..9).map(Timestamp::from_micros) {
                let parts = [Some(first), rest].into_iter().flatten();
                let count = parts.filter(|part| part.contains(instant)).count();
                assert_eq!(count, usize::from(whole.contains(instant)), "{instant}, split at {at}");
            }
        }
    }
}
