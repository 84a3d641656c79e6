//! Connections that are made as needed and kept for the next caller. One that was
//! kept is asked first whether its server still takes writes, so that nothing is
//! read from a standby.

use std::sync::Arc;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, PoolError, RecycleError, RecycleResult, TimeoutType};
use sqlx::PgConnection;
use tokio::time::timeout;

use super::connect::CONNECT;
use super::servers::{Access, CHECK, Servers, takes_writes};
use crate::store::{Result, StoreError};

/// A session is given back after this, with what the server keeps for it.
const LIFETIME: Duration = Duration::from_mins(30);

pub(super) type Pool = managed::Pool<Connector>;
/// Goes back to its pool when it is dropped.
pub(super) type Pooled = managed::Object<Connector>;

/// Makes a pool's connections and checks them.
#[derive(Debug)]
pub(super) struct Connector(Arc<Servers>);

impl managed::Manager for Connector {
    type Type = PgConnection;
    type Error = StoreError;

    async fn create(&self) -> Result<PgConnection> {
        Ok(self.0.connect(Access::Write).await?.0)
    }

    async fn recycle(
        &self,
        conn: &mut PgConnection,
        metrics: &Metrics,
    ) -> RecycleResult<StoreError> {
        if metrics.age() > LIFETIME || !self.0.trusts(metrics.created) {
            return Err(RecycleError::message("out of date"));
        }
        if matches!(timeout(CHECK, takes_writes(conn)).await, Ok(Ok(true))) {
            return Ok(());
        }
        self.0.distrust();
        Err(RecycleError::message("its server is gone or read-only"))
    }
}

/// A pool of at most so many connections.
pub(super) fn new(servers: &Arc<Servers>, connections: u32) -> Pool {
    let pool = managed::Pool::builder(Connector(Arc::clone(servers)))
        .max_size(usize::try_from(connections.max(1)).unwrap_or(usize::MAX))
        .wait_timeout(Some(CONNECT))
        .runtime(Runtime::Tokio1)
        .build();
    // Refused only without a runtime.
    pool.unwrap_or_else(|error| unreachable!("{error}"))
}

/// Closes a connection on which a call ended so. If the connection was lost, the
/// others that were made before are not used again either.
pub(super) fn discard(conn: Pooled, why: &StoreError) {
    if matches!(why, StoreError::ConnectionLost(_))
        && let Some(pool) = Pooled::pool(&conn)
    {
        pool.manager().0.distrust();
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
