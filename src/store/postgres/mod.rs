//! The shared store: any number of nodes on one Postgres. Each has a task that
//! appends and records in groups; everything else runs beside it in
//! transactions of its own. No call lacks an end, at the server and here, and a
//! database that is away costs answers, not the process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::{PgConnection, PgPool};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Result, StoreError};
use crate::event::NodeId;
use crate::wake::Wake;

mod connect;
mod dialect;
mod floor;
mod migrations;
mod news;
mod options;
mod recovery;
#[cfg(test)]
mod scratch;
mod session;
#[allow(clippy::duplicate_mod, reason = "written once, and compiled for each database")]
#[path = "../sql/mod.rs"]
mod sql;
mod temporary;
mod verify;
mod watch_inbox;

pub use connect::OpenError;
pub use migrations::{migrate, pending_migrations};
pub use options::Options;
pub use recovery::add_admin_token;
pub use temporary::Temporary;
pub use verify::verify;

pub(super) use floor::Bare;
use news::News;
use session::Session;
use sql::writer::Writer;

type Backend = PostgresStore;

/// After a question's end the server has this long to say so.
const GRACE: Duration = Duration::from_secs(1);

/// The log and the ledger in a Postgres database.
#[derive(Debug)]
pub struct PostgresStore {
    node: NodeId,
    wake: Wake,
    pool: PgPool,
    askers: PgPool,
    answer_timeout: Duration,
    writer: Writer,
    inbox: watch_inbox::Watch,
    /// What runs beside the verbs, and its end.
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl PostgresStore {
    /// Connects, brings the schema up to date, and closes the connections that
    /// dead nodes left open.
    pub async fn open(options: &Options, node: NodeId, wake: Wake) -> Result<Arc<Self>, OpenError> {
        let settings = connect::settings(options)?;
        migrations::run(&mut connect::first(&settings).await?).await?;
        let settings = connect::session_settings(&settings);
        let connection = connect::first(&settings).await?;
        let pool = connect::pool(&settings, options.connections);
        let askers = connect::pool(&settings, options.askers);
        let answer_timeout = options.answer_timeout;
        let session = Session::new(settings.clone(), Some(connection), pool.clone());
        let writer = Writer::start(session, options.queue, node, wake.clone());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let inbox = watch_inbox::Watch::new(settings.clone(), stop.clone());
        let news = News { node, wake: wake.clone(), pool: pool.clone(), settings };
        news.start(&tasks, &stop);
        let store =
            Arc::new(Self { node, wake, pool, askers, answer_timeout, writer, inbox, tasks, stop });
        store.begin().await?;
        Ok(store)
    }

    /// Reads one moment of the database.
    async fn reading<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        moment(self.pool.clone(), None, work).await
    }

    /// The same for somebody who asks: after those who asked before, and not
    /// for ever.
    async fn asking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        moment(self.askers.clone(), Some(self.answer_timeout), work).await
    }

    /// Whether the server takes reads, and would take writes.
    async fn check_health(&self) -> Result<()> {
        let standby = self.reading(|connection| {
            Box::pin(async move {
                let standby = sqlx::query_scalar("select pg_is_in_recovery()");
                Ok(standby.fetch_one(connection).await?)
            })
        });
        if standby.await? {
            return Err(StoreError::Unavailable(
                "the server is a standby and takes no writes".to_owned(),
            ));
        }
        Ok(())
    }

    /// Waits for another program's commit.
    async fn watch_inbox(&self) -> Result<()> {
        self.inbox.changed().await
    }

    /// The server's disk is the server's to watch.
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "a file's disk is ours to watch"
    )]
    const fn check_space(&self) -> Result<()> {
        Ok(())
    }

    async fn shut(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.writer.stop().await;
        self.askers.close().await;
        self.pool.close().await;
    }
}

/// Reads one moment of the database, in a task of its own, because a
/// transaction whose future is dropped while it begins would be left open in
/// the pool. A moment with an end is ended by the server too.
async fn moment<T, F>(pool: PgPool, end: Option<Duration>, work: F) -> Result<T>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
{
    let reading = tokio::spawn(async move {
        let mut connection = pool.acquire().await?;
        let asked_at = Instant::now();
        let read = connect::limited(async {
            let begin = "begin isolation level repeatable read read only";
            let mut moment = sqlx::Connection::begin_with(&mut *connection, begin).await?;
            if let Some(end) = end {
                sqlx::query("select set_config('statement_timeout', $1, true)")
                    .bind(format!("{}ms", end.as_millis().max(1)))
                    .execute(&mut *moment)
                    .await?;
            }
            let read = work(&mut moment).await;
            moment.rollback().await?;
            Ok::<_, StoreError>(read)
        });
        let read = match end {
            Some(end) => timeout(end + GRACE, read).await.unwrap_or(Err(StoreError::TooLong(end))),
            None => read.await,
        };
        match (read, end) {
            (Ok(Err(StoreError::Unavailable(_))), Some(end)) if asked_at.elapsed() >= end => {
                Err(StoreError::TooLong(end))
            }
            (Ok(read), _) => read,
            (Err(error), _) => {
                connection.close_on_drop();
                Err(error)
            }
        }
    });
    reading.await.unwrap_or_else(|error| {
        Err(StoreError::Unavailable(format!("a read was broken off: {error}")))
    })
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
