//! Settings of the SQLite database.

use std::path::PathBuf;
use std::time::Duration;

use crate::store::Queue;

/// Settings of the SQLite database (`[database]`).
#[derive(Clone, Debug)]
pub struct Options {
    /// The database's file.
    pub path: PathBuf,
    /// Connections that read for gateways and publishers. There is always exactly one that writes.
    pub readers: u32,
    /// Connections of the query pool, so that slow queries delay neither gateways nor publishers.
    pub query_connections: u32,
    /// A query that takes longer is cancelled.
    pub query_timeout: Duration,
    /// How much may wait to be appended.
    pub queue: Queue,
    /// With less free space, publishing is refused. Receipts and retention continue, so that space
    /// can be freed.
    pub min_free_bytes: u64,
    /// Size of the ballast file, which is deleted when the disk is full; 0 for none.
    pub ballast_bytes: u64,
    /// Beyond this size, the write-ahead log is checkpointed and truncated, or a warning says why
    /// that is impossible.
    pub max_wal_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        crate::store::Options::default().sqlite()
    }
}
