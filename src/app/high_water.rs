//! Detects a database that was rolled back: one that was restored from a backup without new epochs, or
//! that lost its last commits in a failover. A file in the data directory, outside the database, keeps
//! how far the logs had come. It is written every few seconds and at shutdown, not per event.
//!
//! Sequences that were handed out before must not be given to other events in the same epoch. So a
//! node refuses to start with such a database, and a running one ends. An operator then decides:
//! restore a newer copy, or run `gateway-events epoch renew`. Neither is done automatically, because
//! accepted events are missing in such a database.
//!
//! The file also shows that the data directory had a database. If the file of the SQLite database is
//! missing, no other one is created in its place: its logs would have new epochs, so no sequence would be
//! used again, but all gateways, tokens and events would be missing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::event::Epoch;
use crate::files;
use crate::jobs::{Job, Next};
use crate::store::{HighWater, Log, StoreError};

/// How often the file is brought up to date. Sequences that are handed out after the last time are not
/// noticed if they are missing.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// Epochs that are remembered: one for each restore, and for each other database that the data
/// directory was used with.
const MAX_MARKS: usize = 16;

/// Why a node can't work with a database.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database is older than it was: its logs had {expected} sequences in this epoch and have {found}. It was restored from a backup, or lost its last commits in a failover, and would give the missing sequences to other events. Restore a newer copy, or stop all nodes, run `gateway-events epoch renew` and start them again"
)]
pub struct RolledBack {
    expected: i64,
    found: i64,
}

/// The SQLite database is missing, and the data directory had one.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is missing or empty, and {} shows that this data directory was used with a database. A new database would have none of its gateways, access tokens and events. Put the file back, or restore a backup with `gateway-events restore`. To start with an empty database, delete {}",
    .database.display(),
    .marks.display(),
    .marks.display()
)]
pub struct MissingDatabase {
    database: PathBuf,
    marks: PathBuf,
}

/// Refuses settings with which a new SQLite database would be created in the place of one that is
/// missing.
pub fn refuse_missing_database(config: &Config) -> Result<(), MissingDatabase> {
    let HighWaterFile { path: marks } = HighWaterFile::of(&config.data_dir);
    let database = config.data_dir.join("gateway-events.db");
    // Another error than that it is missing is reported when the file is opened.
    let is_missing = match std::fs::metadata(&database) {
        Ok(found) => found.len() == 0,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if !config.database.is_shared() && is_missing && marks.exists() {
        return Err(MissingDatabase { database, marks });
    }
    Ok(())
}

/// Why the database could not be compared with the file, or is not the one that it describes.
#[derive(Debug, thiserror::Error)]
pub(super) enum HighWaterError {
    #[error("failed to update {path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    RolledBack(#[from] RolledBack),
}

/// The contents of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Marks {
    /// By last use, the least recently used first.
    marks: Vec<Mark>,
}

/// How far the logs had come in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    epoch: Epoch,
    sequences: i64,
}

impl Marks {
    /// Adds a state of the database, unless it is older than a known one. Returns whether anything
    /// changed.
    fn raise(&mut self, found: HighWater) -> Result<bool, RolledBack> {
        let HighWater { epoch: Some(epoch), sequences } = found else { return Ok(false) };
        let mark = Mark { epoch, sequences };
        if let Some(known) = self.marks.iter().find(|known| known.epoch == epoch) {
            if sequences < known.sequences {
                return Err(RolledBack { expected: known.sequences, found: sequences });
            }
            if self.marks.last() == Some(&mark) {
                return Ok(false);
            }
        }
        self.marks.retain(|known| known.epoch != epoch);
        self.marks.push(mark);
        let excess = self.marks.len().saturating_sub(MAX_MARKS);
        self.marks.drain(..excess);
        Ok(true)
    }
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct HighWaterFile {
    path: PathBuf,
}

impl HighWaterFile {
    pub(super) fn of(data_dir: &Path) -> Self {
        Self { path: data_dir.join("high-water.json") }
    }

    /// Compares the database with the file, and updates the file.
    pub(super) async fn update(&self, store: &dyn Log) -> Result<HighWater, HighWaterError> {
        let found = store.high_water().await?;
        let file = self.clone();
        let updating = tokio::task::spawn_blocking(move || file.raise(found));
        updating.await.map_err(|error| self.failed(io::Error::other(error)))??;
        Ok(found)
    }

    fn raise(&self, found: HighWater) -> Result<(), HighWaterError> {
        let mut marks = self.read().map_err(|error| self.failed(error))?;
        if marks.raise(found)? {
            self.write(&marks).map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    fn failed(&self, error: io::Error) -> HighWaterError {
        HighWaterError::File { path: self.path.clone(), error }
    }

    fn write(&self, marks: &Marks) -> io::Result<()> {
        let text = serde_json::to_string_pretty(marks).map_err(io::Error::other)?;
        files::replace(&self.path, &text, files::PRIVATE)
    }

    fn read(&self) -> io::Result<Marks> {
        let text = match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Marks::default()),
            text => text?,
        };
        Ok(serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!(
                path = %self.path.display(),
                %error,
                "the file with the heads of the logs is damaged; writing a new one"
            );
            Marks::default()
        }))
    }
}

/// The job that updates the file, and compares the database with what it was before.
pub(super) struct WatchHighWater {
    file: HighWaterFile,
    store: Arc<dyn Log>,
    last: HighWater,
    /// Cancelled when the database was rolled back.
    failed: CancellationToken,
}

impl WatchHighWater {
    pub(super) fn new(file: HighWaterFile, store: Arc<dyn Log>, failed: CancellationToken) -> Self {
        Self { file, store, last: HighWater::default(), failed }
    }
}

impl Job for WatchHighWater {
    type Error = HighWaterError;

    async fn run_once(&mut self) -> Result<Next, Self::Error> {
        match self.file.update(self.store.as_ref()).await {
            Err(HighWaterError::RolledBack(rolled_back)) => {
                tracing::error!("{rolled_back}; shutting down");
                self.failed.cancel();
            }
            Err(error) => return Err(error),
            Ok(found) if self.last.epoch.is_some() && found.epoch != self.last.epoch => {
                tracing::error!(
                    "the epochs of the logs were renewed while this node was running; shutting down: restart it"
                );
                self.failed.cancel();
            }
            Ok(found) => self.last = found,
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_state_is_refused_in_its_own_epoch_only() {
        let mut marks = Marks::default();
        let (one, two) = (Epoch::new(), Epoch::new());
        let at = |epoch, sequences| HighWater { epoch: Some(epoch), sequences };
        assert!(marks.raise(at(one, 10)).unwrap());
        assert!(!marks.raise(at(one, 10)).unwrap());
        assert!(marks.raise(at(one, 12)).unwrap());
        assert!(marks.raise(at(two, 7)).unwrap(), "renewed");
        let rolled_back = marks.raise(at(one, 11)).unwrap_err();
        assert_eq!((rolled_back.expected, rolled_back.found), (12, 11));
        assert!(rolled_back.to_string().contains("gateway-events epoch renew"));
        assert!(marks.raise(at(one, 12)).unwrap(), "nothing is missing");
        assert!(!marks.raise(HighWater::default()).unwrap(), "an empty database");
        for _ in 0..MAX_MARKS {
            marks.raise(at(Epoch::new(), 1)).unwrap();
        }
        assert_eq!(marks.marks.len(), MAX_MARKS);
    }

    #[test]
    fn a_damaged_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let file = HighWaterFile::of(directory.path());
        let found = HighWater { epoch: Some(Epoch::new()), sequences: 3 };
        for damage in [&b""[..], b"{", b"[]", b"\xff{}"] {
            std::fs::write(&file.path, damage).unwrap();
            file.raise(found).unwrap();
            let older = HighWater { sequences: 2, ..found };
            let refused = file.raise(older).unwrap_err();
            assert!(matches!(refused, HighWaterError::RolledBack(_)), "{refused}");
        }
    }
}
