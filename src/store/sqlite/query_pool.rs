//! The query pool: connections for the queries of admins, apart from those that gateways and
//! publishers need, with a timeout. A query that exceeds it, or whose caller stopped waiting, is
//! interrupted inside SQLite: dropping its future alone would leave its statement running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::{Connection as _, SqliteConnection, SqlitePool};

use crate::store::{Result, StoreError};

/// Instructions of SQLite's virtual machine between two checks of the timeout: about 50 µs.
const STEPS: i32 = 4_000;

/// Connections that run queries with a timeout.
#[derive(Debug)]
pub(super) struct QueryPool {
    connections: SqlitePool,
    timeout: Duration,
}

/// Interrupts the query when it is dropped.
struct InterruptOnDrop(Arc<AtomicBool>);

impl Drop for InterruptOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl QueryPool {
    pub(super) const fn new(connections: SqlitePool, timeout: Duration) -> Self {
        Self { connections, timeout }
    }

    /// Runs statements on one snapshot of the file.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>>,
    {
        let mut conn = self.connections.acquire().await?;
        let left = Arc::new(AtomicBool::new(false));
        let ended = Arc::new(AtomicBool::new(false));
        let until = Instant::now() + self.timeout;
        conn.lock_handle().await?.set_progress_handler(STEPS, {
            let (left, ended) = (Arc::clone(&left), Arc::clone(&ended));
            move || {
                let go_on = !left.load(Ordering::Relaxed) && Instant::now() < until;
                if !go_on {
                    ended.store(true, Ordering::Relaxed);
                }
                go_on
            }
        });
        let _interrupt = InterruptOnDrop(left);
        let result = snapshot(&mut conn, work).await;
        conn.lock_handle().await?.remove_progress_handler();
        match result {
            Err(_) if ended.load(Ordering::Relaxed) => Err(StoreError::TooLong(self.timeout)),
            result => result,
        }
    }

    pub(super) async fn close(&self) {
        self.connections.close().await;
    }
}

async fn snapshot<T, F>(conn: &mut SqliteConnection, work: F) -> Result<T>
where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>>,
{
    let mut snapshot = conn.begin().await?;
    let result = work(&mut snapshot).await;
    snapshot.rollback().await?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::sqlite::SqlitePoolOptions;

    const ENDLESS: &str =
        "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n";

    async fn pool(timeout: Duration) -> QueryPool {
        let options = SqlitePoolOptions::new().max_connections(1);
        QueryPool::new(options.connect("sqlite::memory:").await.unwrap(), timeout)
    }

    async fn run(pool: &QueryPool, text: &'static str) -> Result<()> {
        pool.run(|conn| {
            Box::pin(async move {
                sqlx::query(text).execute(conn).await?;
                Ok(())
            })
        })
        .await
    }

    #[tokio::test]
    async fn a_query_that_exceeds_the_timeout_is_interrupted_and_the_next_one_is_not() {
        let pool = pool(Duration::from_millis(50)).await;
        for _ in 0..2 {
            let ended = run(&pool, ENDLESS).await;
            assert!(matches!(ended, Err(StoreError::TooLong(_))), "{ended:?}");
            run(&pool, "select 1").await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_query_whose_caller_stops_waiting_is_interrupted() {
        let pool = pool(Duration::from_hours(1)).await;
        let patience = Duration::from_millis(50);
        assert!(tokio::time::timeout(patience, run(&pool, ENDLESS)).await.is_err());
        // The only connection is free again long before the timeout.
        run(&pool, "select 1").await.unwrap();
    }
}
