//! A consistent copy of the database file, while a server may be running. The copy is made by `vacuum
//! into`, from one snapshot: it contains every transaction that was committed before the copy began,
//! and nothing that was deleted.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use sqlx::{Connection as _, SqliteConnection};
use uuid::Uuid;

use super::{OpenError, Options, backup_mark, connect, migrations};
use crate::files;
use crate::store::sqlite_code;

/// Why a backup was not made. No file is left behind.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The database can't be opened, or is not one of ours.
    #[error("failed to open the database: {0}")]
    Open(OpenError),
    /// The file belongs to the database.
    #[error("{0} belongs to the database itself; choose another file for the backup")]
    Live(PathBuf),
    /// The file exists.
    #[error("{0} exists, and a backup replaces no file; choose another name, or remove it first")]
    Exists(PathBuf),
    /// A part of another database has the name that it would have beside this one.
    #[error(
        "{0} exists, and SQLite would apply it to the backup; remove it, or choose another name for the backup"
    )]
    Leftover(PathBuf),
    /// The name can't be used.
    #[error("{0} can't be the name of a backup: {1}")]
    Name(PathBuf, &'static str),
    /// The copy would not fit.
    #[error(
        "the disk of {path} has {free} bytes of free space, and a backup needs up to {needed}; nothing was written{}",
        removable(.interrupted)
    )]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// Free bytes.
        free: u64,
        /// The most that the copy can need, with `database.min_free_bytes` if it is on the same disk.
        needed: u64,
        /// Incomplete copies of the same name: of processes that were killed, or are running.
        interrupted: Vec<PathBuf>,
    },
    /// The disk became full.
    #[error("the disk of {0} is full; the incomplete copy was removed")]
    DiskFull(PathBuf),
    /// SQLite failed to copy the database.
    #[error("failed to copy the database to {path}: {error}; the incomplete copy was removed")]
    Copy {
        /// The file.
        path: PathBuf,
        /// The error.
        error: sqlx::Error,
    },
    /// A file can't be used.
    #[error("failed to write {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
}

/// Advice about incomplete copies, of which there may be none.
fn removable(interrupted: &[PathBuf]) -> String {
    if interrupted.is_empty() {
        return String::new();
    }
    let files: Vec<String> = interrupted.iter().map(|file| file.display().to_string()).collect();
    let files = files.join(", ");
    format!(
        "; unless another backup to this name is running, remove what interrupted ones have left: {files}"
    )
}

impl BackupError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull(path.to_owned())
            }
            io::ErrorKind::AlreadyExists => Self::Exists(path.to_owned()),
            _ => Self::Io { path: path.to_owned(), error },
        }
    }
}

/// Copies the database to a new file, readable by its owner only, and returns its size in bytes. The
/// file gets its name when it is complete and on the disk.
pub async fn backup(options: &Options, to: &Path) -> Result<u64, BackupError> {
    let live = &options.path;
    File::open(live)
        .map_err(|error| BackupError::Open(OpenError::Io { path: live.clone(), error }))?;
    refuse_taken(live, to)?;
    let opened = |error: OpenError| BackupError::Open(error.at(live));
    migrations::pending_migrations(live).await.map_err(opened)?;
    let mut conn = connect::connect_read_only(live).await.map_err(opened)?;
    check_space(&mut conn, options, to).await?;
    let copy = Partial::new(to).map_err(BackupError::io(to))?;
    let pace = Pace::new(&copy.path).map_err(BackupError::io(to))?;
    let failure = pace
        .keep(&mut conn)
        .await
        .map_err(|error| BackupError::Copy { path: to.to_owned(), error })?;
    vacuum_into(&mut conn, &copy.path).await.map_err(|error| {
        if let Some(error) = failure.get() {
            return BackupError::io(to)(io::Error::new(error.kind(), error.to_string()));
        }
        if is_full(&error) {
            return BackupError::DiskFull(to.to_owned());
        }
        BackupError::Copy { path: to.to_owned(), error }
    })?;
    // It has read a snapshot, which has ended.
    let _ = conn.close().await;
    let (path, target) = (copy.path.clone(), to.to_owned());
    let placing = tokio::task::spawn_blocking(move || -> io::Result<u64> {
        let file = File::options().read(true).write(true).open(&path)?;
        backup_mark::set(&file)?;
        file.sync_all()?;
        files::rename_new(&path, &target)?;
        files::sync_directory_of(&target)?;
        Ok(file.metadata()?.len())
    });
    let placed = placing.await.map_err(io::Error::other).flatten();
    placed.map_err(BackupError::io(to))
}

/// Writes a copy to the disk in small parts while it is made, and rests as long after each. A server that
/// uses the same disk syncs each commit, which would otherwise wait until all of a large copy is written.
struct Pace {
    file: File,
    synced: u64,
}

impl Pace {
    /// Bytes that are synced at once.
    const PART: u64 = 4 << 20;
    /// Instructions of SQLite between two looks at the size of the copy: about thirty rows.
    const INSTRUCTIONS: i32 = 200;
    /// The longest rest, so that a slow disk does not delay the copy without end.
    const MAX_REST: Duration = Duration::from_millis(100);

    fn new(copy: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(copy)?, synced: 0 })
    }

    /// Sets the pace of what this connection copies. Returns where a failed sync is stored: it
    /// interrupts the statement.
    async fn keep(mut self, conn: &mut SqliteConnection) -> sqlx::Result<Arc<OnceLock<io::Error>>> {
        let failure = Arc::new(OnceLock::new());
        let failed = Arc::clone(&failure);
        conn.lock_handle().await?.set_progress_handler(Self::INSTRUCTIONS, move || {
            match self.sync() {
                Ok(()) => true,
                Err(error) => {
                    let _ = failed.set(error);
                    false
                }
            }
        });
        Ok(failure)
    }

    fn sync(&mut self) -> io::Result<()> {
        let written = self.file.metadata()?.len();
        if written.saturating_sub(self.synced) < Self::PART {
            return Ok(());
        }
        let started = Instant::now();
        self.file.sync_data()?;
        self.synced = written;
        #[expect(clippy::disallowed_methods, reason = "SQLite's own thread runs this")]
        std::thread::sleep(started.elapsed().min(Self::MAX_REST));
        Ok(())
    }
}

/// Copies the database of a connection into an empty file. The contents are not synced.
pub(super) async fn vacuum_into(conn: &mut SqliteConnection, to: &Path) -> sqlx::Result<()> {
    // SQLite takes a name that begins with `file:` for a URI.
    let to = std::path::absolute(to)?;
    let name = to.to_str().ok_or_else(|| {
        sqlx::Error::Io(io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8"))
    })?;
    sqlx::query("vacuum into $1").bind(name).execute(conn).await?;
    Ok(())
}

/// Whether SQLite found the disk full.
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    /// The primary result code SQLITE_FULL (sqlite3.h).
    const FULL: i32 = 13;
    sqlite_code(error) == Some(FULL)
}

/// Refuses files that exist, and those that SQLite or the service would use as parts of the database.
fn refuse_taken(live: &Path, to: &Path) -> Result<(), BackupError> {
    let name = to.as_os_str().as_encoded_bytes();
    if to.file_name().is_none() || name.ends_with(b"/") {
        return Err(BackupError::Name(to.to_owned(), "it names a directory; name a file in it"));
    }
    if to.to_str().is_none() {
        return Err(BackupError::Name(to.to_owned(), "SQLite needs a name in UTF-8"));
    }
    // Its other files are beside the file itself, not beside a link to it.
    let live = &fs::canonicalize(live).unwrap_or_else(|_| live.to_owned());
    let is_same = |one: &Path| match (fs::metadata(one), fs::metadata(to)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    };
    let parts = ["", "-wal", "-shm", "-journal", ".lock", ".ballast"].map(|end| beside(live, end));
    let directory = |path: &Path| fs::canonicalize(files::directory_of(path)).ok();
    let is_part = |part: &PathBuf| {
        is_same(part) || part.file_name() == to.file_name() && directory(part) == directory(to)
    };
    if parts.iter().any(is_part) {
        return Err(BackupError::Live(to.to_owned()));
    }
    if files::found(to).map_err(BackupError::io(to))?.is_some() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    for end in ["-wal", "-journal", "-shm"] {
        let leftover = beside(to, end);
        if files::found(&leftover).map_err(BackupError::io(to))?.is_some() {
            return Err(BackupError::Leftover(leftover));
        }
    }
    Ok(())
}

/// A path with `end` appended.
pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Refuses a copy that would fill its disk, or that would leave too little for a server that writes
/// to the same disk.
async fn check_space(
    conn: &mut SqliteConnection,
    options: &Options,
    to: &Path,
) -> Result<(), BackupError> {
    let text = "select (page_count - freelist_count) * page_size
        from pragma_page_count, pragma_freelist_count, pragma_page_size";
    let bytes: i64 = sqlx::query_scalar(text)
        .fetch_one(conn)
        .await
        .map_err(|error| BackupError::Open(OpenError::from(error).at(&options.path)))?;
    let directory = files::directory_of(to);
    let found = fs::metadata(directory).map_err(BackupError::io(to))?;
    let shares = fs::metadata(&options.path).is_ok_and(|live| live.dev() == found.dev());
    let reserve = if shares { options.min_free_bytes } else { 0 };
    let needed = u64::try_from(bytes).unwrap_or_default().saturating_add(reserve);
    match connect::free_bytes(directory) {
        Some(free) if free < needed => {
            let interrupted = Partial::of(to);
            Err(BackupError::NoSpace { path: to.to_owned(), free, needed, interrupted })
        }
        _ => Ok(()),
    }
}

/// An incomplete copy under a name of its own. Removed when this is dropped, unless it was renamed.
pub(super) struct Partial {
    pub(super) path: PathBuf,
}

impl Partial {
    /// The end of the names of incomplete copies.
    const END: &str = ".partial";

    /// An empty file beside `target`.
    fn new(target: &Path) -> io::Result<Self> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}{}", Uuid::new_v4().simple(), Self::END));
        Self::create(target.with_file_name(name))
    }

    /// The incomplete copies beside `target`, and their journals.
    fn of(target: &Path) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(files::directory_of(target)) else { return Vec::new() };
        let is_partial = |path: &PathBuf| {
            let name = path.file_name().and_then(OsStr::to_str);
            let target = target.file_name().and_then(OsStr::to_str);
            let (Some(name), Some(target)) = (name, target) else { return false };
            let rest = name.strip_prefix(target).and_then(|rest| rest.strip_prefix('.'));
            rest.and_then(|rest| rest.split_once(Self::END))
                .is_some_and(|(id, _)| Uuid::try_parse(id).is_ok())
        };
        let mut found: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_partial).collect();
        found.sort();
        found
    }

    /// An empty file with this name.
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        files::create_new(&path, files::PRIVATE)?;
        Ok(Self { path })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(beside(&self.path, end));
        }
    }
}
