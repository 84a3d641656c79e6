//! Bounds that every store keeps.

use std::time::Duration;

/// The longest range in one row of the ledger (the schema checks it), so that
/// "which rows cover this sequence?" stays a bounded search.
pub(crate) const LONGEST_RANGE: i64 = 1000;

/// Deliveries that one transaction writes, and one request may come to unless
/// it is a single event: others wait for as long as that takes.
pub(crate) const MOST_DELIVERIES: usize = 20_000;

/// Gateway tokens that are live at the same time: enough to rotate without a
/// pause, and no more to lose.
pub(crate) const LIVE_TOKENS: i64 = 2;

/// How exact "last used" is, as a write per request would be a commit per request.
pub(crate) const NOTED_EVERY: Duration = Duration::from_mins(1);

/// How long a repeated request is recognised.
pub(crate) const REPEATS: Duration = Duration::from_hours(24);

/// Deliveries that one redrive appends again, at the most.
pub(crate) const REDRIVEN: usize = 1_000;

/// Ranges of dead letters that one redrive looks at, and deliveries that it
/// looks up, at the most.
pub(crate) const REDRIVE_LETTERS: i64 = 2_000;
pub(crate) const REDRIVE_LOOKED_UP: usize = 2_000;

/// Streams that one batch of retention looks at; most have nothing to give.
pub(crate) const TRIMMED_STREAMS: i64 = 256;

/// Expired events that one call looks at, and open deliveries of them that it
/// gives up, at the most.
pub(crate) const EXPIRED_EVENTS: i64 = 16;
pub(crate) const EXPIRED_DELIVERIES: i64 = 1_000;

/// Rejected rows that one retry puts back, at the most: it is one transaction,
/// and others wait for it.
pub(crate) const RETRIED: i64 = 1_000;

/// Connections of a gateway that are looked at for their peak.
pub(super) const PEAK_CONNECTIONS: i64 = 2000;

/// Events of a range that are named in the log, and of all ranges of a sweep.
pub(super) const LOGGED_EVENTS: i64 = 5;
pub(super) const LOGGED_IN_ALL: usize = 100;
