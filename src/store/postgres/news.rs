//! Hints between nodes. Who has appended says so, some twenty times a second at
//! the most and outside of any transaction that writes, for a notification holds
//! a lock of the whole server while its transaction commits. Who hears it asks
//! how far the logs are that somebody listens for here. A hint may be lost, or
//! never be sent: the same question is asked on a timer, so that it costs a
//! second and no event.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};

use super::connect::{Link, limited};
use super::dialect::query;
use super::hear::Ear;
use super::moment;
use super::pool::{self, Pool};
use super::servers::Servers;
use crate::event::{GatewayKey, NodeId, Sequence};
use crate::jobs::{Job, Next, Supervisor};
use crate::store::{Result, StoreError};
use crate::wake::Wake;

const CHANNEL: &str = "gateway_events";
/// Idle, both jobs show this often that they still run.
const INTERVAL: Duration = Duration::from_secs(5);
/// Between two announcements of a node at least.
const ANNOUNCED_EVERY: Duration = Duration::from_millis(50);

/// What a node's two jobs need.
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
    /// Starts both jobs.
    pub(super) fn start(self, jobs: &Supervisor) {
        if self.announces {
            jobs.start("notifier", INTERVAL, Announcer(self.clone()));
        }
        let listener = Listener {
            own: self.node.to_string(),
            ear: Ear::new(CHANNEL, self.listener.clone()),
            news: self,
        };
        jobs.start("listener", INTERVAL, listener);
    }

    async fn notify(&self) -> Result<()> {
        let mut connection = self.pool.get().await?;
        // Not prepared: it is no part of a transaction, and may lead to a pooler.
        let notify = sqlx::raw_sql(AssertSqlSafe(format!("notify {CHANNEL}, '{}'", self.node)));
        let told = limited(notify.execute(&mut *connection)).await;
        if let Err(error) = &told {
            pool::discard(connection, error);
        }
        told.map(drop)
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

/// Says what this node has appended.
struct Announcer(News);

impl Job for Announcer {
    type Error = StoreError;

    async fn wait(&mut self) {
        self.0.wake.grown().await;
    }

    async fn run_once(&mut self) -> Result<Next> {
        if let Err(error) = self.0.notify().await {
            // The others find out by polling, a little later.
            tracing::debug!(%error, "failed to notify other nodes");
        }
        tokio::time::sleep(ANNOUNCED_EVERY).await;
        Ok(Next::Wait)
    }
}

/// Learns what other nodes have appended.
struct Listener {
    own: String,
    ear: Ear,
    news: News,
}

impl Job for Listener {
    type Error = StoreError;

    async fn wait(&mut self) {
        self.ear.wait(|from| from != self.own).await;
    }

    async fn run_once(&mut self) -> Result<Next> {
        self.news.look().await?;
        Ok(Next::Wait)
    }
}
