//! Hints between nodes by LISTEN and NOTIFY. A node that has appended notifies the others, at most
//! 20 times a second and outside of transactions that write: a notification holds a lock of the
//! whole server while its transaction commits. A node that is notified reads the heads of the logs
//! that it has subscribers for. It also reads them on a timer, so a lost notification delays events
//! by a second at most.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};

use super::connect::{Link, limited};
use super::listener::Listener;
use super::pool::{self, Pool};
use super::servers::Servers;
use super::snapshot;
use super::statements::query;
use crate::event::{GatewayKey, NodeId, Sequence};
use crate::jobs::{Job, Next, Supervisor};
use crate::store::{Result, StoreError};
use crate::wake::Wake;

const CHANNEL: &str = "gateway_events";
/// How often the jobs run when they are idle.
const INTERVAL: Duration = Duration::from_secs(5);
/// The least time between two notifications of a node.
const NOTIFY_EVERY: Duration = Duration::from_millis(50);

/// The two jobs of a node: one notifies, the other listens.
#[derive(Clone)]
pub(super) struct Notifications {
    pub(super) node: NodeId,
    pub(super) wake: Wake,
    pub(super) pool: Pool,
    pub(super) link: Link,
    /// Whether this node notifies others.
    pub(super) notifies: bool,
    /// Where to listen; `None` polls.
    pub(super) listener: Option<Arc<Servers>>,
}

impl Notifications {
    /// Starts both jobs.
    pub(super) fn start(self, jobs: &Supervisor) {
        if self.notifies {
            jobs.start_housekeeping("notifier", INTERVAL, NotifyJob(self.clone()));
        }
        let listen = ListenJob {
            own: self.node.to_string(),
            listener: Listener::new(CHANNEL, self.listener.clone()),
            notifications: self,
        };
        jobs.start("listener", INTERVAL, listen);
    }

    async fn notify(&self) -> Result<()> {
        let mut conn = self.pool.get().await?;
        // Not prepared, because a pooler may be in between.
        let notify = sqlx::raw_sql(AssertSqlSafe(format!("notify {CHANNEL}, '{}'", self.node)));
        let notified = limited(notify.execute(&mut **conn)).await;
        if let Err(error) = &notified {
            pool::discard(conn, error);
        }
        notified.map(drop)
    }

    /// Reads the heads of the logs that have subscribers here, and wakes these.
    async fn poll(&self) -> Result<()> {
        let keys: Vec<i64> = self.wake.subscribed().into_iter().map(|key| key.0).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let heads = snapshot(&self.link, &self.pool, None, move |conn| {
            Box::pin(async move { Self::heads(conn, &keys).await })
        });
        for (gateway, head) in heads.await? {
            self.wake.reached(gateway, head);
        }
        Ok(())
    }

    async fn heads(conn: &mut PgConnection, keys: &[i64]) -> Result<Vec<(GatewayKey, Sequence)>> {
        let heads = query!(
            r#"
            select gateway as "gateway!: GatewayKey", head as "head!: Sequence"
            from streams where gateway = any($1)
            "#,
            keys
        );
        let heads = heads.fetch_all(conn).await?;
        Ok(heads.into_iter().map(|row| (row.gateway, row.head)).collect())
    }
}

/// Notifies other nodes of what this one has appended.
struct NotifyJob(Notifications);

impl Job for NotifyJob {
    type Error = StoreError;

    async fn wait(&mut self) {
        self.0.wake.grown().await;
    }

    async fn run_once(&mut self) -> Result<Next> {
        if let Err(error) = self.0.notify().await {
            // The others notice when they poll.
            tracing::debug!(%error, "failed to notify other nodes");
        }
        tokio::time::sleep(NOTIFY_EVERY).await;
        Ok(Next::Wait)
    }
}

/// Notices what other nodes have appended.
struct ListenJob {
    own: String,
    listener: Listener,
    notifications: Notifications,
}

impl Job for ListenJob {
    type Error = StoreError;

    async fn wait(&mut self) {
        self.listener.wait(|from| from != self.own).await;
    }

    async fn run_once(&mut self) -> Result<Next> {
        self.notifications.wake.written();
        self.notifications.poll().await?;
        Ok(Next::Wait)
    }
}
