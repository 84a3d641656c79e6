//! The baseline driver on a SQLite file. The statements are not checked at compile
//! time; every test of a measurement executes them.

use std::path::Path;

use gateway_events::clock::Timestamp;
use gateway_events::store::sqlite;
use sqlx::{Connection as _, SqliteConnection};

use super::Rows;

mod ledger;

/// A row of a log.
type Row = (i64, String, String, String, String, Timestamp);

/// A connection with the same settings as the service's.
pub(super) struct Sqlite(SqliteConnection);

impl Sqlite {
    /// Creates and migrates the file, and inserts gateways.
    pub(super) async fn create(path: &Path, gateways: u32) -> anyhow::Result<Self> {
        sqlite::migrate(path).await?;
        let mut conn = sqlite::connect(path).await?;
        sqlx::query(
            "insert into gateways (gateway, id, organisation, name, created_at)
            with recursive numbered (n) as (
                select 1 union all select n + 1 from numbered where n < $1)
            select n, format('00000000-0000-4000-8000-%012d', n), 1, 'gateway-' || n, 0
            from numbered",
        )
        .bind(gateways)
        .execute(&mut conn)
        .await?;
        sqlx::query("insert into streams (gateway, epoch) select gateway, id from gateways")
            .execute(&mut conn)
            .await?;
        Ok(Self(conn))
    }

    /// Appends the rows in one transaction.
    pub(super) async fn append(&mut self, rows: &Rows, payload: &str) -> anyhow::Result<()> {
        let events: Vec<_> =
            (rows.first..).zip(&rows.ids).map(|(event, id)| (event, id, payload)).collect();
        let mut transaction = self.0.begin_with("begin immediate").await?;
        sqlx::query(
            "update streams set head = grown.value ->> 1 from json_each($1) as grown
            where gateway = grown.value ->> 0",
        )
        .bind(serde_json::to_string(&rows.heads)?)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "insert into events (event, organisation, id, type, payload, correlation_id,
                occurred_at, appended_at, digest, target, matched)
            select value ->> 0, 1, value ->> 1, 'gateway.config.updated', value ->> 2, value ->> 1,
                $3 + key * $4, $3 + key * $4, $2, 'gateways', 1
            from json_each($1)",
        )
        .bind(serde_json::to_string(&events)?)
        .bind([7_u8; 32].as_slice())
        .bind(rows.appended.0.micros())
        .bind(rows.appended.1)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "insert into outbox (gateway, sequence, event)
            select value ->> 0, value ->> 1, value ->> 2 from json_each($1)",
        )
        .bind(serde_json::to_string(&rows.outbox)?)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    /// Executes a statement that does nothing.
    pub(super) async fn empty_statement(&mut self) -> anyhow::Result<()> {
        sqlx::query("select 1").execute(&mut self.0).await?;
        Ok(())
    }

    /// Reads a page of a gateway's log; returns its number of rows.
    pub(super) async fn read(
        &mut self,
        gateway: i64,
        after: i64,
        limit: i64,
    ) -> anyhow::Result<usize> {
        let rows = sqlx::query_as::<_, Row>(
            "select o.sequence, e.id, e.type, e.payload, e.correlation_id, e.occurred_at
            from outbox o join events e on e.event = o.event
            where o.gateway = $1 and o.sequence > $2 and o.sequence <= $2 + $3
            order by o.sequence",
        );
        let rows = rows.bind(gateway).bind(after).bind(limit).fetch_all(&mut self.0).await?;
        Ok(rows.len())
    }

    /// Marks all events as seen by the `not_connected` sweep.
    pub(super) async fn mark_swept(&mut self) -> anyhow::Result<()> {
        sqlx::query("update streams set missed = head").execute(&mut self.0).await?;
        Ok(())
    }

    /// Moves all positions to the ends of the logs; returns the first gateway's id.
    pub(super) async fn mark_delivered(&mut self) -> anyhow::Result<String> {
        sqlx::query("update streams set confirmed_total = head").execute(&mut self.0).await?;
        sqlx::query(
            "insert into cursors (gateway, instance, received, updated_at)
            select gateway, '', head, 0 from streams",
        )
        .execute(&mut self.0)
        .await?;
        let first = sqlx::query_scalar("select id from gateways where gateway = 1");
        Ok(first.fetch_one(&mut self.0).await?)
    }

    pub(super) async fn close(self) -> anyhow::Result<()> {
        Ok(self.0.close().await?)
    }
}
