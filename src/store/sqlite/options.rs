//! What the embedded database may be told, and nothing else.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use super::sql::writer::Queue;

/// Settings of the embedded database (`[database]`).
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The database's file; filled in by whoever knows the data directory.
    #[serde(skip)]
    pub path: PathBuf,
    /// Connections that read for gateways and publishers. Writing always has
    /// exactly one.
    pub readers: u32,
    /// Connections that answer people's questions: what is slow there keeps
    /// neither gateways nor publishers waiting.
    pub askers: u32,
    /// An answer that would take longer is ended.
    #[serde(with = "humantime_serde")]
    pub answer_timeout: Duration,
    /// Events that may wait to be appended; more are refused at once.
    pub queue_events: usize,
    /// Bytes of them that may wait, likewise.
    pub queue_bytes: ByteSize,
    /// Below this much free space nothing more is published. Receipts and
    /// retention go on, so that space can become free again.
    pub min_free_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            path: PathBuf::from("gateway-events.db"),
            readers: 4,
            askers: 2,
            answer_timeout: Duration::from_secs(10),
            queue_events: 4096,
            queue_bytes: ByteSize::mib(64),
            min_free_bytes: 64 * 1024 * 1024,
        }
    }
}

impl Options {
    /// How much may wait to be appended.
    pub(super) fn queue(&self) -> Queue {
        let bytes = usize::try_from(self.queue_bytes.as_u64()).unwrap_or(usize::MAX);
        Queue { events: self.queue_events, bytes }
    }
}
