//! Opens the file so that the guarantees hold: one server, a local disk, a SQLite version without
//! known corruption bugs, and every commit synced. If one of them can't be ensured, opening fails.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqliteConnection, SqlitePool};

use super::Options;
use crate::files;
use crate::store::{SchemaError, StoreError, sqlite_code};

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Rows that a statement may produce before the caller has read them: enough that there are few
/// hand-overs between threads, and few enough that large rows that are not needed do not fill the
/// memory.
const ROWS_AHEAD: usize = 64;
/// Older versions can corrupt the write-ahead log when one process makes a checkpoint while another
/// writes.
const MIN_SQLITE_VERSION: [u32; 3] = [3, 51, 3];

/// Why a SQLite database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another server has opened the database.
    #[error(
        "{0} is in use by another gateway-events server or command; stop that one first, or use another data directory for a second service"
    )]
    InUse(PathBuf),
    /// File locks and shared memory don't work on a network file system.
    #[error(
        "{0} is on a network file system, where SQLite can lose data; choose a data directory on a local disk"
    )]
    NetworkFileSystem(PathBuf),
    /// The file, its directory or its lock file can't be created or opened.
    #[error("failed to open {path}: {error}")]
    Io {
        /// The path.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// The linked SQLite is too old.
    #[error("SQLite {0} can corrupt its write-ahead log; build with 3.51.3 or newer")]
    OldSqlite(String),
    /// A setting is not in effect.
    #[error(
        "`pragma {name}` is {found} instead of {wanted}; the database can't be used safely; if another program has changed the file, stop that program and restart"
    )]
    Pragma {
        /// The pragma.
        name: &'static str,
        /// The required value.
        wanted: &'static str,
        /// The actual value.
        found: String,
    },
    /// The file is a backup that was not restored.
    #[error(
        "{0} is a backup that was not restored; serving it would use sequences again; move it to another directory and run `gateway-events restore`, or, if it must stay where it is, run `gateway-events epoch renew`"
    )]
    Backup(PathBuf),
    /// The file does not exist.
    #[error(
        "{0} does not exist; check --data-dir, or create the database with `gateway-events migrate`"
    )]
    Missing(PathBuf),
    /// Migrations have not been applied.
    #[error("{0} has an older schema; run `gateway-events migrate`")]
    Behind(PathBuf),
    /// The schema can't be used by this version.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The file has no tables.
    #[error(
        "{0} is empty: it has no tables; restore the database from a backup, or create a new one with `gateway-events migrate`; if this is a backup, it is incomplete: use another one"
    )]
    Empty(PathBuf),
    /// The file is a SQLite database without a history of our migrations.
    #[error(
        "{0} is a SQLite database, but not one of gateway-events; check its path, and --data-dir"
    )]
    Foreign(PathBuf),
    /// The file is not a SQLite database.
    #[error(
        "{0} is not a SQLite database, or its header is damaged; restore the database from a backup, or remove it to start with an empty one; if this is a backup, use another one"
    )]
    NotADatabase(PathBuf),
    /// SQLite finds the file damaged.
    #[error(
        "{path} is damaged or incomplete: {error}; restore the database from a backup; if this is a backup, use another one"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// SQLite returned an error about a file.
    #[error("SQLite returned an error for {path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// The error.
        error: sqlx::Error,
    },
    /// SQLite returned an error.
    #[error("SQLite returned an error: {0}")]
    Database(#[from] sqlx::Error),
    /// The database was opened, but the first operation failed.
    #[error(transparent)]
    Begin(#[from] StoreError),
}

impl OpenError {
    /// Names the file in an error of SQLite.
    pub(in crate::store) fn at(self, path: &Path) -> Self {
        /// The primary result codes SQLITE_CORRUPT and SQLITE_NOTADB (sqlite3.h).
        const CORRUPT: i32 = 11;
        const NOT_A_DATABASE: i32 = 26;
        let Self::Database(error) = self else { return self };
        let path = path.to_owned();
        match sqlite_code(&error) {
            Some(NOT_A_DATABASE) => Self::NotADatabase(path),
            Some(CORRUPT) => Self::Damaged { path, error: error.to_string() },
            _ => Self::File { path, error },
        }
    }
}

/// Locks the lock file beside the database. The lock is released when the file is closed, also by a
/// crash.
pub(super) fn lock(path: &Path) -> Result<File, OpenError> {
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_directory(directory).map_err(|error| io_error(directory, error))?;
        refuse_network(directory)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let is_new = !name.exists();
    let file = private(&name).map_err(|error| io_error(&name, error))?;
    if is_new {
        files::give_to_owner_of(&name, path).map_err(|error| io_error(&name, error))?;
    }
    match file.try_lock() {
        Ok(()) if is_at(&file, &name) => Ok(file),
        // A restore that failed has removed it meanwhile, so the next one would lock another file.
        Ok(()) | Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(io_error(&name, error)),
    }
}

/// Whether a path still leads to an open file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |of: io::Result<std::fs::Metadata>| of.ok().map(|it| (it.dev(), it.ino()));
    let opened = identity(file.metadata());
    opened.is_some() && opened == identity(std::fs::metadata(path))
}

#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

/// Creates the database file, readable by its owner only. SQLite gives its other files the same
/// mode.
pub(super) fn create(path: &Path) -> Result<(), OpenError> {
    private(path).map(drop).map_err(|error| io_error(path, error))
}

/// Opens a connection to an existing file with the settings of the service, and verifies
/// that they are in effect. Does not take the lock that keeps other servers away.
pub async fn connect(path: &Path) -> Result<SqliteConnection, OpenError> {
    let mut conn = settings(path).connect().await?;
    check_settings(&mut conn).await?;
    Ok(conn)
}

/// Opens the connection that writes. The schema must be up to date.
pub(super) async fn connect_writer(path: &Path) -> Result<SqliteConnection, OpenError> {
    let mut conn = connect(path).await?;
    prepare_writer(&mut conn).await?;
    Ok(conn)
}

/// Keeps the writer's temporary data in memory. A statement that inserts several rows saves each
/// page before it changes it, to undo the statement alone; in a file, that is a system call per
/// page, and a copy of what may be purged later. Not for migrations, which sort whole tables.
pub(super) async fn prepare_writer(conn: &mut SqliteConnection) -> Result<(), OpenError> {
    sqlx::query("pragma temp_store = memory").execute(conn).await?;
    Ok(())
}

/// Opens a connection that can't change the file.
pub(super) async fn connect_read_only(path: &Path) -> Result<SqliteConnection, OpenError> {
    let settings = SqliteConnectOptions::new().filename(path).read_only(true);
    Ok(settings.busy_timeout(BUSY_TIMEOUT).connect().await?)
}

/// A pool of at most this many reading connections.
pub(super) async fn readers(options: &Options, most: u32) -> Result<SqlitePool, OpenError> {
    let pool = SqlitePoolOptions::new()
        .max_connections(most.max(1))
        .acquire_timeout(BUSY_TIMEOUT)
        // A file does not become unreachable like a server.
        .test_before_acquire(false)
        .connect_with(settings(&options.path).pragma("query_only", "on"))
        .await?;
    Ok(pool)
}

/// Free bytes on the database's disk; `None` if unknown.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let disk = rustix::fs::statvfs(path).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

fn settings(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // What is deleted is overwritten, so that a purged payload is in no free page either.
        .pragma("secure_delete", "on")
        .busy_timeout(BUSY_TIMEOUT)
        .row_buffer_size(ROWS_AHEAD)
}

async fn check_settings(conn: &mut SqliteConnection) -> Result<(), OpenError> {
    let version: String =
        sqlx::query_scalar("select sqlite_version()").fetch_one(&mut *conn).await?;
    let parts: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
    if parts.as_slice() < MIN_SQLITE_VERSION.as_slice() {
        return Err(OpenError::OldSqlite(version));
    }
    for (name, statement, wanted) in [
        ("journal_mode", "select journal_mode from pragma_journal_mode", "wal"),
        ("synchronous", "select cast(synchronous as text) from pragma_synchronous", "2"),
        ("foreign_keys", "select cast(foreign_keys as text) from pragma_foreign_keys", "1"),
        ("secure_delete", "select cast(secure_delete as text) from pragma_secure_delete", "1"),
        ("busy_timeout", "select cast(timeout as text) from pragma_busy_timeout", "5000"),
    ] {
        let found: String = sqlx::query_scalar(statement).fetch_one(&mut *conn).await?;
        if found != wanted {
            return Err(OpenError::Pragma { name, wanted, found });
        }
    }
    Ok(())
}

fn create_directory(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

pub(super) fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(target_os = "linux")]
fn refuse_network(directory: &Path) -> Result<(), OpenError> {
    /// NFS, SMB, CIFS, SMB2, AFS, Ceph (statfs(2), `f_type`).
    const NETWORK: [rustix::fs::FsWord; 6] =
        [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42, 0x5346_414F, 0x00C3_6400];
    let disk = rustix::fs::statfs(directory).map_err(|error| io_error(directory, error.into()))?;
    if NETWORK.contains(&disk.f_type) {
        return Err(OpenError::NetworkFileSystem(directory.to_owned()));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn refuse_network(_directory: &Path) -> Result<(), OpenError> {
    Ok(())
}

fn io_error(path: &Path, error: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), error }
}
