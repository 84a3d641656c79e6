//! Limits that every store enforces.

use std::time::Duration;

/// The longest range in one row of the ledger (the schema checks it), so that
/// "which rows cover this sequence?" stays a bounded search.
pub const LONGEST_RANGE: i64 = 1000;

/// Deliveries that one transaction writes, and one request may come to unless
/// it is a single event: others wait for as long as that takes.
pub const MOST_DELIVERIES: usize = 20_000;

/// Gateway tokens that are live at the same time: enough to rotate without a
/// pause, and no more to lose.
pub const LIVE_TOKENS: i64 = 2;

/// How exact "last used" is, as a write per request would be a commit per request.
pub const NOTED_EVERY: Duration = Duration::from_mins(1);

/// How long a repeated request is recognised.
pub const REPEATS: Duration = Duration::from_hours(24);

/// Deliveries that one redrive appends again, at the most.
pub const REDRIVEN: usize = 1_000;

/// Ranges of dead letters that one redrive reads, at the most.
pub const REDRIVE_LETTERS: i64 = 2_000;
/// Deliveries that one redrive looks up, at the most.
pub const REDRIVE_LOOKED_UP: usize = 2_000;

/// Streams that one batch of retention looks at; most have nothing to give.
pub const TRIMMED_STREAMS: i64 = 256;

/// Expired events that one call reads, at the most.
pub const EXPIRED_EVENTS: i64 = 16;
/// Open deliveries of expired events that one call records as failed, at the most.
pub const EXPIRED_DELIVERIES: i64 = 1_000;

/// Rejected rows that one retry puts back, at the most: it is one transaction,
/// and others wait for it.
pub const RETRIED: i64 = 1_000;

/// Connections of a gateway that are looked at for their peak.
pub const PEAK_CONNECTIONS: i64 = 2000;

/// Events of a range that are named in the log, at the most.
pub const LOGGED_EVENTS: i64 = 5;
/// Events of all ranges of a sweep that are named in the log, at the most.
pub const LOGGED_IN_ALL: usize = 100;
