//! What the embedded database may be told, and nothing else.

use std::path::PathBuf;
use std::time::Duration;

use crate::store::Queue;

/// Settings of the embedded database (`[database]`).
#[derive(Clone, Debug)]
pub struct Options {
    /// The database's file; filled in by whoever knows the data directory.
    pub path: PathBuf,
    /// Connections that read for gateways and publishers. Writing always has
    /// exactly one.
    pub readers: u32,
    /// Connections that answer people's questions: what is slow there keeps
    /// neither gateways nor publishers waiting.
    pub askers: u32,
    /// An answer that would take longer is ended.
    pub answer_timeout: Duration,
    /// How much may wait to be appended.
    pub queue: Queue,
    /// Below this much free space nothing more is published. Receipts and
    /// retention go on, so that space can become free again.
    pub min_free_bytes: u64,
    /// Held back on the disk, and given up when it is full; 0 for none.
    pub ballast_bytes: u64,
    /// Past this size the write-ahead log is emptied, or a warning says what
    /// keeps it from that.
    pub max_wal_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        crate::store::Options::default().sqlite()
    }
}
