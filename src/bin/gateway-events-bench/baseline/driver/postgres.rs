//! The baseline driver on a Postgres database. The statements are not checked at
//! compile time; every test of a measurement on Postgres executes them.

use gateway_events::clock::Timestamp;
use gateway_events::store::postgres::{self, Options};
use secrecy::SecretString;
use sqlx::{Connection as _, PgConnection};

use super::Rows;

mod ledger;

/// A row of a log.
type Row = (i64, String, String, String, String, Timestamp);

/// A connection with the same settings as the service's.
pub(super) struct Postgres(PgConnection);

impl Postgres {
    /// Migrates the empty database and inserts gateways.
    pub(super) async fn create(url: &SecretString, gateways: u32) -> anyhow::Result<Self> {
        let options = Options { url: url.clone(), ..Options::default() };
        postgres::migrate(&options).await?;
        let mut conn = postgres::connect(&options).await?;
        sqlx::query(
            "insert into gateways (gateway, id, organisation, name, created_at)
            overriding system value
            select n, gen_random_uuid(), 1, 'gateway-' || n, now() from generate_series(1, $1) as n",
        )
        .bind(i64::from(gateways))
        .execute(&mut conn)
        .await?;
        sqlx::query("insert into streams (gateway, epoch) select gateway, id from gateways")
            .execute(&mut conn)
            .await?;
        Ok(Self(conn))
    }

    /// Appends the rows in one transaction.
    pub(super) async fn append(&mut self, rows: &Rows, payload: &str) -> anyhow::Result<()> {
        let mut transaction = self.0.begin().await?;
        let (gateways, heads): (Vec<i64>, Vec<i64>) = rows.heads.iter().copied().unzip();
        sqlx::query(
            "update streams set head = grown.head
            from unnest($1::bigint[], $2::bigint[]) as grown (gateway, head)
            where streams.gateway = grown.gateway",
        )
        .bind(gateways)
        .bind(heads)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "insert into events (event, organisation, id, type, payload, correlation_id,
                occurred_at, appended_at, digest, target, matched)
            overriding system value
            select $1 + nth - 1, 1, id, 'gateway.config.updated', payload, id, at, at, $4,
                'gateways', 1
            from unnest($2::text[], $3::text[]) with ordinality as new (id, payload, nth),
                lateral (select $5 + (nth - 1) * $6 * interval '1 microsecond') as t (at)",
        )
        .bind(rows.first)
        .bind(&rows.ids)
        .bind(vec![payload; rows.ids.len()])
        .bind([7_u8; 32].as_slice())
        .bind(rows.appended.0)
        .bind(rows.appended.1)
        .execute(&mut *transaction)
        .await?;
        let column = |at: fn(&(i64, i64, i64)) -> i64| rows.outbox.iter().map(at).collect();
        let columns: [Vec<i64>; 3] =
            [column(|row| row.0), column(|row| row.1), column(|row| row.2)];
        let [gateways, sequences, events] = columns;
        sqlx::query(
            "insert into outbox (gateway, sequence, event)
            select * from unnest($1::bigint[], $2::bigint[], $3::bigint[])",
        )
        .bind(gateways)
        .bind(sequences)
        .bind(events)
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
        self.move_sequences().await
    }

    /// Moves the sequences of keys past the rows that were inserted with explicit keys.
    async fn move_sequences(&mut self) -> anyhow::Result<()> {
        for last in [
            "select setval(pg_get_serial_sequence('events', 'event'), max(event)) from events",
            "select setval(pg_get_serial_sequence('gateways', 'gateway'), max(gateway)) from gateways",
        ] {
            sqlx::query(last).execute(&mut self.0).await?;
        }
        Ok(())
    }

    /// Moves all positions to the ends of the logs; returns the first gateway's id.
    pub(super) async fn mark_delivered(&mut self) -> anyhow::Result<String> {
        sqlx::query("update streams set confirmed_total = head").execute(&mut self.0).await?;
        sqlx::query(
            "insert into cursors (gateway, instance, received, updated_at)
            select gateway, '', head, now() from streams",
        )
        .execute(&mut self.0)
        .await?;
        let first = sqlx::query_scalar("select id::text from gateways where gateway = 1");
        Ok(first.fetch_one(&mut self.0).await?)
    }

    pub(super) async fn close(self) -> anyhow::Result<()> {
        Ok(self.0.close().await?)
    }
}
