//! A database for one test, on a server that the tests start.

use sqlx::{ConnectOptions as _, PgConnection};

#[path = "../../../tests/stories/server.rs"]
mod server;

/// Drops the database when it is dropped.
pub(super) struct Scratch {
    _database: server::Database,
}

impl Scratch {
    /// Disables foreign keys, so that a test can create inconsistent rows.
    pub(super) const WITHOUT_FOREIGN_KEYS: &str = "set session_replication_role = replica";

    /// Creates a migrated database; returns it with a connection.
    pub(super) async fn new() -> (Self, PgConnection) {
        let database = server::Database::new();
        let settings: sqlx::postgres::PgConnectOptions = database.url().parse().unwrap();
        let mut conn = settings.connect().await.unwrap();
        sqlx::migrate!("migrations/postgres").run(&mut conn).await.unwrap();
        (Self { _database: database }, conn)
    }
}
