//! Positions in lists that are ordered by time.

use crate::clock::Timestamp;

/// A position among rows that are ordered by an instant and then by their key, because several rows
/// may have the same instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimedKey {
    /// The row's instant.
    pub at: Timestamp,
    /// The row's key.
    pub key: i64,
}

impl TimedKey {
    /// Before every row.
    pub const FIRST: Self = Self { at: Timestamp::from_micros(i64::MIN), key: 0 };
}
