//! A database for one test, in a temporary file.

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection};

/// Removes the file when it is dropped.
pub(super) struct Scratch {
    _directory: tempfile::TempDir,
}

impl Scratch {
    /// Disables foreign keys, so that a test can create inconsistent rows.
    pub(super) const WITHOUT_FOREIGN_KEYS: &str = "pragma foreign_keys = off";

    /// Creates a migrated database; returns it with a connection.
    pub(super) async fn new() -> (Self, SqliteConnection) {
        let directory = tempfile::tempdir().unwrap();
        let mut conn = SqliteConnectOptions::new()
            .filename(directory.path().join("test.db"))
            .create_if_missing(true)
            .foreign_keys(true)
            // A test's file need not survive a power failure.
            .pragma("synchronous", "off")
            .pragma("journal_mode", "memory")
            .connect()
            .await
            .unwrap();
        sqlx::migrate!("migrations/sqlite").run(&mut conn).await.unwrap();
        (Self { _directory: directory }, conn)
    }
}
