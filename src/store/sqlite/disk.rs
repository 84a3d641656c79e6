//! The disk that the database lies on. Below a watermark nothing more is
//! published; and should the disk fill up all the same, a ballast file goes, so
//! that receipts and retention, which write too, can go on.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{Options, open};

/// With less than this free, nothing can be written any more.
const NOTHING: u64 = 1024 * 1024;

/// Free space, and what is held back of it.
pub(super) struct Disk {
    path: PathBuf,
    min_free_bytes: u64,
    ballast: PathBuf,
    ballast_bytes: u64,
    /// That there is no room for the ballast is said once.
    is_told: bool,
}

impl Disk {
    /// Of the database's file. Before the database is opened: that needs room.
    pub(super) fn of(options: &Options) -> Self {
        let mut ballast = options.path.clone().into_os_string();
        ballast.push(".ballast");
        let mut disk = Self {
            path: options.path.clone(),
            min_free_bytes: options.min_free_bytes,
            ballast: ballast.into(),
            ballast_bytes: options.ballast_bytes,
            is_told: false,
        };
        if open::free_bytes(&disk.path).is_some_and(|free| free < NOTHING) {
            disk.release_ballast();
        }
        disk.keep_ballast();
        disk
    }

    /// Whether nothing more is to be published.
    pub(super) fn is_nearly_full(&self) -> bool {
        open::free_bytes(&self.path).is_some_and(|free| free < self.min_free_bytes)
    }

    /// Makes room, if there is any to be made.
    pub(super) fn release_ballast(&mut self) {
        match std::fs::remove_file(&self.ballast) {
            Ok(()) => tracing::error!(
                bytes = self.ballast_bytes,
                "the disk is full: the ballast was given up so that receipts can be stored; free some space"
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(%error, "the ballast can't be given up"),
        }
    }

    /// Makes the ballast (again) when there is room for it and to spare.
    pub(super) fn keep_ballast(&mut self) {
        if let Some(free) = open::free_bytes(&self.path) {
            metrics::gauge!("gateway_events_disk_free_bytes").set(approximate(free));
        }
        if self.has_ballast() {
            return;
        }
        if self.ballast_bytes == 0 {
            // One that was wanted before is not any more.
            let _ = std::fs::remove_file(&self.ballast);
            return;
        }
        let spare = self.min_free_bytes.saturating_add(self.ballast_bytes).saturating_add(NOTHING);
        let has_room = open::free_bytes(&self.path).is_some_and(|free| free > spare);
        let made = if has_room { self.make() } else { Err(io::ErrorKind::StorageFull.into()) };
        match made {
            Ok(()) => self.is_told = false,
            Err(error) if !self.is_told => {
                self.is_told = true;
                tracing::warn!(%error, bytes = self.ballast_bytes, "there is no room for the ballast now");
            }
            Err(_) => {}
        }
    }

    fn has_ballast(&self) -> bool {
        self.ballast_bytes > 0
            && self.ballast.metadata().is_ok_and(|file| file.len() == self.ballast_bytes)
    }

    fn make(&self) -> io::Result<()> {
        let file = open::private(&self.ballast)?;
        allocate(&file, self.ballast_bytes).inspect_err(|_| {
            // A part of it would only be in the way.
            let _ = std::fs::remove_file(&self.ballast);
        })
    }
}

/// Takes the room without writing it, where the system can do that.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(0)?;
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP) => {}
        done => return Ok(done?),
    }
    // Not zeros: some file systems store these as nothing.
    let mut block = vec![0; 64 * 1024];
    fastrand::fill(&mut block);
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        io::Write::write_all(&mut &*file, &block[..part])?;
        left -= part as u64;
    }
    Ok(())
}

/// Where SQLite keeps a database's write-ahead log.
pub(super) fn wal_of(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    path.into()
}

/// Watches the write-ahead log, which grows for as long as somebody reads an
/// old moment of the database.
pub(super) struct WalWatch {
    path: PathBuf,
    max_bytes: u64,
}

impl WalWatch {
    pub(super) fn of(options: &Options) -> Self {
        Self { path: wal_of(&options.path), max_bytes: options.max_wal_bytes }
    }

    /// Its size, if it is too large.
    pub(super) fn too_large(&self) -> Option<u64> {
        let bytes = size(&self.path);
        metrics::gauge!("gateway_events_wal_bytes").set(approximate(bytes));
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
