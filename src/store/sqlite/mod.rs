//! The embedded store: one file, one server, one connection that writes. Reads
//! see one moment of the file and never wait for the writer; writes are
//! commands to it. Nothing here holds a statement open across a caller's await.

use std::fs::File;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::{SqliteConnection, SqlitePool};

use super::Result;
use crate::event::NodeId;
use crate::wake::Wake;

mod dialect;
mod migrations;
mod open;
mod options;
mod questions;
#[cfg(test)]
mod scratch;
mod session;
#[allow(clippy::duplicate_mod, reason = "written once, and compiled for each database")]
#[path = "../sql/mod.rs"]
mod sql;
pub mod verify;

pub use migrations::{migrate, pending_migrations};
pub use open::OpenError;
pub use options::Options;

use questions::Questions;
use session::Session;
use sql::writer::Writer;

type Backend = SqliteStore;

/// The log and the ledger in a SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    node: NodeId,
    wake: Wake,
    readers: SqlitePool,
    questions: Questions,
    writer: Writer,
    /// Keeps other servers away for as long as this one lives.
    _lock: File,
}

impl SqliteStore {
    /// Opens the file, creating and migrating it as needed, and closes the
    /// connections that an earlier server left open.
    pub async fn open(options: &Options, node: NodeId, wake: Wake) -> Result<Arc<Self>, OpenError> {
        let lock = open::lock(&options.path)?;
        open::create(&options.path)?;
        let mut connection = open::connect(&options.path).await?;
        migrations::run(&mut connection).await?;
        let readers = open::readers(options, options.readers).await?;
        let askers = open::readers(options, options.askers).await?;
        let questions = Questions::new(askers, options.answer_timeout);
        let session = Session::new(connection, options.path.clone(), options.min_free_bytes);
        let writer = Writer::start(session, options.queue, node, wake.clone());
        let store = Arc::new(Self { node, wake, readers, questions, writer, _lock: lock });
        store.begin().await?;
        Ok(store)
    }

    /// Reads one moment of the file.
    async fn reading<T, F>(&self, work: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>>,
    {
        let mut moment = self.readers.begin().await?;
        work(&mut moment).await
    }

    /// Reads one moment of the file for somebody who asks: after those who
    /// asked before, and not for ever.
    async fn asking<T, F>(&self, work: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>>,
    {
        self.questions.ask(work).await
    }

    async fn check_health(&self) -> Result<()> {
        self.reading(|connection| {
            Box::pin(async move {
                sqlx::query("select 1").execute(connection).await?;
                Ok(())
            })
        })
        .await
    }

    async fn shut(&self) {
        self.questions.close().await;
        self.readers.close().await;
        self.writer.stop().await;
    }
}
