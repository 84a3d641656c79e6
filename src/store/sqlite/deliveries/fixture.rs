//! A real database in a temporary file, filled by hand.

use std::path::PathBuf;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};

use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, OrganisationKey};
use crate::store::sqlite::gateways::create_gateway;
use crate::store::{Labels, NewToken};

pub(in crate::store::sqlite) const ORGANISATION: OrganisationKey = OrganisationKey(1);
pub(in crate::store::sqlite) const OTHER: OrganisationKey = OrganisationKey(2);

pub(in crate::store::sqlite) struct Database {
    pub(in crate::store::sqlite) path: PathBuf,
    pub(in crate::store::sqlite) connection: SqliteConnection,
    _directory: tempfile::TempDir,
}

/// An attempt to be put on record.
#[derive(Clone, Copy, Debug)]
pub(in crate::store::sqlite) struct Made {
    pub(in crate::store::sqlite) gateway: i64,
    pub(in crate::store::sqlite) first: i64,
    pub(in crate::store::sqlite) last: i64,
    pub(in crate::store::sqlite) outcome: &'static str,
    pub(in crate::store::sqlite) reason: Option<&'static str>,
    pub(in crate::store::sqlite) finished_at: i64,
}

pub(in crate::store::sqlite) fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

pub(in crate::store::sqlite) fn token(id: &str, expires_at: Option<i64>) -> NewToken {
    NewToken { id: id.to_owned(), digest: [7; 32], expires_at: expires_at.map(at) }
}

impl Database {
    pub(in crate::store::sqlite) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let mut connection = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .foreign_keys(true)
            // A test's file need not survive a power cut.
            .pragma("synchronous", "off")
            .pragma("journal_mode", "memory")
            .connect()
            .await
            .unwrap();
        sqlx::migrate!("migrations/sqlite").run(&mut connection).await.unwrap();
        sqlx::query(
            "insert into organisations (organisation, name, created_at) values (2, 'other', 0)",
        )
        .execute(&mut connection)
        .await
        .unwrap();
        Self { path, connection, _directory: directory }
    }

    pub(in crate::store::sqlite) async fn gateway(
        &mut self,
        organisation: OrganisationKey,
        name: &str,
    ) -> (GatewayKey, GatewayId) {
        let id = GatewayId::new();
        let made =
            create_gateway(&mut self.connection, at(1), organisation, id, name, &Labels::new())
                .await
                .unwrap();
        (made.key, id)
    }

    /// Appends one event to each of these gateways, in an organisation.
    pub(in crate::store::sqlite) async fn append(
        &mut self,
        organisation: OrganisationKey,
        gateways: &[i64],
        id: &str,
        event_type: &str,
        correlation_id: &str,
    ) {
        let event: i64 = sqlx::query_scalar(
            "insert into events (organisation, id, type, payload, correlation_id, occurred_at, appended_at, digest)
             values ($1, $2, $3, '{}', $4, 5, 6, x'00') returning event",
        )
        .bind(organisation.0)
        .bind(id)
        .bind(event_type)
        .bind(correlation_id)
        .fetch_one(&mut self.connection)
        .await
        .unwrap();
        for gateway in gateways {
            self.run("update streams set head = head + 1 where gateway = $1", &[*gateway]).await;
            self.run(
                "insert into outbox (gateway, sequence, event)
                 select gateway, head, $2 from streams where gateway = $1",
                &[*gateway, event],
            )
            .await;
        }
    }

    pub(in crate::store::sqlite) async fn attempt(&mut self, made: Made) -> i64 {
        if made.outcome == "failed" {
            self.run(
                "update streams set failed_total = failed_total + $2, last_failure_at = $3,
                 last_failure_reason = 'shutdown' where gateway = $1",
                &[made.gateway, made.last - made.first + 1, made.finished_at],
            )
            .await;
        }
        sqlx::query_scalar(
            "insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, instance, node, started_at, finished_at)
             values ($1, $2, $3, $4, $5, '', 'n', $6, $6) returning attempt",
        )
        .bind(made.gateway)
        .bind(made.first)
        .bind(made.last)
        .bind(made.outcome)
        .bind(made.reason)
        .bind(made.finished_at)
        .fetch_one(&mut self.connection)
        .await
        .unwrap()
    }

    pub(in crate::store::sqlite) async fn cursor(&mut self, gateway: i64, received: i64) {
        self.run(
            "insert into cursors (gateway, instance, received, updated_at) values ($1, '', $2, 0)
             on conflict do update set received = excluded.received",
            &[gateway, received],
        )
        .await;
    }

    pub(in crate::store::sqlite) async fn dead(&mut self, gateway: i64, first: i64, last: i64) {
        self.run(
            "insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at)
             values ($1, $2, $3, 'expired', 9)",
            &[gateway, first, last],
        )
        .await;
    }

    /// Trims a gateway's log as retention does.
    pub(in crate::store::sqlite) async fn trim(&mut self, gateway: i64, floor: i64) {
        self.run("delete from outbox where gateway = $1 and sequence <= $2", &[gateway, floor])
            .await;
        self.run("update streams set floor = $2 where gateway = $1", &[gateway, floor]).await;
    }

    pub(in crate::store::sqlite) async fn run(&mut self, text: &'static str, values: &[i64]) {
        let mut query = sqlx::query(text);
        for value in values {
            query = query.bind(value);
        }
        query.execute(&mut self.connection).await.unwrap();
    }
}
