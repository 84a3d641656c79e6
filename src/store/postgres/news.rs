//! Hints between nodes. Who has appended says so, some twenty times a second at
//! the most and outside of any transaction that writes, for a notification holds
//! a lock of the whole server while its transaction commits. Who hears it asks
//! how far the logs are that somebody listens for here. A hint may be lost, or
//! never be sent: the same question is asked on a timer, so that it costs a
//! second and no event.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connect::{Link, limited};
use super::dialect::query;
use super::hear::Ear;
use super::moment;
use super::pool::{self, Pool};
use super::servers::Servers;
use crate::event::{GatewayKey, NodeId, Sequence};
use crate::store::Result;
use crate::wake::Wake;

const CHANNEL: &str = "gateway_events";
/// Between two announcements of a node at least.
const ANNOUNCED_EVERY: Duration = Duration::from_millis(50);

/// What a node's two tasks need.
#[derive(Clone)]
pub(super) struct News {
    pub(super) node: NodeId,
    pub(super) wake: Wake,
    pub(super) pool: Pool,
    pub(super) link: Link,
    /// Whether others are told.
    pub(super) announces: bool,
    /// How others are heard.
    pub(super) listener: Option<Arc<Servers>>,
}

impl News {
    /// Starts both tasks.
    pub(super) fn start(self, tasks: &TaskTracker, stop: &CancellationToken) {
        if self.announces {
            let (announcer, stop) = (self.clone(), stop.clone());
            tasks.spawn(async move {
                stop.run_until_cancelled(announcer.announce()).await;
            });
        }
        let stop = stop.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(Box::pin(self.listen())).await;
        });
    }

    async fn announce(&self) {
        // Not prepared: it is no part of a transaction, and may lead to a pooler.
        let notify = format!("notify {CHANNEL}, '{}'", self.node);
        loop {
            self.wake.grown().await;
            if let Err(error) = self.notify(&notify).await {
                tracing::debug!(%error, "other nodes were not told; they look for themselves");
            }
            tokio::time::sleep(ANNOUNCED_EVERY).await;
        }
    }

    async fn notify(&self, notify: &str) -> Result<()> {
        let mut connection = self.pool.get().await?;
        let notify = sqlx::raw_sql(AssertSqlSafe(notify.to_owned()));
        let told = limited(notify.execute(&mut *connection)).await;
        if let Err(error) = &told {
            pool::discard(connection, error);
        }
        told.map(drop)
    }

    async fn listen(&self) {
        let own = self.node.to_string();
        let mut ear = Ear::new(CHANNEL, self.listener.clone());
        loop {
            ear.wait(|from| from != own).await;
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "the logs' heads could not be read");
            }
        }
    }

    /// Tells those who listen here how far their logs are.
    async fn look(&self) -> Result<()> {
        let keys: Vec<i64> = self.wake.listened().into_iter().map(|key| key.0).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let heads = moment(&self.link, &self.pool, None, move |connection| {
            Box::pin(async move { Self::heads(connection, &keys).await })
        });
        for (gateway, head) in heads.await? {
            self.wake.reached(gateway, head);
        }
        Ok(())
    }

    async fn heads(
        connection: &mut PgConnection,
        keys: &[i64],
    ) -> Result<Vec<(GatewayKey, Sequence)>> {
        let heads = query!(
            r#"
            select gateway as "gateway!: GatewayKey", head as "head!: Sequence"
            from streams where gateway = any($1)
            "#,
            keys
        );
        let heads = heads.fetch_all(connection).await?;
        Ok(heads.into_iter().map(|row| (row.gateway, row.head)).collect())
    }
}
