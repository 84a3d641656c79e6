//! The shared store: any number of nodes on one Postgres. The writer of a node appends and records
//! in groups; everything else runs beside it in transactions of its own. Every call has a timeout,
//! here and at the server. If the database is unavailable, operations fail and the process stays.

use std::sync::Arc;
use std::time::{Duration, Instant};

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
mod errors;
mod hosts;
mod listener;
mod migrations;
mod notifications;
mod options;
mod pool;
mod recovery;
#[cfg(test)]
mod scratch;
mod servers;
mod session;
mod sockets;
#[allow(clippy::duplicate_mod, reason = "compiled once per database; sql/dialect.rs says why")]
#[path = "sql/mod.rs"]
mod sql;
mod statements;
mod verify;
mod watch_inbox;

pub use connect::{check_urls, connect};
pub use errors::OpenError;
pub use hosts::with_database;
pub use migrations::{migrate, pending_migrations, refuse_another_version};
pub use options::Options;
pub use recovery::{add_admin_token, check_renewal, renew_epochs};
pub use verify::{verify, verify_against};

use connect::Link;
use notifications::Notifications;
use pool::Pool;
use session::Session;
use sql::access::{Access, Read};
use sql::dialect::NodeStatements as _;
use sql::durations::ReadDurations;
use sql::writer::{Work, Writer};

type Backend = PostgresStore;

/// The timeout of an urgent transaction.
const URGENT: Duration = Duration::from_secs(3);
/// How long after a query's timeout the server may take to report it.
const GRACE: Duration = Duration::from_secs(1);

/// The log and the ledger in a Postgres database.
#[derive(Debug)]
pub struct PostgresStore {
    node: NodeId,
    wake: Wake,
    link: Link,
    pool: Pool,
    query_pool: Pool,
    query_timeout: Duration,
    node_timeout: Duration,
    /// The connection of heartbeats and the like, which must not wait for the pool.
    urgent: Mutex<Option<PgConnection>>,
    writer: Writer,
    inbox: watch_inbox::Watch,
    durations: ReadDurations,
    /// Background jobs of the store, and their end.
    jobs: Supervisor,
    stop: CancellationToken,
}

impl PostgresStore {
    /// Connects, migrates the schema, and registers the node.
    pub async fn open(options: &Options, node: NodeId, wake: Wake) -> Result<Arc<Self>, OpenError> {
        let (mut conn, link) = connect::first(options, servers::Access::Write).await?;
        migrations::run(&mut conn).await?;
        connect::follow_clock(&mut conn).await?;
        if let Err(error) = connect::limited(conn.close()).await {
            tracing::debug!(%error, "failed to close a connection");
        }
        let listener = connect::listener(options, &link)?;
        let pool = link.pool(options.connections);
        let query_pool = link.pool(options.query_connections);
        let query_timeout = options.query_timeout;
        let session = Session::new(link.clone(), pool.clone());
        let writer = Writer::start(session, options.queue, node, wake.clone());
        let stop = CancellationToken::new();
        let jobs = Supervisor::stopped_by(stop.clone());
        let inbox = watch_inbox::Watch::new(listener.clone(), stop.clone());
        let notifications = Notifications {
            node,
            wake: wake.clone(),
            pool: pool.clone(),
            link: link.clone(),
            notifies: options.notify,
            listener,
        };
        notifications.start(&jobs);
        let close = pool::CloseJob([pool.clone(), query_pool.clone()]);
        jobs.start_housekeeping("idle_connections", pool::CLOSE_INTERVAL, close);
        let store = Arc::new(Self {
            node,
            wake,
            link,
            pool,
            query_pool,
            query_timeout,
            node_timeout: options.node_timeout,
            urgent: Mutex::default(),
            writer,
            inbox,
            durations: ReadDurations::new(),
            jobs,
            stop,
        });
        store.begin().await?;
        Ok(store)
    }

    /// The jobs of this store.
    pub fn jobs(&self) -> Supervisor {
        self.jobs.clone()
    }
}

impl Access for PostgresStore {
    /// A single statement is a snapshot. Behind a pooler it still needs a transaction, because
    /// that is where its limits are set.
    async fn point_read<T: Send + 'static>(&self, work: impl Read<T>) -> Result<T> {
        let durations = &self.durations.point;
        if self.link.is_pooled {
            return durations.measure(snapshot(&self.link, &self.pool, None, work)).await;
        }
        let pool = self.pool.clone();
        let read = uninterrupted(async move {
            let mut conn = pool.get().await?;
            let read = connect::limited(work(&mut conn)).await;
            if let Err(error @ (StoreError::Unavailable(_) | StoreError::ConnectionLost(_))) = &read
            {
                pool::discard(conn, error);
            }
            read
        });
        durations.measure(read).await
    }

    async fn snapshot<T: Send + 'static>(&self, work: impl Read<T>) -> Result<T> {
        self.durations.snapshot.measure(snapshot(&self.link, &self.pool, None, work)).await
    }

    async fn query<T: Send + 'static>(&self, work: impl Read<T>) -> Result<T> {
        let read = snapshot(&self.link, &self.query_pool, Some(self.query_timeout), work);
        self.durations.query.measure(read).await
    }

    /// Uses a connection of its own, which is replaced soon after it breaks.
    async fn urgent_tx<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T> {
        let mut kept = self.urgent.lock().await;
        let run = async {
            let mut conn = match kept.take() {
                Some(conn) => conn,
                None => self.link.connect().await?,
            };
            let mut transaction = connect::begun(&mut conn, self.link.begin()).await?;
            let asked_at = Instant::now();
            let now = transaction.now().await?;
            clock::follow(now, asked_at.elapsed());
            let done = work(&mut transaction, now).await?;
            transaction.commit().await?;
            Ok((done, conn))
        };
        let (done, conn) =
            timeout(URGENT, run).await.unwrap_or_else(|_| Err(connect::no_answer()))?;
        *kept = Some(conn);
        Ok(done)
    }

    async fn check_database(&self) -> Result<()> {
        self.point_read(|conn| {
            Box::pin(async move {
                if servers::takes_writes(conn).await? {
                    Ok(())
                } else {
                    Err(StoreError::ConnectionLost("the server is read-only".to_owned()))
                }
            })
        })
        .await
    }

    /// The server's disk is monitored at the server.
    fn check_space(&self) -> Result<()> {
        Ok(())
    }

    /// The server keeps old versions of rows until it vacuums, and its write-ahead log.
    fn erase_remains(&self) {}

    async fn watch_inbox(&self) -> Result<()> {
        self.inbox.changed().await
    }

    fn node_timeout(&self) -> Duration {
        self.node_timeout
    }

    async fn shut_down(&self) {
        self.jobs.stop().await;
        self.writer.stop().await;
        self.query_pool.close();
        self.pool.close();
    }
}

/// Reads one snapshot. The server enforces the timeout too.
///
/// Runs in a task of its own: a transaction whose future is dropped while it begins would stay
/// open in the pool.
async fn snapshot<T: Send + 'static>(
    link: &Link,
    pool: &Pool,
    limit: Option<Duration>,
    work: impl Read<T>,
) -> Result<T> {
    let (begin, pool) = (link.begin_reading(), pool.clone());
    uninterrupted(async move {
        let mut conn = pool.get().await?;
        let asked_at = Instant::now();
        let read = connect::limited(async {
            let mut snapshot = connect::begun(&mut conn, begin).await?;
            if let Some(limit) = limit {
                sqlx::query("select set_config('statement_timeout', $1, true)")
                    .bind(format!("{}ms", limit.as_millis().max(1)))
                    .execute(&mut *snapshot)
                    .await?;
            }
            let read = work(&mut snapshot).await;
            snapshot.rollback().await?;
            Ok::<_, StoreError>(read)
        });
        let read = match limit {
            Some(limit) => {
                timeout(limit + GRACE, read).await.unwrap_or(Err(StoreError::TooLong(limit)))
            }
            None => read.await,
        };
        match (read, limit) {
            (Ok(Err(StoreError::Unavailable(_))), Some(limit)) if asked_at.elapsed() >= limit => {
                Err(StoreError::TooLong(limit))
            }
            (Ok(Err(error @ StoreError::ConnectionLost(_))) | Err(error), _) => {
                pool::discard(conn, &error);
                Err(error)
            }
            (Ok(read), _) => read,
        }
    })
    .await
}

/// Runs a read in a task of its own: a connection whose call was dropped would return to the pool
/// with the answer still to come.
async fn uninterrupted<T: Send + 'static>(
    reading: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(reading).await.unwrap_or_else(|error| {
        Err(StoreError::Unavailable(format!("a read did not complete: {error}")))
    })
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
