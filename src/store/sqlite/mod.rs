//! The embedded store: one file, one server, one connection that writes. Reads
//! see one moment of the file and never wait for the writer; writes are
//! commands to it. Nothing here holds a statement open across a caller's await.

use std::fs::File;
use std::sync::Arc;

use serde::Serialize;
use sqlx::{Sqlite, SqlitePool, Transaction};

use super::StoreError;
use crate::clock::Timestamp;
use crate::event::NodeId;
use crate::wake::Wake;

mod append;
mod batch;
mod closing;
mod connections;
mod deliveries;
mod event_types;
mod gateways;
mod history;
mod ledger;
mod migrations;
mod open;
mod options;
mod positions;
mod record;
mod redrive;
mod repeats;
mod retention;
mod stream;
mod sweep;
mod targets;
mod tokens;
mod verbs;
pub mod verify;
mod writer;

pub use migrations::{migrate, pending_migrations};
pub use open::OpenError;
pub use options::Options;

/// The log and the ledger in a SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    node: NodeId,
    wake: Wake,
    options: Options,
    readers: SqlitePool,
    writer: writer::Writer,
    /// Keeps other servers away for as long as this one lives.
    _lock: File,
}

impl SqliteStore {
    /// Opens the file, creating and migrating it as needed, and registers the node.
    pub async fn open(options: &Options, node: NodeId, wake: Wake) -> Result<Arc<Self>, OpenError> {
        let lock = open::lock(&options.path)?;
        open::create(&options.path)?;
        let mut connection = open::connect(&options.path).await?;
        migrations::run(&mut connection).await?;
        let readers = open::readers(options).await?;
        let writer = writer::Writer::start(connection, options, node, wake.clone());
        let store =
            Arc::new(Self { node, wake, options: options.clone(), readers, writer, _lock: lock });
        store.begin().await?;
        Ok(store)
    }

    /// Ends when a commit has failed: the process should end with an error, and
    /// a restart finds the truth.
    pub async fn failure(&self) {
        let mut failure = self.writer.failure();
        if failure.wait_for(Option::is_some).await.is_err() {
            // A writer that stopped in good order fails no more.
            std::future::pending::<()>().await;
        }
    }

    /// A moment of the file, to read from. It ends when it is dropped.
    async fn reading(&self) -> super::Result<Transaction<'static, Sqlite>> {
        Ok(self.readers.begin().await?)
    }
}

/// What SQLite says, as the callers need it.
impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        /// Primary result codes (sqlite3.h).
        const CORRUPT: i32 = 11;
        const FULL: i32 = 13;
        const NOT_A_DATABASE: i32 = 26;
        let text = error.to_string();
        match &error {
            sqlx::Error::Database(database) => {
                let code = database.code().and_then(|code| code.parse::<i32>().ok());
                match code.map(|code| code & 0xFF) {
                    Some(FULL) => Self::StorageFull,
                    Some(CORRUPT | NOT_A_DATABASE) => Self::Corrupt(text),
                    _ => Self::Unavailable(text),
                }
            }
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::RowNotFound => Self::Corrupt(text),
            _ => Self::Unavailable(text),
        }
    }
}

/// Rows as one parameter, for SQLite's `json_each`.
fn json<T: Serialize + ?Sized>(rows: &T) -> super::Result<String> {
    serde_json::to_string(rows)
        .map_err(|error| StoreError::Unavailable(format!("rows can't be passed on: {error}")))
}

fn now() -> Timestamp {
    Timestamp::now()
}
