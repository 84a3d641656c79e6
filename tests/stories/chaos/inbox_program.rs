//! An inbox program, which publishes in its own transactions.

use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::time::Interval;

use super::{Cluster, connect};
use crate::support::deployed;

/// An event's id and its gateways.
pub(super) type Row = (String, Vec<String>);

/// An inbox program, whose connection may be lost at any time.
pub(super) struct InboxProgram {
    url: String,
    connection: Option<PgConnection>,
}

impl InboxProgram {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self { url: cluster.database().url(), connection: None }
    }

    /// Another instance of the program, with its own connection.
    pub(super) fn another(&self) -> Self {
        Self { url: self.url.clone(), connection: None }
    }

    /// Inserts and commits, after holding the transaction open for this many ticks of `pace`. A commit that
    /// failed may have succeeded, so it is retried with the same ids.
    pub(super) async fn commit(&mut self, rows: &[Row], held_ticks: u32, pace: &mut Interval) {
        while self.try_commit(rows, held_ticks, pace).await.is_err() {
            self.connection = None;
            pace.tick().await;
        }
    }

    async fn try_commit(
        &mut self,
        rows: &[Row],
        held_ticks: u32,
        pace: &mut Interval,
    ) -> sqlx::Result<()> {
        let mut transaction = self.connection().await?.begin().await?;
        insert(&mut transaction, rows).await?;
        for _ in 0..held_ticks {
            pace.tick().await;
        }
        transaction.commit().await
    }

    /// Inserts and rolls back. Losing the connection has the same effect.
    pub(super) async fn roll_back(&mut self, rows: &[Row]) {
        let rolled_back = async {
            let mut transaction = self.connection().await?.begin().await?;
            insert(&mut transaction, rows).await?;
            transaction.rollback().await
        };
        if rolled_back.await.is_err() {
            self.connection = None;
        }
    }

    async fn connection(&mut self) -> sqlx::Result<&mut PgConnection> {
        if self.connection.is_none() {
            self.connection = Some(connect(&self.url).await?);
        }
        Ok(self.connection.as_mut().expect("just connected"))
    }
}

pub(super) async fn insert(connection: &mut PgConnection, rows: &[Row]) -> sqlx::Result<()> {
    for (id, gateways) in rows {
        let payload = &deployed(&[], id)["payload"];
        sqlx::query("insert into inbox (type, payload, target, event_id) values ($1, $2, $3, $4)")
            .bind("api.deployed")
            .bind(payload.to_string())
            .bind(json!({"gatewayIds": gateways}).to_string())
            .bind(id)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
