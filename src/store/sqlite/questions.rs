//! The connections that answer people's questions, apart from those that
//! gateways and publishers need, and the bound on how long an answer may take.
//! A question that takes longer, or that nobody waits for any more, is ended
//! inside SQLite: giving up on its future alone would leave its statement running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::{Connection as _, SqliteConnection, SqlitePool};

use crate::store::{Result, StoreError};

/// Steps of SQLite's machine between two looks at the clock: some 50 µs.
const STEPS: i32 = 4_000;

/// Who asks waits here.
#[derive(Debug)]
pub(super) struct Questions {
    connections: SqlitePool,
    deadline: Duration,
}

/// Set when nobody waits for the answer any more.
struct Leaving(Arc<AtomicBool>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Questions {
    pub(super) const fn new(connections: SqlitePool, deadline: Duration) -> Self {
        Self { connections, deadline }
    }

    /// Answers a question from one moment of the file.
    pub(super) async fn ask<T, F>(&self, work: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>>,
    {
        let mut connection = self.connections.acquire().await?;
        let left = Arc::new(AtomicBool::new(false));
        let ended = Arc::new(AtomicBool::new(false));
        let until = Instant::now() + self.deadline;
        connection.lock_handle().await?.set_progress_handler(STEPS, {
            let (left, ended) = (Arc::clone(&left), Arc::clone(&ended));
            move || {
                let go_on = !left.load(Ordering::Relaxed) && Instant::now() < until;
                if !go_on {
                    ended.store(true, Ordering::Relaxed);
                }
                go_on
            }
        });
        let _leaving = Leaving(left);
        let answer = moment(&mut connection, work).await;
        connection.lock_handle().await?.remove_progress_handler();
        match answer {
            Err(_) if ended.load(Ordering::Relaxed) => Err(StoreError::TooLong(self.deadline)),
            answer => answer,
        }
    }

    pub(super) async fn close(&self) {
        self.connections.close().await;
    }
}

async fn moment<T, F>(connection: &mut SqliteConnection, work: F) -> Result<T>
where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>>,
{
    let mut moment = connection.begin().await?;
    let answer = work(&mut moment).await;
    moment.rollback().await?;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::sqlite::SqlitePoolOptions;

    const ENDLESS: &str =
        "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n";

    async fn questions(deadline: Duration) -> Questions {
        let options = SqlitePoolOptions::new().max_connections(1);
        Questions::new(options.connect("sqlite::memory:").await.unwrap(), deadline)
    }

    async fn ask(questions: &Questions, text: &'static str) -> Result<()> {
        questions
            .ask(|connection| {
                Box::pin(async move {
                    sqlx::query(text).execute(connection).await?;
                    Ok(())
                })
            })
            .await
    }

    #[tokio::test]
    async fn an_answer_that_takes_too_long_is_ended_and_the_next_one_is_not() {
        let questions = questions(Duration::from_millis(50)).await;
        for _ in 0..2 {
            let ended = ask(&questions, ENDLESS).await;
            assert!(matches!(ended, Err(StoreError::TooLong(_))), "{ended:?}");
            ask(&questions, "select 1").await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_answer_that_nobody_waits_for_is_ended() {
        let questions = questions(Duration::from_hours(1)).await;
        let patience = Duration::from_millis(50);
        assert!(tokio::time::timeout(patience, ask(&questions, ENDLESS)).await.is_err());
        // The only connection is free again although the deadline is far away.
        ask(&questions, "select 1").await.unwrap();
    }
}
