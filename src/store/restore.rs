//! What it means to restore a backup of the SQLite database.

use std::path::PathBuf;

use super::Principal;

/// What to restore, and how.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The backup.
    pub from: PathBuf,
    /// Whether an existing database is moved aside. Otherwise it is refused.
    pub replace: bool,
    /// Whether a backup is restored in which verification finds problems.
    pub accept_problems: bool,
    /// Who restores it, for the audit log.
    pub principal: Principal,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// How many logs got a new epoch.
    pub logs: u64,
    /// Problems that verification found; empty unless they were accepted.
    pub problems: Vec<String>,
    /// Where the database is that there was before.
    pub aside: Option<PathBuf>,
}
