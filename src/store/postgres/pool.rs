//! A pool of connections, opened as needed. Before a connection is reused, the pool checks that its
//! server still accepts writes, unless it did so a moment ago, so that nothing is read from a standby.
//! The connection used last is reused first: its statements are already planned, and what its session
//! needs is in the caches. So others may stay idle, and a job closes them.

use std::convert::Infallible;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{
    self, Metrics, PoolError, QueueMode, RecycleError, RecycleResult, TimeoutType,
};
use sqlx::PgConnection;
use tokio::time::timeout;

use super::servers::{Access, CHECK, CONNECT, Servers, takes_writes};
use crate::jobs::{Job, Next};
use crate::store::{Result, StoreError};

/// For how long a check is relied on. One page of a log is read soon after another.
const CHECKED_FOR: Duration = Duration::from_millis(20);
/// The maximum age of a connection. Closing it frees the memory of its session on the server.
const LIFETIME: Duration = Duration::from_mins(30);
/// After this time without use, a connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_mins(2);
/// How often the job looks for connections to close.
pub(super) const CLOSE_INTERVAL: Duration = Duration::from_secs(10);

/// A connection, and when its server was last checked.
#[derive(Debug)]
pub(super) struct Checked {
    conn: PgConnection,
    at: Instant,
}

pub(super) type Pool = managed::Pool<Connector>;
/// A connection that returns to its pool when it is dropped.
pub(super) type Pooled = managed::Object<Connector>;

/// Opens and checks a pool's connections.
#[derive(Debug)]
pub(super) struct Connector(Arc<Servers>);

/// Closes connections that are out of date, or were not needed for a while.
pub(super) struct CloseJob(pub(super) [Pool; 2]);

impl Connector {
    fn is_current(&self, metrics: &Metrics) -> bool {
        metrics.age() <= LIFETIME && self.0.is_valid(metrics.created)
    }
}

impl Job for CloseJob {
    type Error = Infallible;

    async fn run_once(&mut self) -> std::result::Result<Next, Infallible> {
        for pool in &self.0 {
            let connector = pool.manager();
            pool.retain(|_, metrics| {
                connector.is_current(&metrics) && metrics.last_used() < IDLE_TIMEOUT
            });
        }
        Ok(Next::Wait)
    }
}

impl managed::Manager for Connector {
    type Type = Checked;
    type Error = StoreError;

    async fn create(&self) -> Result<Checked> {
        Ok(Checked { conn: self.0.connect(Access::Write).await?.0, at: Instant::now() })
    }

    async fn recycle(
        &self,
        Checked { conn, at }: &mut Checked,
        metrics: &Metrics,
    ) -> RecycleResult<StoreError> {
        if !self.is_current(metrics) {
            return Err(RecycleError::message("out of date"));
        }
        if at.elapsed() < CHECKED_FOR {
            return Ok(());
        }
        if matches!(timeout(CHECK, takes_writes(conn)).await, Ok(Ok(true))) {
            *at = Instant::now();
            return Ok(());
        }
        self.0.invalidate_connections();
        Err(RecycleError::message("its server is unreachable or read-only"))
    }
}

impl Deref for Checked {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.conn
    }
}

impl DerefMut for Checked {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.conn
    }
}

/// Creates a pool of at most this many connections.
pub(super) fn new(servers: &Arc<Servers>, connections: u32) -> Pool {
    let pool = managed::Pool::builder(Connector(Arc::clone(servers)))
        .max_size(usize::try_from(connections.max(1)).unwrap_or(usize::MAX))
        .wait_timeout(Some(CONNECT))
        .queue_mode(QueueMode::Lifo)
        .runtime(Runtime::Tokio1)
        .build();
    // Fails only without a runtime.
    pool.unwrap_or_else(|error| unreachable!("{error}"))
}

/// Closes a connection on which a call failed. If the connection was lost, all older ones are not
/// reused either.
pub(super) fn discard(conn: Pooled, why: &StoreError) {
    if matches!(why, StoreError::ConnectionLost(_))
        && let Some(pool) = Pooled::pool(&conn)
    {
        pool.manager().0.invalidate_connections();
    }
    drop(Pooled::take(conn));
}

impl From<PoolError<StoreError>> for StoreError {
    fn from(error: PoolError<StoreError>) -> Self {
        match error {
            PoolError::Backend(error) => error,
            PoolError::Timeout(TimeoutType::Wait) => {
                Self::Unavailable("all connections to the database are in use".to_owned())
            }
            PoolError::Closed => Self::Unavailable("the database is closed".to_owned()),
            other => Self::Unavailable(other.to_string()),
        }
    }
}
