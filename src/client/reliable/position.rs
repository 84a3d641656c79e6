//! Where a client stores its position.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::event::{GatewayId, Sequence};
use crate::files;
use crate::transport::frames::{MAX_DETAIL_BYTES, Nack, Position};

/// Why a position can't be read or stored.
#[derive(Debug, thiserror::Error)]
pub enum PositionError {
    /// The file is not a position. It is kept as it is: an operator decides.
    #[error(
        "the position file {} is damaged: {why}; restore it from a backup, or remove it to resume \
         from the position that the service has stored for the instance", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It is a directory, a device, a named pipe or the like.
    #[error("the position file {} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Another process, or another client of this one, uses the file.
    #[error(
        "the position file {} is in use by another client; each instance needs a file of its own", path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file can't be read or written.
    #[error("failed to {action} the position file {}: {error}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// An error of another store.
    #[error("{0}")]
    Other(String),
}

/// The most rejections that a client keeps track of.
pub const MAX_REJECTIONS: usize = 16;

/// What a client stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPosition {
    /// Everything up to here is handled.
    pub position: Position,
    /// The gateway whose log this is; `None` if the client has connected by long polling only, which does
    /// not name it.
    pub gateway: Option<GatewayId>,
    /// The last rejections, in order, at most [`MAX_REJECTIONS`]. The service does not acknowledge a
    /// rejection, so the next connection finds out whether it has recorded these, and repeats them if not.
    pub rejections: Vec<Nack>,
}

impl From<Position> for StoredPosition {
    fn from(position: Position) -> Self {
        Self { position, gateway: None, rejections: Vec::new() }
    }
}

/// Stores a client's position. A gateway that keeps its state in a database can implement it over a
/// row that the handler updates in the transaction in which it applies an event: then a crash
/// repeats nothing. [`save`](Self::save) then only has to store the rest, which changes when an event is
/// rejected.
#[async_trait]
pub trait PositionStore: Send + Sync {
    /// The stored position; `None` before the first one.
    async fn load(&self) -> Result<Option<StoredPosition>, PositionError>;

    /// Stores a position. When this returns, it must survive a crash, because everything up to it is
    /// then confirmed to the service. Positions are in the order of events, except after a
    /// snapshot.
    async fn save(&self, position: &StoredPosition) -> Result<(), PositionError>;
}

/// Keeps the position in memory. After a restart the client resumes from the position that the
/// service has stored for its instance.
#[derive(Debug, Default)]
pub struct MemoryPosition(Mutex<Option<StoredPosition>>);

#[async_trait]
impl PositionStore for MemoryPosition {
    async fn load(&self) -> Result<Option<StoredPosition>, PositionError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn save(&self, position: &StoredPosition) -> Result<(), PositionError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(position.clone());
        Ok(())
    }
}

/// Keeps the position in a file. Each save writes a temporary file beside it, syncs it, renames it, and
/// syncs the directory, so that the file always holds a complete position. From its first use on, it is
/// locked (by a file beside it, `.lock`, which stays) until all clones of this are dropped. Loading fails
/// if a position can't be stored: otherwise an event would be handled, and again after each restart.
///
/// Links are followed at the first use: the file that they lead to is replaced and locked, and they stay.
#[derive(Clone, Debug)]
pub struct FilePosition {
    path: PathBuf,
    locked: Arc<Mutex<Option<Locked>>>,
}

/// The path with links followed, and the lock of the file there.
#[derive(Debug)]
struct Locked {
    path: PathBuf,
    _lock: File,
}

/// The format of the file.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    position: Position,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<GatewayId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rejections: Vec<Nack>,
}

impl FilePosition {
    /// A position in this file. Its directory must exist. Each instance needs a file of its own.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), locked: Arc::default() }
    }

    /// The path of the file with links followed. An error if it is anything other than a regular file.
    pub fn file(&self) -> Result<PathBuf, PositionError> {
        let file = files::resolved(&self.path).map_err(self.error("find"))?;
        match files::found(&file).map_err(self.error("find"))? {
            Some(found) if !found.is_file() => Err(self.not_a_file()),
            _ => Ok(file),
        }
    }

    fn not_a_file(&self) -> PositionError {
        PositionError::NotAFile { path: self.path.clone() }
    }

    fn error(&self, action: &'static str) -> impl Fn(io::Error) -> PositionError + '_ {
        move |error| PositionError::Io { action, path: self.path.clone(), error }
    }

    /// Locks the file, unless that was done before, and returns its path. A file of its own is locked,
    /// because each save replaces the other one.
    fn lock(&self) -> Result<PathBuf, PositionError> {
        let mut locked = self.locked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(locked) = &*locked {
            return Ok(locked.path.clone());
        }
        let path = self.file()?;
        let mut options = non_blocking();
        let options = options.write(true).create(true).truncate(false).mode(MODE);
        let lock = options.open(beside(&path, ".lock")).map_err(self.error("lock"))?;
        match lock.try_lock() {
            Ok(()) => *locked = Some(Locked { path: path.clone(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                return Err(PositionError::InUse { path: self.path.clone() });
            }
            Err(TryLockError::Error(error)) => return Err(self.error("lock")(error)),
        }
        Ok(path)
    }

    fn read(&self) -> Result<Option<StoredPosition>, PositionError> {
        let path = self.lock()?;
        let temporary = beside(&path, ".new");
        let writable = write_synced(&temporary, &[b' '; ROOM]);
        writable.and_then(|()| std::fs::remove_file(&temporary)).map_err(self.error("write"))?;
        let file = match non_blocking().read(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.error("read")(error)),
        };
        if !file.metadata().map_err(self.error("read"))?.is_file() {
            return Err(self.not_a_file());
        }
        let mut text = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(self.error("read"))?;
        self.parse(&text)
    }

    fn parse(&self, text: &[u8]) -> Result<Option<StoredPosition>, PositionError> {
        let damaged = |why: String| PositionError::Damaged { path: self.path.clone(), why };
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
            return Err(damaged(format!(
                "it is larger than a position can be, which is {MAX_FILE_BYTES} bytes"
            )));
        }
        let Stored { format, position, gateway, rejections } =
            serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
        if format != FORMAT {
            return Err(damaged(format!(
                "its format is {format}, and this version reads {FORMAT}"
            )));
        }
        let sequence = position.sequence;
        if !(Sequence::ZERO..=Sequence::MAX).contains(&sequence) {
            return Err(damaged(format!("the sequence {sequence} is out of range")));
        }
        Ok(Some(StoredPosition { position, gateway, rejections }))
    }

    fn write(&self, position: &StoredPosition) -> Result<(), PositionError> {
        let StoredPosition { position, gateway, rejections } = position.clone();
        let stored = Stored { format: FORMAT, position, gateway, rejections };
        let mut text =
            serde_json::to_vec(&stored).map_err(|error| PositionError::Other(error.to_string()))?;
        text.push(b'\n');
        let path = self.lock()?;
        let temporary = beside(&path, ".new");
        let write = || -> io::Result<()> {
            write_synced(&temporary, &text)?;
            std::fs::rename(&temporary, &path)?;
            // The name is on disk when the directory has been synced.
            files::sync_directory_of(&path)
        };
        write().map_err(self.error("write"))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, PositionError> + Send + 'static,
    ) -> Result<T, PositionError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this))
            .await
            .unwrap_or_else(|error| Err(PositionError::Other(error.to_string())))
    }
}

/// The path of a file beside another one.
fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(extension);
    path.with_file_name(name)
}

/// Opening a named pipe with these options does not wait for a process at its other end.
fn non_blocking() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    options
}

fn write_synced(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = non_blocking();
    let mut file = options.write(true).create(true).truncate(true).mode(MODE).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// The space that must be free when a position is loaded, in bytes: enough for one without long details.
const ROOM: usize = 4096;
/// The size of the largest file, in bytes. JSON takes up to six bytes for a byte of a detail.
const MAX_FILE_BYTES: u64 = (ROOM + MAX_REJECTIONS * (6 * MAX_DETAIL_BYTES + 512)) as u64;
/// Only the owner may read or write the file.
const MODE: u32 = 0o600;

#[async_trait]
impl PositionStore for FilePosition {
    async fn load(&self) -> Result<Option<StoredPosition>, PositionError> {
        self.blocking(Self::read).await
    }

    async fn save(&self, position: &StoredPosition) -> Result<(), PositionError> {
        let position = position.clone();
        self.blocking(move |this| this.write(&position)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Epoch, EventId};
    use crate::transport::frames::NackCode;

    fn position(sequence: i64) -> StoredPosition {
        let position = Position {
            epoch: Epoch(uuid::Uuid::nil()),
            sequence: Sequence(sequence),
            event_id: Some(EventId::new("e-1").unwrap()),
        };
        let rejected = Nack {
            sequence: Sequence(1),
            code: NackCode::Invalid,
            retryable: false,
            retry_after_ms: None,
            detail: Some("no \"disk\"".to_owned()),
        };
        let rejections = if sequence > 1 { vec![rejected] } else { Vec::new() };
        StoredPosition { position, gateway: Some(GatewayId::new()), rejections }
    }

    #[tokio::test]
    async fn a_position_is_read_back_and_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let file = FilePosition::new(directory.path().join("position"));
        assert_eq!(file.load().await.unwrap(), None);
        for sequence in [1, 2] {
            let position = position(sequence);
            file.save(&position).await.unwrap();
            assert_eq!(file.load().await.unwrap(), Some(position));
        }
        let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().flatten().collect();
        assert_eq!(names.len(), 2, "the position and its lock: {names:?}");
    }

    #[tokio::test]
    async fn the_largest_position_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("position");
        let file = FilePosition::new(&path);
        let mut largest = position(2);
        largest.position.sequence = Sequence::MAX;
        largest.position.event_id = Some(EventId::new("\"".repeat(64)).unwrap());
        let rejected = Nack {
            sequence: Sequence::MAX,
            code: NackCode::Unsupported,
            retryable: false,
            retry_after_ms: Some(24 * 60 * 60 * 1000),
            detail: Some("\u{1}".repeat(MAX_DETAIL_BYTES)),
        };
        largest.rejections = vec![rejected; MAX_REJECTIONS];
        file.save(&largest).await.unwrap();
        assert_eq!(file.load().await.unwrap(), Some(largest));
        let size = std::fs::metadata(path).unwrap().len();
        assert!(
            size <= MAX_FILE_BYTES && size > MAX_FILE_BYTES / 10 * 9,
            "{size} {MAX_FILE_BYTES}"
        );
    }

    #[tokio::test]
    async fn a_temporary_file_of_a_crash_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let file = FilePosition::new(directory.path().join("position"));
        let (one, two) = (position(1), position(2));
        file.save(&one).await.unwrap();
        std::fs::write(directory.path().join("position.new"), "{\"for").unwrap();
        assert_eq!(file.load().await.unwrap(), Some(one));
        file.save(&two).await.unwrap();
        assert_eq!(file.load().await.unwrap(), Some(two));
    }

    #[tokio::test]
    async fn a_damaged_file_is_an_error_and_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("position");
        let file = FilePosition::new(&path);
        file.save(&position(7)).await.unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        for damaged in [
            String::new(),
            "\0\0\0\0".to_owned(),
            whole[..whole.len() / 2].to_owned(),
            whole.replace("\"format\":1", "\"format\":2"),
            whole.replace(":7", ":-7"),
            whole.replace(":7", ":9007199254740992"),
            whole.replace("00000000-", "0000-"),
            whole.replace("\"gateway\"", "\"gatevay\""),
        ] {
            std::fs::write(&path, &damaged).unwrap();
            let error = file.load().await.unwrap_err();
            assert!(matches!(error, PositionError::Damaged { .. }), "{error}: {damaged}");
            assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), damaged);
        }
    }

    #[tokio::test]
    async fn a_directory_that_does_not_exist_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = FilePosition::new(directory.path().join("missing/position"));
        for error in [file.load().await.unwrap_err(), file.save(&position(1)).await.unwrap_err()] {
            assert!(matches!(error, PositionError::Io { action: "find", .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_is_used_by_one_client_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("position");
        let first = FilePosition::new(&path);
        let stored = position(1);
        first.save(&stored).await.unwrap();
        let second = FilePosition::new(&path);
        for error in
            [second.load().await.unwrap_err(), second.save(&position(2)).await.unwrap_err()]
        {
            assert!(matches!(error, PositionError::InUse { .. }), "{error}");
            assert!(error.to_string().contains("in use by another client"), "{error}");
        }
        assert_eq!(first.clone().load().await.unwrap(), Some(stored.clone()));
        drop(first);
        assert_eq!(second.load().await.unwrap(), Some(stored));
    }
}
