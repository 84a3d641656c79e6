//! The connection that appends and records, and the transactions beside it. If a commit fails, its
//! callers learn that the outcome is unknown, and the next transaction uses another connection.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::connect::{Link, begun, limited};
use super::pool::{self, Pool};
use super::sql::writer::batch::Attempt;
use super::sql::writer::batch::{self, Batch};
use super::sql::writer::command::Job;
use super::sql::writer::session::{Failure, Fatal, WriterSession};
use crate::backoff::Backoff;
use crate::clock::millis;
use crate::event::NodeId;
use crate::store::{Result, StoreError};

const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Short, so that a promoted standby is found soon.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The writer's connection to the database.
pub(crate) struct Session {
    link: Link,
    conn: Option<PgConnection>,
    pool: Pool,
    jobs: TaskTracker,
    runtime: Handle,
    backoff: Backoff,
    away_until: Option<Instant>,
}

impl Session {
    /// Must be called on the runtime that the pool's connections belong to. The writer's own
    /// connection is opened when it is needed, on the writer's runtime.
    pub(super) fn new(link: Link, pool: Pool) -> Self {
        let (jobs, runtime) = (TaskTracker::new(), Handle::current());
        let backoff = Backoff::new(MIN_PAUSE, MAX_PAUSE);
        Self { link, conn: None, pool, jobs, runtime, backoff, away_until: None }
    }

    /// Whether connecting failed a moment ago, so that the next command need not try.
    fn is_away(&self) -> bool {
        self.away_until.is_some_and(|until| Instant::now() < until)
    }

    async fn attempt_once(&mut self, node: NodeId, batch: &Batch) -> Result<Attempt, Failure> {
        // Taken, and put back if all goes well: dropping a connection closes it, and the server
        // rolls back its transaction.
        let mut conn = self.connected().await.map_err(Failure::Refused)?;
        let begun = begun(&mut conn, self.link.begin_batch()).await;
        let mut transaction = begun.map_err(Failure::Undone)?;
        let done = match limited(batch::statements(&mut transaction, node, batch)).await {
            Ok(done) => done,
            Err(error) => {
                let is_lost = matches!(error, StoreError::ConnectionLost(_));
                if !is_lost && limited(transaction.rollback()).await.is_ok() {
                    self.conn = Some(conn);
                }
                return Err(Failure::of(error));
            }
        };
        if let Err(error) = limited(transaction.commit()).await {
            return Err(Failure::Unknown(error.to_string()));
        }
        self.conn = Some(conn);
        Ok(done)
    }

    async fn connected(&mut self) -> Result<PgConnection> {
        if let Some(conn) = self.conn.take() {
            return Ok(conn);
        }
        if self.is_away() {
            return Err(StoreError::Unavailable("the database could not be reached".to_owned()));
        }
        match self.link.connect().await {
            Ok(conn) => {
                if self.away_until.take().is_some() {
                    tracing::info!("the database is available again");
                }
                self.backoff.reset();
                Ok(conn)
            }
            Err(error) => {
                // Random, so that nodes do not reconnect at the same time.
                let pause = MIN_PAUSE.max(self.backoff.next_full_jitter());
                self.away_until = Some(Instant::now() + pause);
                tracing::warn!(%error, retry_in_ms = millis(pause), "the database is unavailable");
                Err(error)
            }
        }
    }
}

impl WriterSession for Session {
    const FAILED_COMMIT_IS_FATAL: bool = false;
    const NEEDS_OWN_THREAD: bool = true;

    /// The server's disk is monitored at the server.
    fn storage_is_full(&self) -> bool {
        false
    }

    /// Tries once more on another connection if this one is lost before the commit.
    async fn attempt(&mut self, node: NodeId, batch: &Batch) -> Result<Attempt, Failure> {
        match self.attempt_once(node, batch).await {
            Err(Failure::Undone(StoreError::ConnectionLost(why))) => {
                tracing::info!(why, "the writer's connection is lost; trying another one");
                self.link.servers.invalidate_connections();
                self.attempt_once(node, batch).await
            }
            attempted => attempted,
        }
    }

    /// Runs beside the writer's transactions, on a connection of the pool.
    async fn run_job(&mut self, job: Job) -> Result<(), Fatal> {
        self.jobs.spawn_on(run(self.link.clone(), self.pool.clone(), job), &self.runtime);
        Ok(())
    }

    async fn maintain(&mut self) {}

    async fn close(self) {
        self.jobs.close();
        self.jobs.wait().await;
        if let Some(conn) = self.conn
            && let Err(error) = limited(conn.close()).await
        {
            tracing::warn!(%error, "failed to close the writer's connection");
        }
    }
}

/// Runs a job. In a task of its own: a transaction whose future is dropped while it begins would
/// stay open in the pool.
async fn run(link: Link, pool: Pool, job: Job) {
    match pool.get().await {
        Ok(mut conn) => {
            if let Err(error) = transact(&link, &mut conn, job).await {
                pool::discard(conn, &error);
            }
        }
        Err(error) => (job(Err(error.into())).await.finish)(Ok(())),
    }
}

/// Runs a job as a transaction. After an error the connection must not be used any more.
async fn transact(link: &Link, conn: &mut PgConnection, job: Job) -> Result<()> {
    let mut transaction = match begun(conn, link.begin()).await {
        Ok(transaction) => transaction,
        Err(error) => {
            (job(Err(error.clone())).await.finish)(Ok(()));
            return Err(error);
        }
    };
    // If this times out, the job is dropped, and with it the channel to its caller.
    let outcome = limited(async { Ok::<_, StoreError>(job(Ok(&mut *transaction)).await) }).await?;
    if let Some(why) = outcome.undo {
        let undone = limited(transaction.rollback()).await;
        (outcome.finish)(Ok(()));
        return if matches!(why, StoreError::ConnectionLost(_)) { Err(why) } else { undone };
    }
    match limited(transaction.commit()).await {
        Ok(()) => {
            (outcome.finish)(Ok(()));
            Ok(())
        }
        Err(error) => {
            (outcome.finish)(Err(StoreError::Unknown(error.to_string())));
            Err(error)
        }
    }
}
