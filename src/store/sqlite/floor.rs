//! The bare driver on a file of its own. Its few texts are checked by running
//! them, for no story measures without them.

use std::path::Path;

use sqlx::{Connection as _, SqliteConnection};

use super::dialect::json;
use super::open::{self, OpenError};
use crate::clock::Timestamp;
use crate::event::NodeId;
use crate::store::floor::Rows;

/// A row of a log.
type Row = (i64, String, String, String, String, Timestamp);

/// A connection to the file.
pub(in crate::store) struct Bare(SqliteConnection);

impl Bare {
    /// Makes the file with some gateways.
    pub(in crate::store) async fn open(path: &Path, gateways: u32) -> Result<Self, OpenError> {
        super::migrate(path).await?;
        let mut connection = open::connect(path).await?;
        sqlx::query(
            "insert into gateways (gateway, id, organisation, name, created_at)
            with recursive numbered (n) as (
                select 1 union all select n + 1 from numbered where n < $1)
            select n, format('00000000-0000-4000-8000-%012d', n), 1, 'gateway-' || n, 0
            from numbered",
        )
        .bind(gateways.max(1))
        .execute(&mut connection)
        .await?;
        sqlx::query("insert into streams (gateway, epoch) select gateway, id from gateways")
            .execute(&mut connection)
            .await?;
        Ok(Self(connection))
    }

    /// One transaction.
    pub(in crate::store) async fn append(
        &mut self,
        rows: &Rows,
        payload: &str,
    ) -> Result<(), OpenError> {
        let events: Vec<_> =
            (rows.first..).zip(&rows.ids).map(|(event, id)| (event, id, payload)).collect();
        let mut transaction = self.0.begin_with("begin immediate").await?;
        sqlx::query(
            "update streams set head = grown.value ->> 1 from json_each($1) as grown
            where gateway = grown.value ->> 0",
        )
        .bind(json(&rows.heads)?)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "insert into events (event, organisation, id, type, payload, correlation_id,
                occurred_at, appended_at, digest)
            select value ->> 0, 1, value ->> 1, 'gateway.config.updated', value ->> 2, value ->> 1,
                $3, $3, $2
            from json_each($1)",
        )
        .bind(json(&events)?)
        .bind([7_u8; 32].as_slice())
        .bind(Timestamp::now().micros())
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "insert into outbox (gateway, sequence, event)
            select value ->> 0, value ->> 1, value ->> 2 from json_each($1)",
        )
        .bind(json(&rows.outbox)?)
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    /// A statement that does nothing: the way to the database and back.
    pub(in crate::store) async fn nothing(&mut self) -> Result<(), OpenError> {
        sqlx::query("select 1").execute(&mut self.0).await?;
        Ok(())
    }

    /// A page of a log; answers how many rows it had.
    pub(in crate::store) async fn read(
        &mut self,
        gateway: i64,
        after: i64,
        limit: i64,
    ) -> Result<usize, OpenError> {
        let rows = sqlx::query_as::<_, Row>(
            "select o.sequence, e.id, e.type, e.payload, e.correlation_id, e.occurred_at
            from outbox o join events e on e.event = o.event
            where o.gateway = $1 and o.sequence > $2 and o.sequence <= $2 + $3
            order by o.sequence",
        );
        let rows = rows.bind(gateway).bind(after).bind(limit).fetch_all(&mut self.0).await?;
        Ok(rows.len())
    }

    /// All that is there was missed, and that is on record.
    pub(in crate::store) async fn pass_over(&mut self) -> Result<(), OpenError> {
        sqlx::query("update streams set missed = head").execute(&mut self.0).await?;
        Ok(())
    }

    /// A failed attempt for each event, `step` microseconds apart.
    pub(in crate::store) async fn fail_all(
        &mut self,
        from: Timestamp,
        step: i64,
    ) -> Result<Vec<String>, OpenError> {
        let mut transaction = self.0.begin_with("begin immediate").await?;
        sqlx::query(
            "insert into attempts (gateway, first_sequence, last_sequence, outcome, reason,
                instance, node, started_at, finished_at)
            select gateway, sequence, sequence, 'failed', 'not_connected',
                '', $3, $1 + (event - 1) * $2, $1 + (event - 1) * $2
            from outbox order by event",
        )
        .bind(from)
        .bind(step)
        .bind(NodeId::new())
        .execute(&mut *transaction)
        .await?;
        sqlx::query("update streams set missed = head, failed_total = head")
            .execute(&mut *transaction)
            .await?;
        let gateways = sqlx::query_scalar("select id from gateways order by gateway");
        let gateways = gateways.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(gateways)
    }

    pub(in crate::store) async fn close(self) -> Result<(), OpenError> {
        Ok(self.0.close().await?)
    }
}
