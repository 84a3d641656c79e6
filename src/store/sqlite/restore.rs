//! Replaces the database with a backup. The backup is copied, checked and given new epochs
//! beside the database, and takes its place by one rename: whatever fails before leaves the database
//! as it was. The backup itself is only read.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use sqlx::Connection as _;

use super::backup::{Partial, beside, is_full, vacuum_into};
use super::{OpenError, backup_mark, connect, migrations, recovery, verify};
use crate::clock::Timestamp;
use crate::files;
use crate::store::{Principal, RenewalReason, Restore, Restored, StoreError, sqlite_code};

/// Why a backup was not restored. The database is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup can't be read.
    #[error("failed to read {path}: {error}")]
    Unreadable {
        /// The backup.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// The backup is not a regular file.
    #[error("{0} is not a regular file; nothing was changed")]
    NotAFile(PathBuf),
    /// The file is not a SQLite database.
    #[error("{0} is not a backup: it is not a SQLite database; nothing was changed")]
    NotADatabase(PathBuf),
    /// The backup is the database itself.
    #[error("{0} is the database itself; name a backup of it")]
    Live(PathBuf),
    /// The backup is not a database of this service, or of a newer version.
    #[error("{path} can't be restored: {error}; nothing was changed")]
    Unsuitable {
        /// The backup.
        path: PathBuf,
        /// The error.
        error: OpenError,
    },
    /// The backup is a database without our tables.
    #[error("{0} is not a database of gateway-events; nothing was changed")]
    Foreign(PathBuf),
    /// SQLite finds the backup damaged.
    #[error("{path} is damaged or incomplete: {error}; nothing was changed; use another backup")]
    Damaged {
        /// The backup.
        path: PathBuf,
        /// What SQLite reports.
        error: String,
    },
    /// Verification finds problems in the backup.
    #[error(
        "{path} has problems; nothing was changed; add --accept-problems to restore it anyway:\n{}",
        .problems.join("\n")
    )]
    Problems {
        /// The backup.
        path: PathBuf,
        /// The problems.
        problems: Vec<String>,
    },
    /// There is a database already.
    #[error(
        "{0} exists; add --replace to move it aside and put the backup in its place; nothing was changed"
    )]
    Exists(PathBuf),
    /// Another program has the database open.
    #[error("another program has {0} open; stop it first; nothing was changed")]
    Open(PathBuf),
    /// The database can't be locked, because a server is running, or for another reason.
    #[error(transparent)]
    Lock(OpenError),
    /// The disk became full.
    #[error("the disk of {0} is full; nothing was changed")]
    DiskFull(PathBuf),
    /// The copy of the backup can't be used.
    #[error("failed to prepare the backup: {0}; nothing was changed")]
    Prepare(OpenError),
    /// A file can't be written or renamed.
    #[error("failed to write {path}: {error}; nothing was changed")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
}

/// Replaces the database at `path` with a backup, with new epochs for all logs. Fails while a
/// server has the database open.
pub async fn restore(path: &Path, restore: Restore) -> Result<Restored, RestoreError> {
    let from = &restore.from;
    let unreadable = |error| RestoreError::Unreadable { path: from.clone(), error };
    let source = fs::metadata(from).map_err(unreadable)?;
    if !source.is_file() {
        return Err(RestoreError::NotAFile(from.clone()));
    }
    File::open(from).map_err(unreadable)?;
    if fs::metadata(path).is_ok_and(|it| (it.dev(), it.ino()) == (source.dev(), source.ino())) {
        return Err(RestoreError::Live(from.clone()));
    }
    let new = New::before(path);
    let lock = connect::lock(path).map_err(|error| {
        new.remove_directories();
        RestoreError::Lock(error)
    })?;
    let restored = restore_locked(path, restore).await;
    if restored.is_err() {
        new.remove(lock);
    }
    restored
}

/// What locking creates: the lock file and the directories above it, unless they exist. They are removed
/// when nothing is restored.
struct New {
    lock: Option<PathBuf>,
    /// The deepest one first.
    directories: Vec<PathBuf>,
}

impl New {
    fn before(path: &Path) -> Self {
        let lock = beside(path, ".lock");
        let above = path.ancestors().skip(1).filter(|it| !it.as_os_str().is_empty());
        let missing = above.take_while(|it| !it.exists()).map(Path::to_owned);
        Self { lock: (!lock.exists()).then_some(lock), directories: missing.collect() }
    }

    /// Removes the lock file while it is locked, so that it can't be one that another process has locked.
    fn remove(&self, locked: File) {
        if let Some(lock) = &self.lock {
            let _ = fs::remove_file(lock);
        }
        drop(locked);
        self.remove_directories();
    }

    /// Fails, without harm, if another process has put something in them.
    fn remove_directories(&self) {
        for directory in &self.directories {
            let _ = fs::remove_dir(directory);
        }
    }
}

async fn restore_locked(path: &Path, restore: Restore) -> Result<Restored, RestoreError> {
    let Restore { from, replace, accept_problems, principal } = restore;
    // If the name is a link, what it leads to is replaced. Servers lock the name that they are given.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let is_taken = PARTS.iter().any(|end| beside(path, end).exists());
    if is_taken && !replace {
        return Err(RestoreError::Exists(path.to_owned()));
    }
    let io_error = |error| RestoreError::Io { path: path.to_owned(), error };
    let copy = copy(&from, path).await?;
    let prepared = prepare(&copy.path, &from, accept_problems, principal).await?;
    files::give_to_owner_of(&copy.path, path).map_err(io_error)?;
    File::open(&copy.path).and_then(|file| file.sync_all()).map_err(io_error)?;
    let aside = if is_taken { Some(set_aside(path).await?) } else { None };
    fs::rename(&copy.path, path).and_then(|()| files::sync_directory_of(path)).map_err(io_error)?;
    let (logs, problems) = prepared;
    Ok(Restored { logs, problems, aside })
}

/// The files of a database that contain data. There is one more, which SQLite creates anew.
const PARTS: [&str; 3] = ["", "-wal", "-journal"];

/// Checks that a file is a database of ours that this version can use, and copies it beside `path`.
async fn copy(from: &Path, path: &Path) -> Result<Partial, RestoreError> {
    let damaged = |error: &dyn ToString| RestoreError::Damaged {
        path: from.to_owned(),
        error: error.to_string(),
    };
    let unsuitable = |error: OpenError| match error.at(from) {
        OpenError::Damaged { error, .. } => damaged(&error),
        OpenError::File { error, .. } if is_truncated(&error) => damaged(&error),
        OpenError::NotADatabase(path) => RestoreError::NotADatabase(path),
        error => RestoreError::Unsuitable { path: from.to_owned(), error },
    };
    migrations::pending_migrations(from).await.map_err(unsuitable)?;
    let mut conn = connect::connect_read_only(from).await.map_err(unsuitable)?;
    let tables = "select count(*) from sqlite_schema where name in ('streams', 'outbox')";
    let ours: i64 = sqlx::query_scalar(tables)
        .fetch_one(&mut conn)
        .await
        .map_err(|error| unsuitable(error.into()))?;
    if ours < 2 {
        return Err(RestoreError::Foreign(from.to_owned()));
    }
    let findings: Vec<String> = sqlx::query_scalar("pragma integrity_check(10)")
        .fetch_all(&mut conn)
        .await
        .map_err(|error| damaged(&error))?;
    if findings != ["ok"] {
        return Err(damaged(&findings.join("; ")));
    }
    let name = beside(path, ".restoring");
    // Left behind by a restore that was killed. The lock excludes that one is running.
    drop(Partial { path: name.clone() });
    let copy =
        Partial::create(name).map_err(|error| RestoreError::Io { path: path.to_owned(), error })?;
    vacuum_into(&mut conn, &copy.path).await.map_err(|error| {
        if is_full(&error) { RestoreError::DiskFull(path.to_owned()) } else { damaged(&error) }
    })?;
    let _ = conn.close().await;
    Ok(copy)
}

/// Migrates and verifies the copy, and gives its logs new epochs. Returns the number of logs and the
/// problems.
async fn prepare(
    copy: &Path,
    from: &Path,
    accept_problems: bool,
    principal: Principal,
) -> Result<(u64, Vec<String>), RestoreError> {
    let failed = |error: OpenError| match error.at(copy) {
        OpenError::File { error, .. } if is_full(&error) => RestoreError::DiskFull(copy.to_owned()),
        OpenError::Begin(StoreError::StorageFull) => RestoreError::DiskFull(copy.to_owned()),
        error => RestoreError::Prepare(error),
    };
    let mut conn = connect::connect(copy).await.map_err(failed)?;
    migrations::run(&mut conn).await.map_err(failed)?;
    let report = verify::verify(copy).await.map_err(|error| failed(error.into()))?;
    if !report.problems.is_empty() && !accept_problems {
        let (path, problems) = (from.to_owned(), report.problems);
        return Err(RestoreError::Problems { path, problems });
    }
    let renewed = recovery::renew(&mut conn, principal, RenewalReason::Restored).await;
    let logs = renewed.map_err(failed)?;
    backup_mark::clear(&mut conn).await.map_err(|error| failed(error.into()))?;
    // The last connection writes everything to the database's file.
    conn.close().await.map_err(|error| failed(error.into()))?;
    Ok((logs, report.problems))
}

/// Gives the database a second name, which remains when the backup takes the first one.
async fn set_aside(path: &Path) -> Result<PathBuf, RestoreError> {
    // A write-ahead log would be applied to whatever database has the name. When the last connection
    // to a sound database is closed, there is none. If it is damaged, the log is moved aside with it.
    if path.exists()
        && let Ok(conn) = connect::connect(path).await
    {
        let _ = conn.close().await;
        let io_error = |error| RestoreError::Io { path: path.to_owned(), error };
        if beside(path, "-wal").exists() && is_open_elsewhere(path).map_err(io_error)? {
            return Err(RestoreError::Open(path.to_owned()));
        }
    }
    let aside = beside(path, &format!(".replaced-{}", Timestamp::now().micros()));
    let moved = || -> io::Result<()> {
        for end in PARTS {
            let (part, kept) = (beside(path, end), beside(&aside, end));
            if part.exists() {
                fs::hard_link(&part, &kept)?;
            }
        }
        files::sync_directory_of(path)?;
        for end in ["-wal", "-journal", "-shm"] {
            match fs::remove_file(beside(path, end)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        files::sync_directory_of(path)
    };
    moved().map_err(|error| RestoreError::Io { path: aside.clone(), error })?;
    Ok(aside)
}

/// Whether another process has a connection to a database with a write-ahead log: each holds a shared
/// lock on the file ("Locks" in <https://www.sqlite.org/walformat.html>). No connection of this process
/// may be open, because closing the file releases all locks of a process.
fn is_open_elsewhere(path: &Path) -> io::Result<bool> {
    let file = File::options().read(true).write(true).open(path)?;
    match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Whether SQLite failed to read the file, which may be too short.
fn is_truncated(error: &sqlx::Error) -> bool {
    /// The primary result code SQLITE_IOERR (sqlite3.h).
    const IO: i32 = 10;
    sqlite_code(error) == Some(IO)
}
