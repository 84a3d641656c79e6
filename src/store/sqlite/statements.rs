//! Statements in the words of SQLite; the contract is in `sql/dialect.rs`.
//!
//! One server has the file open and one connection writes, so there are no other nodes to wait
//! for. SQLite has no arrays: many rows are one JSON parameter. `jsonb_each` unfolds it and leaves
//! each row parsed; `json_each` would write each row as text, and parse it again for each column.
//! The planner knows little about the data, so reads of the ledger name the index (`indexed by`)
//! and fix the order of joins (`cross join`).

use serde::Serialize;

use crate::store::{DeliveryKey, Result, StoreError};

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
pub(crate) type Connection = sqlx::SqliteConnection;

macro_rules! query {
    ($text:tt $($rest:tt)*) => { sqlx::query!($text + " -- sqlite" $($rest)*) };
}
macro_rules! query_as {
    ($row:path, $text:tt $($rest:tt)*) => { sqlx::query_as!($row, $text + " -- sqlite" $($rest)*) };
}
macro_rules! query_scalar {
    ($text:tt $($rest:tt)*) => { sqlx::query_scalar!($text + " -- sqlite" $($rest)*) };
}
pub(crate) use {query, query_as, query_scalar};

/// Rows as one JSON parameter.
fn json<T: Serialize + ?Sized>(rows: &T) -> Result<String> {
    serde_json::to_string(rows)
        .map_err(|error| StoreError::Unavailable(format!("failed to encode rows as JSON: {error}")))
}

/// Deliveries as one JSON parameter: an array of pairs of gateway and sequence.
fn pairs(keys: &[DeliveryKey]) -> Result<String> {
    json(&keys.iter().map(|key| (key.gateway.0, key.sequence.0)).collect::<Vec<_>>())
}

/// A digest in the form that `unhex` reads.
fn hex(digest: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(digest)
}
