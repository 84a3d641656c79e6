//! Limits that every store enforces.

use std::time::Duration;

/// The longest range in one row of the ledger, which the schema checks. It bounds the search for
/// the rows that cover a sequence.
pub const MAX_RANGE_LENGTH: i64 = 1000;

/// Deliveries that one transaction may write, and one request may result in unless it is a single
/// event. It bounds how long other writers wait.
pub const MAX_DELIVERIES: usize = 20_000;

/// Live tokens of a gateway: enough to rotate without a pause, and few that can leak.
pub const LIVE_TOKENS: i64 = 2;

/// Resolution of a token's last use. Recording every request would cost a commit per request.
pub const NOTED_EVERY: Duration = Duration::from_mins(1);

/// How long a repeated request is recognised.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_hours(24);

/// Deliveries that one call of a redrive appends, at most.
pub const REDRIVEN: usize = 1_000;

/// Ranges of dead letters that one call of a redrive reads, at most.
pub const REDRIVE_DEAD_LETTERS: i64 = 2_000;
/// Deliveries that one call of a redrive looks up, at most.
pub const REDRIVE_LOOKED_UP: usize = 2_000;

/// Deliveries that one chunk of a bulk redrive examines and appends, at most. Each may cost several
/// statements, while its stream is locked.
pub const BULK_REDRIVEN: usize = 100;
/// Deliveries that one chunk of a replay examines, at most. It appends them with a few statements.
/// A replay of no more than these is done at once.
pub const REPLAYED: i64 = 500;
/// Deliveries that one statement of a replay's dry run examines, at most.
pub const REPLAY_COUNTED: i64 = 5_000;
/// Running jobs of an organisation, at most.
pub const RUNNING_JOBS: i64 = 4;
/// Running jobs that a node works on in turn, at most.
pub const JOBS_IN_TURN: i64 = 64;
/// A node takes over a job whose last chunk ended this long ago.
pub const JOB_LEASE: Duration = Duration::from_secs(5);

/// Streams that one batch of retention examines. Most have nothing to remove.
pub const TRIMMED_STREAMS: i64 = 256;

/// Expired events that one batch reads at first. Each may have many deliveries.
pub const EXPIRED_EVENTS: i64 = 16;
/// Expired events that one batch reads, at most, while batches are short.
pub const EXPIRED_EVENTS_MOST: i64 = 1024;
/// Open deliveries of expired events that one call records as failed, at most.
pub const EXPIRED_DELIVERIES: i64 = 1_000;

/// Rejected rows that one retry puts back, at most. It is one transaction, for which other writers
/// wait.
pub const RETRIED: i64 = 1_000;

/// Newest connections of a gateway that are examined for its peak.
pub const PEAK_CONNECTIONS: i64 = 2000;

/// Events of a range that a log line lists, at most.
pub const LOGGED_EVENTS: i64 = 5;
/// Events of all ranges of a sweep that are logged, at most.
pub const LOGGED_IN_ALL: usize = 100;

/// Failed deliveries of one call whose event types are counted, at most.
pub const COUNTED_TYPES: i64 = 5_000;

/// Gateways that are listed with an event that was published to them by id, at most.
pub const LISTED_GATEWAYS: i64 = 10;
