//! Statements in the words of Postgres; the contract is in `sql/dialect.rs`.
//!
//! Several nodes write at once. Each statement sees what was committed before it began (read
//! committed), and a row that is about to be changed is locked first, in the order that the
//! contract lays down. Many rows are one array per column, and `unnest` makes rows of them. Where
//! other nodes may insert the same key, rows are inserted in ascending order, so that two nodes
//! cannot wait for each other in a circle.

use crate::event::GatewayKey;

mod audit;
mod browse;
mod bulk;
mod connections;
mod cursors;
mod deliveries;
mod delivery_filter;
mod diagnosis;
mod expiry;
mod feed;
mod gateways;
mod inbox;
mod ledger;
mod log;
mod nodes;
mod not_connected;
mod redrive;
mod retention;
mod rollout;
mod types;

/// The connection type that the statements are implemented for.
pub(crate) type Connection = sqlx::PgConnection;

macro_rules! query {
    ($text:tt $($rest:tt)*) => { sqlx::query!($text + " -- postgres" $($rest)*) };
}
macro_rules! query_as {
    ($row:path, $text:tt $($rest:tt)*) => { sqlx::query_as!($row, $text + " -- postgres" $($rest)*) };
}
macro_rules! query_scalar {
    ($text:tt $($rest:tt)*) => { sqlx::query_scalar!($text + " -- postgres" $($rest)*) };
}
pub(crate) use {query, query_as, query_scalar};

/// The first number of all advisory locks, which distinguishes them from those of other programs in
/// the same database.
pub(super) const LOCK_SPACE: i32 = 0x6765_7673;

/// The second number of each advisory lock. All are held until a transaction ends.
pub(super) mod locks {
    /// Deleting what exceeds the retention limits.
    pub(super) const RETENTION: i32 = 1;
    /// Closing the connections of dead nodes.
    pub(super) const REAPING: i32 = 2;
    /// Draining the inbox.
    pub(super) const DRAIN: i32 = 3;
    /// Migrations.
    pub(in super::super) const MIGRATING: i32 = 4;
    /// Storing a job.
    pub(super) const NEW_JOBS: i32 = 5;
    /// Recording expired deliveries as failed. Not 3, which it was before: nodes that used it found
    /// nothing to do while an inbox was drained.
    pub(super) const EXPIRY: i32 = 6;
    /// Purging and resending events.
    pub(super) const EVENT_ACTIONS: i32 = 7;
}

/// Gateway keys as an array.
fn keys<'a>(gateways: impl IntoIterator<Item = &'a GatewayKey>) -> Vec<i64> {
    gateways.into_iter().map(|key| key.0).collect()
}

/// One column of many rows.
fn column<'r, R, T>(rows: &'r [R], value: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}
