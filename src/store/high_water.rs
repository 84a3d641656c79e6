//! How far the logs of a database have come, to notice a database that was replaced by an older copy.

use crate::event::Epoch;

/// How far all logs of a database have come.
///
/// Logs are never deleted, their heads only rise, and all epochs are renewed together. So of two
/// states of a database with the same `epoch`, the one with fewer `sequences` is the older one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HighWater {
    /// The epoch of the log that was created first; `None` if there are no logs.
    pub epoch: Option<Epoch>,
    /// The sum of the heads of all logs.
    pub sequences: i64,
}

/// Why new epochs are started, for the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalReason {
    /// The database was restored by `restore`.
    Restored,
    /// An operator ran `epoch renew`.
    Requested,
}

impl RenewalReason {
    /// Its name in the audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Requested => "requested",
        }
    }
}
