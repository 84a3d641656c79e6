//! The connection that appends and records, made anew when it is lost, and the
//! transactions beside it. A commit that fails has an unknown outcome for its
//! callers and for nobody else: the next one goes over another connection.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::connect::{Link, begun, limited};
use super::pool::{self, Pool};
use super::sql::batch::{self, Attempted, Batch, Failure};
use super::sql::writer::Job;
use crate::clock::millis;
use crate::event::NodeId;
use crate::store::{Result, StoreError};

const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// Short, because a server that takes over is to be found soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The writer's hold on the database.
pub(super) struct Session {
    link: Link,
    connection: Option<PgConnection>,
    pool: Pool,
    jobs: TaskTracker,
    here: Handle,
    pause: Duration,
    away_until: Option<Instant>,
}

impl Session {
    pub(super) const A_FAILED_COMMIT_IS_THE_END: bool = false;
    /// The writer waits for one answer after the other, and none of them is to wait
    /// behind all the requests that the service's threads have at hand as well.
    pub(super) const WANTS_A_THREAD: bool = true;

    /// Called where the pool's connections are at home. The writer's own one is
    /// made when it is needed, and where.
    pub(super) fn new(link: Link, pool: Pool) -> Self {
        let (jobs, pause, here) = (TaskTracker::new(), SHORTEST_PAUSE, Handle::current());
        Self { link, connection: None, pool, jobs, here, pause, away_until: None }
    }

    /// The server's disk is the server's to watch.
    #[expect(clippy::unused_self, reason = "a file's disk is ours to watch")]
    pub(super) const fn storage_is_full(&self) -> bool {
        false
    }

    /// Whether connecting failed a moment ago, so that there is no use in
    /// trying the next command.
    fn is_away(&self) -> bool {
        self.away_until.is_some_and(|until| Instant::now() < until)
    }

    /// There is nothing that needs looking after.
    #[expect(clippy::unused_async, reason = "a file's disk is ours to watch")]
    pub(super) async fn upkeep(&mut self) {}

    /// Runs a batch as one transaction.
    pub(super) async fn attempt(
        &mut self,
        node: NodeId,
        batch: &Batch,
    ) -> Result<Attempted, Failure> {
        // Once more over another connection if this one is lost: nothing was
        // committed on it.
        match self.attempt_once(node, batch).await {
            Err(Failure::Undone(StoreError::ConnectionLost(why))) => {
                tracing::info!(why, "the writer's connection is lost; trying another one");
                self.link.servers.distrust();
                self.attempt_once(node, batch).await
            }
            attempted => attempted,
        }
    }

    async fn attempt_once(&mut self, node: NodeId, batch: &Batch) -> Result<Attempted, Failure> {
        // Taken, and put back when all went well: a connection that is dropped
        // on the way is closed, and the server undoes what it had begun.
        let mut connection = self.connected().await.map_err(Failure::Refused)?;
        let begun = begun(&mut connection, self.link.begin()).await;
        let mut transaction = begun.map_err(Failure::Undone)?;
        let done = match limited(batch::statements(&mut transaction, node, batch)).await {
            Ok(done) => done,
            Err(error) => {
                let is_lost = matches!(error, StoreError::ConnectionLost(_));
                if !is_lost && limited(transaction.rollback()).await.is_ok() {
                    self.connection = Some(connection);
                }
                return Err(Failure::of(error));
            }
        };
        if let Err(error) = limited(transaction.commit()).await {
            return Err(Failure::Unknown(error.to_string()));
        }
        self.connection = Some(connection);
        Ok(done)
    }

    /// Runs a job as a transaction of its own, beside those of the writer.
    #[expect(clippy::unused_async, reason = "a file's only connection has to be waited for")]
    pub(super) async fn alone(&mut self, job: Job) -> Result<(), String> {
        self.jobs.spawn_on(run(self.link.clone(), self.pool.clone(), job), &self.here);
        Ok(())
    }

    /// Waits for the transactions beside it.
    pub(super) async fn close(self) {
        self.jobs.close();
        self.jobs.wait().await;
        if let Some(connection) = self.connection
            && let Err(error) = limited(connection.close()).await
        {
            tracing::warn!(%error, "the database's writer did not close in good order");
        }
    }

    async fn connected(&mut self) -> Result<PgConnection> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        if self.is_away() {
            return Err(StoreError::Unavailable("it could not be reached".to_owned()));
        }
        match self.link.connect().await {
            Ok(connection) => {
                if self.away_until.take().is_some() {
                    tracing::info!("the database is back");
                }
                self.pause = SHORTEST_PAUSE;
                Ok(connection)
            }
            Err(error) => {
                // At random, so that the nodes don't all knock at once.
                let pause = SHORTEST_PAUSE.max(self.pause.mul_f64(fastrand::f64()));
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                self.away_until = Some(Instant::now() + pause);
                tracing::warn!(%error, retry_in_ms = millis(pause), "the database is away");
                Err(error)
            }
        }
    }
}

/// In a task of its own, because a transaction whose future is dropped while it
/// begins would be left open in the pool.
async fn run(link: Link, pool: Pool, job: Job) {
    match pool.get().await {
        Ok(mut connection) => {
            if let Err(error) = transact(&link, &mut connection, job).await {
                pool::discard(connection, &error);
            }
        }
        Err(error) => (job(Err(error.into())).await.finish)(Ok(())),
    }
}

/// An error says that the connection can't be used any more.
async fn transact(link: &Link, connection: &mut PgConnection, job: Job) -> Result<()> {
    let mut transaction = match begun(connection, link.begin()).await {
        Ok(transaction) => transaction,
        Err(error) => {
            (job(Err(error.clone())).await.finish)(Ok(()));
            return Err(error);
        }
    };
    // A job that is broken off here has nobody left to answer; its caller hears that.
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
