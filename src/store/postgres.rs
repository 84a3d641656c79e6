//! The shared store: any number of nodes on one Postgres. Each has a task that
//! appends and records in groups; everything else runs beside it in
//! transactions of its own. No call lacks an end, at the server and here, and a
//! database that is away costs answers, not the process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Result, StoreError};
use crate::clock;
use crate::event::NodeId;
use crate::jobs::Supervisor;
use crate::wake::Wake;

mod connect;
mod dialect;
mod hear;
mod hosts;
mod migrations;
mod news;
mod options;
mod pool;
mod recovery;
#[cfg(test)]
mod scratch;
mod servers;
mod session;
mod sockets;
#[allow(clippy::duplicate_mod, reason = "written once, and compiled for each database")]
#[path = "sql/mod.rs"]
mod sql;
mod verify;
mod watch_inbox;

pub use connect::{OpenError, connect};
pub use hosts::with_database;
pub use migrations::{migrate, pending_migrations, refuse_another_version};
pub use options::Options;
pub use recovery::add_admin_token;
pub use verify::verify;

use connect::Link;
use news::News;
use pool::Pool;
use servers::Access;
use session::Session;
use sql::writer::{Work, Writer};

type Backend = PostgresStore;

/// What is to be prompt has failed after this.
const PROMPT: Duration = Duration::from_secs(3);
/// After a question's end the server has this long to say so.
const GRACE: Duration = Duration::from_secs(1);

/// The log and the ledger in a Postgres database.
#[derive(Debug)]
pub struct PostgresStore {
    node: NodeId,
    wake: Wake,
    link: Link,
    pool: Pool,
    askers: Pool,
    answer_timeout: Duration,
    node_timeout: Duration,
    /// What says that the node lives waits for nobody else's connection.
    prompt: Mutex<Option<PgConnection>>,
    writer: Writer,
    inbox: watch_inbox::Watch,
    /// What runs beside the operations, and the end of both.
    jobs: Supervisor,
    stop: CancellationToken,
}

impl PostgresStore {
    /// Connects, brings the schema up to date, and closes the connections that
    /// dead nodes left open.
    pub async fn open(options: &Options, node: NodeId, wake: Wake) -> Result<Arc<Self>, OpenError> {
        let (mut connection, link) = connect::first(options, Access::Write).await?;
        migrations::run(&mut connection).await?;
        connect::follow_clock(&mut connection).await?;
        if let Err(error) = connect::limited(connection.close()).await {
            tracing::debug!(%error, "a connection did not close in good order");
        }
        let listener = connect::listener(options, &link)?;
        let pool = link.pool(options.connections);
        let askers = link.pool(options.askers);
        let answer_timeout = options.answer_timeout;
        let session = Session::new(link.clone(), pool.clone());
        let writer = Writer::start(session, options.queue, node, wake.clone());
        let stop = CancellationToken::new();
        let jobs = Supervisor::stopped_by(stop.clone());
        let inbox = watch_inbox::Watch::new(listener.clone(), stop.clone());
        let news = News {
            node,
            wake: wake.clone(),
            pool: pool.clone(),
            link: link.clone(),
            announces: options.notify,
            listener,
        };
        news.start(&jobs);
        let store = Arc::new(Self {
            node,
            wake,
            link,
            pool,
            askers,
            answer_timeout,
            node_timeout: options.node_timeout,
            prompt: Mutex::default(),
            writer,
            inbox,
            jobs,
            stop,
        });
        store.begin().await?;
        Ok(store)
    }

    /// Runs one statement that reads few rows: it is a moment of the database
    /// by itself. A pooler gives it a transaction all the same, for its limits.
    async fn looking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        if self.link.is_pooled {
            return self.reading(work).await;
        }
        let pool = self.pool.clone();
        unbroken(async move {
            let mut connection = pool.get().await?;
            let read = connect::limited(work(&mut connection)).await;
            if let Err(error @ (StoreError::Unavailable(_) | StoreError::ConnectionLost(_))) = &read
            {
                pool::discard(connection, error);
            }
            read
        })
        .await
    }

    /// Reads one moment of the database.
    async fn reading<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        moment(&self.link, &self.pool, None, work).await
    }

    /// The same for somebody who asks: after those who asked before, and not
    /// for ever.
    async fn asking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        moment(&self.link, &self.askers, Some(self.answer_timeout), work).await
    }

    /// Whether there is a server that takes writes, and answers now.
    async fn check_health(&self) -> Result<()> {
        self.looking(|connection| {
            Box::pin(async move {
                if servers::takes_writes(connection).await? {
                    Ok(())
                } else {
                    Err(StoreError::ConnectionLost("the server is read-only".to_owned()))
                }
            })
        })
        .await
    }

    /// Runs what must not wait behind others, in little time, as a transaction
    /// on a connection of its own; one that is dead is soon replaced.
    async fn promptly<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T> {
        let mut kept = self.prompt.lock().await;
        let run = async {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => self.link.connect().await?,
            };
            let mut transaction = connect::begun(&mut connection, self.link.begin()).await?;
            let asked_at = Instant::now();
            let now = dialect::clock(&mut transaction).await?;
            clock::follow(now, asked_at.elapsed());
            let done = work(&mut transaction, now).await?;
            transaction.commit().await?;
            Ok((done, connection))
        };
        let (done, connection) =
            timeout(PROMPT, run).await.unwrap_or_else(|_| Err(connect::no_answer()))?;
        *kept = Some(connection);
        Ok(done)
    }

    /// The jobs of this store.
    pub fn jobs(&self) -> Supervisor {
        self.jobs.clone()
    }

    /// How long a node may be silent.
    const fn node_timeout(&self) -> Duration {
        self.node_timeout
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
        self.jobs.stop().await;
        self.writer.stop().await;
        self.askers.close();
        self.pool.close();
    }
}

/// Reads one moment of the database, in a task of its own, because a
/// transaction whose future is dropped while it begins would be left open in
/// the pool. A moment with an end is ended by the server too.
async fn moment<T, F>(link: &Link, pool: &Pool, end: Option<Duration>, work: F) -> Result<T>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
{
    let (begin, pool) = (link.begin_reading(), pool.clone());
    unbroken(async move {
        let mut connection = pool.get().await?;
        let asked_at = Instant::now();
        let read = connect::limited(async {
            let mut moment = connect::begun(&mut connection, begin).await?;
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
            (Ok(Err(error @ StoreError::ConnectionLost(_))) | Err(error), _) => {
                pool::discard(connection, &error);
                Err(error)
            }
            (Ok(read), _) => read,
        }
    })
    .await
}

/// In a task of its own, because a connection on which a call was broken off
/// would go back into the pool with the answer still to come.
async fn unbroken<T: Send + 'static>(
    reading: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(reading).await.unwrap_or_else(|error| {
        Err(StoreError::Unavailable(format!("a read was broken off: {error}")))
    })
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
