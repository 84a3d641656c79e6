//! What the embedded database may be told, and nothing else.

use std::path::PathBuf;

use serde::Deserialize;

/// Settings of the embedded database (`[database]`).
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The database's file; filled in by whoever knows the data directory.
    #[serde(skip)]
    pub path: PathBuf,
    /// Connections that read. Writing always has exactly one.
    pub readers: u32,
    /// Events that may wait to be appended; more are refused at once.
    pub queue_events: usize,
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
        Self {
            path: PathBuf::from("gateway-events.db"),
            readers: 4,
            queue_events: 4096,
            min_free_bytes: 64 * 1024 * 1024,
            ballast_bytes: 16 * 1024 * 1024,
            max_wal_bytes: 64 * 1024 * 1024,
        }
    }
}
