//! Another program that publishes through the database file, over its own connection with the
//! settings that the documentation requires.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};

use crate::conformance::{InboxProgram, Row};
use crate::support::TEST_TIMEOUT;

pub(crate) struct Program(Mutex<SqliteConnection>);

impl Program {
    pub(crate) async fn start(database: &Path) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(database)
            .create_if_missing(false)
            .busy_timeout(Duration::from_secs(30));
        Self(Mutex::new(options.connect().await.expect("the file opens")))
    }

    /// The connection itself, for what only one test does.
    pub(crate) async fn connection(&self) -> MutexGuard<'_, SqliteConnection> {
        self.0.lock().await
    }

    /// Waits until a gateway's log has reached `enough`; returns its head.
    pub(crate) async fn wait_for_head(&self, gateway: &str, enough: i64) -> i64 {
        let head = "select head from streams join gateways using (gateway) where id = $1";
        self.wait_for(head, gateway, |head| head >= enough).await
    }

    /// Waits until there are fewer rows than this in the inbox.
    pub(crate) async fn wait_for_room(&self, most: i64) {
        self.wait_for("select count(*) from inbox where $1 = ''", "", |rows| rows < most).await;
    }

    async fn wait_for(
        &self,
        number: &'static str,
        about: &str,
        satisfies: impl Fn(i64) -> bool,
    ) -> i64 {
        let mut polls = tokio::time::interval(Duration::from_millis(2));
        let waiting = async {
            loop {
                polls.tick().await;
                let query = sqlx::query_scalar(number).bind(about);
                let found = query.fetch_one(&mut *self.connection().await).await;
                let found: i64 = found.expect("readable");
                if satisfies(found) {
                    return found;
                }
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, waiting).await.expect("it comes to that")
    }

    /// The event ids of a gateway's log, in order.
    pub(crate) async fn log(&self, gateway: &str) -> Vec<String> {
        sqlx::query_scalar(
            "select e.id from outbox o join gateways g using (gateway) join events e using (event)
             where g.id = $1 order by o.sequence",
        )
        .bind(gateway)
        .fetch_all(&mut *self.connection().await)
        .await
        .expect("readable")
    }
}

#[async_trait]
impl InboxProgram for Program {
    async fn insert(&self, rows: &[Row]) -> Vec<String> {
        let mut connection = self.connection().await;
        let mut transaction = connection.begin_with("begin immediate").await.expect("its turn");
        let mut ids = Vec::new();
        for row in rows {
            ids.push(insert(&mut transaction, row).await);
        }
        transaction.commit().await.expect("committed");
        ids
    }
}

/// Inserts a row in a transaction; returns its event id.
pub(crate) async fn insert(connection: &mut SqliteConnection, row: &Row) -> String {
    let mut columns = vec!["type", "payload"];
    let mut values = vec![&row.event_type, &row.payload];
    for (column, value) in [
        ("organisation", &row.organisation),
        ("gateway_id", &row.gateway_id),
        ("target", &row.target),
        ("event_id", &row.event_id),
    ] {
        if let Some(value) = value {
            columns.push(column);
            values.push(value);
        }
    }
    let places: Vec<_> = (1..=columns.len()).map(|nth| format!("${nth}")).collect();
    let statement = format!(
        "insert into inbox ({}) values ({}) returning event_id",
        columns.join(", "),
        places.join(", ")
    );
    let mut query = sqlx::query_scalar(sqlx::AssertSqlSafe(statement));
    for value in values {
        query = query.bind(value);
    }
    query.fetch_one(connection).await.expect("inserted")
}

/// A valid row.
pub(crate) fn deployed(gateway: &str, deployment: &str) -> Row {
    let payload = json!({
        "apiId": "a-1", "deploymentId": deployment, "performedAt": "2026-01-31T09:30:00.001Z",
    });
    Row {
        event_type: "api.deployed".to_owned(),
        payload: payload.to_string(),
        gateway_id: Some(gateway.to_owned()),
        ..Row::default()
    }
}
