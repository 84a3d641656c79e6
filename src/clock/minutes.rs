//! Whole minutes since the Unix epoch, the unit in which events and failures are counted.

use super::{TimeWindow, Timestamp};

/// The length of a minute, in microseconds.
pub const MINUTE: i64 = 60_000_000;

/// The minutes from `first` (inclusive) to `end` (exclusive). There is at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minutes {
    first: i64,
    end: i64,
}

impl Minutes {
    /// Those that a window contains as a whole; `None` if there are none.
    pub fn of(window: TimeWindow) -> Option<Self> {
        let from = window.from();
        let begun = from > start_of_minute(minute(from));
        let (first, end) = (minute(from) + i64::from(begun), minute(window.to()));
        (first < end).then_some(Self { first, end })
    }

    /// The first minute.
    pub const fn first(self) -> i64 {
        self.first
    }

    /// The minute after the last one.
    pub const fn end(self) -> i64 {
        self.end
    }

    /// The rest of the window that these minutes were [taken from](Self::of).
    pub fn around(self, window: TimeWindow) -> Vec<TimeWindow> {
        let before = TimeWindow::new(window.from(), start_of_minute(self.first));
        let after = TimeWindow::new(start_of_minute(self.end), window.to());
        before.into_iter().chain(after).collect()
    }
}

/// The minute that contains an instant.
pub const fn minute(at: Timestamp) -> i64 {
    at.micros().div_euclid(MINUTE)
}

/// The first instant of a minute.
pub const fn start_of_minute(minute: i64) -> Timestamp {
    Timestamp::from_micros(minute.saturating_mul(MINUTE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(from: i64, to: i64) -> TimeWindow {
        TimeWindow::new(Timestamp::from_micros(from), Timestamp::from_micros(to)).unwrap()
    }

    #[test]
    fn whole_minutes_and_the_rest_make_up_the_window() {
        let at = |minutes: i64, micros: i64| minutes * MINUTE + micros;
        for (from, to, minutes, rest) in [
            (at(1, 0), at(3, 0), Some((1, 3)), vec![]),
            (at(1, 1), at(3, 0), Some((2, 3)), vec![window(at(1, 1), at(2, 0))]),
            (at(1, 0), at(3, 1), Some((1, 3)), vec![window(at(3, 0), at(3, 1))]),
            (
                at(-2, 1),
                at(1, -1),
                Some((-1, 0)),
                vec![window(at(-2, 1), at(-1, 0)), window(at(0, 0), at(1, -1))],
            ),
            (at(1, 1), at(2, 59_999_999), None, vec![]),
            (at(1, 5), at(1, 6), None, vec![]),
        ] {
            let window = window(from, to);
            let found = Minutes::of(window);
            assert_eq!(found.map(|it| (it.first(), it.end())), minutes, "{window:?}");
            assert_eq!(found.map_or_else(Vec::new, |it| it.around(window)), rest, "{window:?}");
        }
    }

    #[test]
    fn a_window_without_bounds_is_open_on_both_sides() {
        let minutes = Minutes::of(TimeWindow::ALL).expect("whole minutes");
        assert!(minutes.first() <= minute(Timestamp::from_micros(i64::MIN)) + 1);
        assert_eq!(minutes.end(), minute(Timestamp::from_micros(i64::MAX)));
    }
}
