//! Another program that publishes through Postgres, over its own connection and in its own
//! transactions.

use async_trait::async_trait;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use tokio::sync::{Mutex, MutexGuard};

use crate::conformance::{InboxProgram, Row};
use crate::server::Database;

pub(crate) struct Program(Mutex<PgConnection>);

impl Program {
    pub(crate) async fn start(database: &Database) -> Self {
        let options: PgConnectOptions = database.url().parse().expect("a URL");
        Self(Mutex::new(options.connect().await.expect("the server answers")))
    }

    /// The connection itself, for what only one test does.
    pub(crate) async fn connection(&self) -> MutexGuard<'_, PgConnection> {
        self.0.lock().await
    }
}

#[async_trait]
impl InboxProgram for Program {
    async fn insert(&self, rows: &[Row]) -> Vec<String> {
        let mut connection = self.connection().await;
        let mut transaction = connection.begin().await.expect("a transaction");
        let mut ids = Vec::new();
        for row in rows {
            ids.push(insert(&mut transaction, row).await);
        }
        transaction.commit().await.expect("committed");
        ids
    }
}

/// Inserts a row in a transaction; returns its event id.
pub(crate) async fn insert(connection: &mut PgConnection, row: &Row) -> String {
    sqlx::query_scalar(
        "select publish_event($1, $2, gateway_id => $3::uuid, target => $4, organisation => $5, event_id => $6)",
    )
    .bind(&row.event_type)
    .bind(&row.payload)
    .bind(&row.gateway_id)
    .bind(&row.target)
    .bind(&row.organisation)
    .bind(&row.event_id)
    .fetch_one(connection)
    .await
    .expect("inserted")
}
