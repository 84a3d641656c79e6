//! Hints between nodes. Who has appended says so, some twenty times a second at
//! the most and outside of any transaction that writes, for a notification holds
//! a lock of the whole server while its transaction commits. Who hears it asks
//! how far the logs are that somebody listens for here. A hint may be lost: the
//! same question is asked on a timer, so that it costs a second and no event.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgListener};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connect::{self, limited};
use super::dialect::query;
use crate::event::{GatewayKey, NodeId, Sequence};
use crate::store::Result;
use crate::wake::Wake;

const CHANNEL: &str = "gateway_events";
/// Between two announcements of a node at least.
const ANNOUNCED_EVERY: Duration = Duration::from_millis(50);
/// Between two looks at the latest; and while nothing can be heard.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY_WHEN_DEAF: Duration = Duration::from_millis(100);
/// A connection on which nothing comes is asked whether it still lives: nobody
/// else would notice that the other end is gone.
const STILL_THERE: Duration = Duration::from_secs(2);
const QUIET_LOOKS: u32 = 5;

/// What a node's two tasks need.
#[derive(Clone)]
pub(super) struct News {
    pub(super) node: NodeId,
    pub(super) wake: Wake,
    pub(super) pool: PgPool,
    pub(super) settings: PgConnectOptions,
}

impl News {
    /// Starts both tasks.
    pub(super) fn start(self, tasks: &TaskTracker, stop: &CancellationToken) {
        let (announcer, stop_announcing) = (self.clone(), stop.clone());
        tasks.spawn(async move {
            stop_announcing.run_until_cancelled(announcer.announce()).await;
        });
        let stop = stop.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(Box::pin(self.listen())).await;
        });
    }

    async fn announce(&self) {
        let node = self.node.to_string();
        loop {
            self.wake.grown().await;
            let told = sqlx::query("select pg_notify($1, $2)").bind(CHANNEL).bind(&node);
            if let Err(error) = limited(told.execute(&self.pool)).await {
                tracing::debug!(%error, "other nodes were not told; they look for themselves");
            }
            tokio::time::sleep(ANNOUNCED_EVERY).await;
        }
    }

    async fn listen(&self) {
        // A listener keeps its connection, so that it has a pool of its own.
        let pool = connect::pool(&self.settings, 1);
        let mut listener = None;
        let mut quiet = 0;
        loop {
            if listener.is_none() {
                listener = subscribe(&pool, CHANNEL).await;
            }
            // After listening: what was appended before is found, and what is
            // appended later is heard.
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "the logs' heads could not be read");
            }
            let Some(ear) = &mut listener else {
                tokio::time::sleep(LOOK_EVERY_WHEN_DEAF).await;
                continue;
            };
            match timeout(LOOK_EVERY, self.heard(ear)).await {
                Ok(true) => quiet = 0,
                Ok(false) => listener = None,
                Err(_) => {
                    quiet += 1;
                    if quiet % QUIET_LOOKS == 0 && !is_there(ear).await {
                        listener = None;
                    }
                }
            }
        }
    }

    /// Waits for another node's announcement; false if the connection is gone.
    async fn heard(&self, ear: &mut PgListener) -> bool {
        let own = self.node.to_string();
        loop {
            match ear.try_recv().await {
                Ok(Some(notification)) if notification.payload() == own => {}
                Ok(Some(_)) => {
                    // One look answers for all that have come.
                    while ear.next_buffered().is_some() {}
                    return true;
                }
                Ok(None) | Err(_) => return false,
            }
        }
    }

    /// Tells those who listen here how far their logs are.
    async fn look(&self) -> Result<()> {
        let keys: Vec<i64> = self.wake.listened().into_iter().map(|key| key.0).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let heads = query!(
            r#"
            select gateway as "gateway!: GatewayKey", head as "head!: Sequence"
            from streams where gateway = any($1)
            "#,
            &keys
        );
        for row in limited(heads.fetch_all(&self.pool)).await? {
            self.wake.reached(row.gateway, row.head);
        }
        Ok(())
    }
}

/// Listens to a channel, if the server can be reached.
pub(super) async fn subscribe(pool: &PgPool, channel: &str) -> Option<PgListener> {
    let subscribing = async {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(channel).await?;
        Ok::<_, sqlx::Error>(listener)
    };
    match limited(subscribing).await {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::debug!(%error, channel, "nothing can be heard; it is looked for instead");
            None
        }
    }
}

/// Whether the connection still lives.
pub(super) async fn is_there(ear: &mut PgListener) -> bool {
    let asked = sqlx::query("select 1").execute(&mut *ear);
    timeout(STILL_THERE, asked).await.is_ok_and(|answered| answered.is_ok())
}
