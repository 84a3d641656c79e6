//! Monitors the disk of the database. Below a watermark of free space, publishing is refused. If
//! the disk fills up nevertheless, a ballast file is deleted, so that receipts and retention, which
//! also write, can continue.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Options, connect};
use crate::files;
use crate::metric;
use crate::store::StoreError;

/// Below this much free space, writes are assumed to fail.
const NOTHING: u64 = 1024 * 1024;

/// The beginning of a ballast file, by which it is recognised.
const MARK: &[u8] = b"gateway-events ballast\n";

/// Free space on the disk, and the ballast file.
pub(super) struct Disk {
    path: PathBuf,
    min_free_bytes: u64,
    ballast: PathBuf,
    ballast_bytes: u64,
    /// Whether the warning that there is no room for the ballast was logged.
    has_warned: bool,
}

impl Disk {
    /// The disk of the database file. Must be called before the database is opened, because that
    /// needs free space.
    pub(super) fn of(options: &Options) -> Self {
        let mut ballast = options.path.clone().into_os_string();
        ballast.push(".ballast");
        let mut disk = Self {
            path: options.path.clone(),
            min_free_bytes: options.min_free_bytes,
            ballast: ballast.into(),
            ballast_bytes: options.ballast_bytes,
            has_warned: false,
        };
        if connect::free_bytes(&disk.path).is_some_and(|free| free < NOTHING) {
            disk.release_ballast();
        }
        disk.keep_ballast();
        disk
    }

    /// Whether publishing must be refused.
    pub(super) fn is_nearly_full(&self) -> bool {
        connect::free_bytes(&self.path).is_some_and(|free| free < self.min_free_bytes)
    }

    /// Deletes the ballast file, if there is one.
    pub(super) fn release_ballast(&mut self) {
        if !self.is_ours() {
            return;
        }
        match std::fs::remove_file(&self.ballast) {
            Ok(()) => tracing::error!(
                bytes = self.ballast_bytes,
                "the disk is full; deleted the ballast file so that receipts can be stored; free some space"
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(%error, "failed to delete the ballast file"),
        }
    }

    /// Creates the ballast file if it is missing and there is enough room.
    pub(super) fn keep_ballast(&mut self) {
        if let Some(free) = connect::free_bytes(&self.path) {
            metrics::gauge!(metric::DISK_FREE).set(approximate(free));
        }
        if self.has_ballast() {
            return;
        }
        if self.is_ours() {
            // A ballast file of another size, or one that is not configured any more.
            let _ = std::fs::remove_file(&self.ballast);
        }
        if self.ballast_bytes == 0 {
            return;
        }
        let spare = self.min_free_bytes.saturating_add(self.ballast_bytes).saturating_add(NOTHING);
        let has_room = connect::free_bytes(&self.path).is_some_and(|free| free > spare);
        let made = if has_room { self.make() } else { Err(io::ErrorKind::StorageFull.into()) };
        match made {
            Ok(()) => self.has_warned = false,
            Err(error) if !self.has_warned => {
                self.has_warned = true;
                tracing::warn!(%error, bytes = self.ballast_bytes, "failed to create the ballast file; retrying");
            }
            Err(_) => {}
        }
    }

    fn has_ballast(&self) -> bool {
        self.ballast_bytes > 0 && self.size() == Some(self.ballast_bytes)
    }

    /// The size of the ballast file; `None` if it is missing or not a regular file.
    fn size(&self) -> Option<u64> {
        let found = files::found(&self.ballast).ok()??;
        found.is_file().then_some(found.len())
    }

    /// Whether the existing file is a ballast file, which may be deleted. Earlier versions did not
    /// mark it, so it is also recognised by its size.
    fn is_ours(&self) -> bool {
        let is_marked = || {
            let mut begin = Vec::new();
            let file = File::open(&self.ballast).ok()?;
            file.take(MARK.len() as u64).read_to_end(&mut begin).ok()?;
            Some(begin == MARK)
        };
        self.has_ballast() || (self.size().is_some() && is_marked() == Some(true))
    }

    fn make(&self) -> io::Result<()> {
        let file = files::create_new(&self.ballast, files::PRIVATE)?;
        allocate(&file, self.ballast_bytes).inspect_err(|_| {
            // An incomplete ballast file would only take up space.
            let _ = std::fs::remove_file(&self.ballast);
        })
    }
}

/// Allocates the space, without writing it where the system supports that.
fn allocate(mut file: &File, bytes: u64) -> io::Result<()> {
    file.write_all(&MARK[..MARK.len().min(usize::try_from(bytes).unwrap_or(usize::MAX))])?;
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP) => {}
        done => return Ok(done?),
    }
    // Random bytes, because some file systems do not allocate space for zeros.
    let mut block = vec![0; 64 * 1024];
    fastrand::fill(&mut block);
    let mut left = bytes.saturating_sub(MARK.len() as u64);
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        file.write_all(&block[..part])?;
        left -= part as u64;
    }
    Ok(())
}

/// When the files were read, and the error, if any.
type Finding = (Instant, Option<String>);

/// Distinguishes a failing disk from a corrupt file. SQLite reports a read that failed with EIO as
/// a malformed file, so the files are read to their ends.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    files: Arc<[PathBuf; 2]>,
    /// The last result. Locked during a read, so that concurrent callers share it.
    last: Arc<Mutex<Option<Finding>>>,
}

impl Probe {
    /// How long a result is reused, because reading a large file takes a while.
    const SERVES: Duration = Duration::from_secs(10);

    pub(super) fn of(options: &Options) -> Self {
        let mut wal = options.path.clone().into_os_string();
        wal.push("-wal");
        let files = Arc::new([options.path.clone(), wal.into()]);
        Self { files, last: Arc::default() }
    }

    /// Replaces a corruption error by a disk error if the files can't be read.
    pub(super) async fn explain(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Corrupt(text) if text.contains("malformed") => {
                match self.read_error().await {
                    Some(why) => StoreError::Disk(why),
                    None => StoreError::Corrupt(text),
                }
            }
            error => error,
        }
    }

    async fn read_error(&self) -> Option<String> {
        let mut last = self.last.lock().await;
        if let Some((at, found)) = &*last
            && at.elapsed() < Self::SERVES
        {
            return found.clone();
        }
        let files = Arc::clone(&self.files);
        let reading = tokio::task::spawn_blocking(move || files.iter().find_map(|it| read(it)));
        let found = reading.await.unwrap_or_default();
        *last = Some((Instant::now(), found.clone()));
        found
    }
}

/// Reads a file to its end; returns the error, if any.
fn read(path: &Path) -> Option<String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(format!("failed to open {}: {error}", path.display())),
    };
    let mut block = vec![0; 1024 * 1024];
    let mut position = 0;
    loop {
        match file.read(&mut block) {
            Ok(0) => return None,
            Ok(bytes) => position += bytes as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Some(format!(
                    "failed to read {} at byte {position}: {error}",
                    path.display()
                ));
            }
        }
    }
}

/// Watches the size of the write-ahead log, which grows while a connection reads an old snapshot.
pub(super) struct WalWatch {
    path: PathBuf,
    max_bytes: u64,
}

impl WalWatch {
    pub(super) fn of(options: &Options) -> Self {
        let mut path = options.path.clone().into_os_string();
        path.push("-wal");
        Self { path: path.into(), max_bytes: options.max_wal_bytes }
    }

    /// The size of the log, if it is too large.
    pub(super) fn too_large(&self) -> Option<u64> {
        let bytes = size(&self.path);
        metrics::gauge!(metric::WAL_SIZE).set(approximate(bytes));
        (bytes > self.max_bytes).then_some(bytes)
    }
}

fn size(path: &Path) -> u64 {
    path.metadata().map_or(0, |file| file.len())
}

#[expect(clippy::cast_precision_loss, reason = "a gauge need not be exact")]
fn approximate(bytes: u64) -> f64 {
    bytes as f64
}
