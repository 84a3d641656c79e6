//! Positions in the feed, and their text, which clients send back as `Last-Event-ID`.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use data_encoding::BASE64URL_NOPAD;

use crate::clock::Timestamp;
use crate::event::Epoch;
use crate::store::{FeedEnds, FeedSpans};

/// Runs of missing keys in the text of a position, per table. If there are more, the text is that
/// of an earlier position, after which some messages are repeated.
const MAX_RUNS: usize = 16;
/// The length of the longest text that is read.
const MAX_TEXT_BYTES: usize = 4096;

/// The tables that the feed is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// Events.
    Events,
    /// Attempts.
    Attempts,
    /// Connections that were opened and closed.
    Connections,
}

/// Up to where the feed was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// When that was.
    pub at: Timestamp,
    /// In which epoch. `None` if there were no logs.
    pub epoch: Option<Epoch>,
    /// In the table of events.
    pub events: Mark,
    /// In the table of attempts.
    pub attempts: Mark,
    /// In the table of connections that were opened and closed.
    pub connections: Mark,
}

/// Up to where a table was read: all keys up to `high`, except for those that are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    high: i64,
    /// Runs of keys that were not visible, ascending.
    missing: Vec<RangeInclusive<i64>>,
}

impl Mark {
    /// A table of which everything up to a key was read.
    pub const fn at(high: i64) -> Self {
        Self { high, missing: Vec::new() }
    }

    /// The highest key that was read.
    pub const fn high(&self) -> i64 {
        self.high
    }

    /// Keys that were not visible.
    pub fn missing(&self) -> &[RangeInclusive<i64>] {
        &self.missing
    }

    /// Whether this position is after the row with this key.
    pub fn includes(&self, key: i64) -> bool {
        key <= self.high && !self.missing.iter().any(|run| run.contains(&key))
    }

    /// Moves past a row. Keys that are skipped are missing if rows `may_be_late`.
    pub fn pass(&mut self, key: i64, may_be_late: bool) {
        if key > self.high {
            if may_be_late && key > self.high + 1 {
                self.missing.push(self.high + 1..=key - 1);
            }
            self.high = key;
            return;
        }
        let Some(nth) = self.missing.iter().position(|run| run.contains(&key)) else {
            return;
        };
        let (first, last) = self.missing.remove(nth).into_inner();
        let rest = [first..=key - 1, key + 1..=last];
        self.missing.splice(nth..nth, rest.into_iter().filter(|run| !run.is_empty()));
    }

    /// Gives up missing keys: what was not visible up to here will never be.
    pub fn settle(&mut self, up_to: i64) {
        self.missing.retain(|run| *run.end() > up_to);
    }

    /// The spans of keys that were not read: the missing ones, and those above.
    fn unread(&self) -> Vec<RangeInclusive<i64>> {
        let mut spans = self.missing.clone();
        spans.push(self.high + 1..=i64::MAX);
        spans
    }

    /// The spans of keys that were not read here, and up to which another mark has been read.
    fn until(&self, end: &Self) -> Vec<RangeInclusive<i64>> {
        let mut spans = self.missing.clone();
        if end.high > self.high {
            spans.push(self.high + 1..=end.high);
        }
        spans
    }

    /// This mark, or an earlier one with few missing keys.
    fn write(&self, text: &mut String) {
        let listed = &self.missing[..self.missing.len().min(MAX_RUNS)];
        let high = self.missing.get(MAX_RUNS).map_or(self.high, |run| run.start() - 1);
        _ = write!(text, " {high}");
        for run in listed {
            _ = write!(text, ",{}-{}", run.start(), run.end());
        }
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let high = parts.next()?.parse().ok().filter(|high| *high >= 0)?;
        let mut missing: Vec<RangeInclusive<i64>> = Vec::new();
        for part in parts {
            let (first, last) = part.split_once('-')?;
            let (first, last): (i64, i64) = (first.parse().ok()?, last.parse().ok()?);
            let after = missing.last().map_or(0, |run| *run.end());
            if first <= after || last < first || last >= high || missing.len() == MAX_RUNS {
                return None;
            }
            missing.push(first..=last);
        }
        Some(Self { high, missing })
    }
}

impl Position {
    /// At the ends of the tables.
    pub const fn ends(at: Timestamp, ends: FeedEnds) -> Self {
        Self {
            at,
            epoch: ends.epoch,
            events: Mark::at(ends.events),
            attempts: Mark::at(ends.attempts),
            connections: Mark::at(ends.connections),
        }
    }

    /// Whether this position is after a row.
    pub fn includes(&self, table: Table, key: i64) -> bool {
        let mark = match table {
            Table::Events => &self.events,
            Table::Attempts => &self.attempts,
            Table::Connections => &self.connections,
        };
        mark.includes(key)
    }

    pub(super) const fn mark_mut(&mut self, table: Table) -> &mut Mark {
        match table {
            Table::Events => &mut self.events,
            Table::Attempts => &mut self.attempts,
            Table::Connections => &mut self.connections,
        }
    }

    /// What follows, and what was not visible.
    pub fn unread(&self, limit: usize) -> FeedSpans {
        FeedSpans {
            events: self.events.unread(),
            attempts: self.attempts.unread(),
            connections: self.connections.unread(),
            limit,
        }
    }

    /// What is between this position and a later one.
    pub fn until(&self, end: &Self, limit: usize) -> FeedSpans {
        FeedSpans {
            events: self.events.until(&end.events),
            attempts: self.attempts.until(&end.attempts),
            connections: self.connections.until(&end.connections),
            limit,
        }
    }

    /// Whether nothing follows these ends, and nothing is missing.
    pub fn is_at(&self, ends: FeedEnds) -> bool {
        [
            (&self.events, ends.events),
            (&self.attempts, ends.attempts),
            (&self.connections, ends.connections),
        ]
        .into_iter()
        .all(|(mark, end)| mark.high >= end && mark.missing.is_empty())
    }

    /// Whether this is a position before the database was restored: its keys may have been assigned
    /// again since.
    pub fn is_of_another_epoch(&self, end: &Self) -> bool {
        matches!((self.epoch, end.epoch), (Some(own), Some(other)) if own != other)
    }

    /// The smallest and the largest number of keys of a table up to an end; negative beyond it.
    pub fn behind(&self, end: &Self) -> (i64, i64) {
        let distances = [
            end.events.high - self.events.high,
            end.attempts.high - self.attempts.high,
            end.connections.high - self.connections.high,
        ];
        (distances.into_iter().min().unwrap_or(0), distances.into_iter().max().unwrap_or(0))
    }

    /// As a text for clients.
    pub fn encode(&self) -> String {
        let mut text = format!("1 {}", self.at.micros());
        for mark in [&self.events, &self.attempts, &self.connections] {
            mark.write(&mut text);
        }
        if let Some(epoch) = self.epoch {
            _ = write!(text, " {epoch}");
        }
        BASE64URL_NOPAD.encode(text.as_bytes())
    }

    /// Reads such a text; `None` if it is not one.
    pub fn decode(text: &str) -> Option<Self> {
        if text.len() > MAX_TEXT_BYTES {
            return None;
        }
        let text = String::from_utf8(BASE64URL_NOPAD.decode(text.as_bytes()).ok()?).ok()?;
        let parts: Vec<&str> = text.split(' ').collect();
        let ["1", at, events, attempts, connections, ref epoch @ ..] = parts[..] else {
            return None;
        };
        let epoch = match epoch {
            [] => None,
            [epoch] => Some(epoch.parse().ok()?),
            _ => return None,
        };
        Some(Self {
            at: Timestamp::from_micros(at.parse().ok()?),
            epoch,
            events: Mark::read(events)?,
            attempts: Mark::read(attempts)?,
            connections: Mark::read(connections)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_becomes_visible_late_is_read_and_no_key_twice() {
        let mut mark = Mark::at(10);
        for key in [11, 15, 13] {
            assert!(!mark.includes(key), "{key}");
            mark.pass(key, true);
            assert!(mark.includes(key), "{key}");
        }
        assert_eq!(mark.missing(), [12..=12, 14..=14]);
        assert_eq!(mark.unread(), [12..=12, 14..=14, 16..=i64::MAX]);
        assert_eq!(mark.until(&Mark::at(15)), [12..=12, 14..=14]);
        mark.settle(12);
        assert_eq!(mark.missing(), [14..=14]);
        let mut mark = Mark::at(10);
        mark.pass(15, false);
        assert!(mark.missing().is_empty());
    }

    #[test]
    fn a_position_is_read_as_it_was_written_or_as_an_earlier_one() {
        let mut position =
            Position { at: Timestamp::from_micros(7), events: Mark::at(3), ..Position::default() };
        position.events.pass(9, true);
        assert_eq!(Position::decode(&position.encode()), Some(position.clone()));
        position.epoch = Some(Epoch::new());
        assert_eq!(Position::decode(&position.encode()), Some(position.clone()));
        for key in 0..100 {
            position.events.pass(20 + 2 * key, true);
        }
        let read = Position::decode(&position.encode()).unwrap();
        assert_eq!(read.events.missing().len(), MAX_RUNS);
        assert!((1..=300).all(|key| position.events.includes(key) || !read.events.includes(key)));
        for bad in ["", "!", "MQ", &"A".repeat(5000)] {
            assert_eq!(Position::decode(bad), None, "{bad}");
        }
        for bad in [
            "1 7 3 4",
            "2 7 3 4 5",
            "1 7 3,2-3 4 5",
            "1 7 9,5-4 4 5",
            "1 7 -1 4 5",
            "1 7 9,2-3,3-4 4 5",
            "1 7 3 4 5 x",
            "1 7 3 4 5 0197c1a0-0000-7000-8000-000000000000 6",
        ] {
            assert_eq!(Position::decode(&BASE64URL_NOPAD.encode(bad.as_bytes())), None, "{bad}");
        }
    }
}
