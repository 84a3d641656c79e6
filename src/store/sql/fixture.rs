//! A real database for unit tests, filled row by row.

use super::dialect::Connection;
use super::gateways::create_gateway;
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, NodeId, OrganisationKey};
use crate::store::{Labels, NewToken};

use super::super::scratch::Scratch;

pub(super) const ORGANISATION: OrganisationKey = OrganisationKey(1);
pub(super) const OTHER: OrganisationKey = OrganisationKey(2);

pub(super) struct Database {
    pub(super) conn: Connection,
    _scratch: Scratch,
}

/// An attempt to insert.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    pub(super) gateway: i64,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) outcome: &'static str,
    pub(super) reason: Option<&'static str>,
    pub(super) finished_at: i64,
}

pub(super) fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

pub(super) fn token(id: &str, expires_at: Option<i64>) -> NewToken {
    NewToken { id: id.to_owned(), digest: [7; 32], expires_at: expires_at.map(at) }
}

impl Database {
    pub(super) async fn new() -> Self {
        let (scratch, mut conn) = Scratch::new().await;
        sqlx::query("insert into organisations (name, created_at) values ('other', $1)")
            .bind(at(0))
            .execute(&mut conn)
            .await
            .unwrap();
        Self { conn, _scratch: scratch }
    }

    pub(super) async fn gateway(
        &mut self,
        organisation: OrganisationKey,
        name: &str,
    ) -> (GatewayKey, GatewayId) {
        let id = GatewayId::new();
        let made = create_gateway(&mut self.conn, at(1), organisation, id, name, &Labels::new(), 1)
            .await
            .unwrap();
        (made.value.key, id)
    }

    /// Appends one event to each of these gateways, in an organisation.
    pub(super) async fn append(
        &mut self,
        organisation: OrganisationKey,
        gateways: &[i64],
        id: &str,
        event_type: &str,
        correlation_id: &str,
    ) {
        let event: i64 = sqlx::query_scalar(
            "insert into events (organisation, id, type, payload, correlation_id, occurred_at, appended_at, digest)
             values ($1, $2, $3, '{}', $4, $5, $6, $7) returning event",
        )
        .bind(organisation.0)
        .bind(id)
        .bind(event_type)
        .bind(correlation_id)
        .bind(at(5))
        .bind(at(6))
        .bind(&[0_u8][..])
        .fetch_one(&mut self.conn)
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

    pub(super) async fn attempt(&mut self, made: Made) -> i64 {
        if made.outcome == "failed" {
            sqlx::query(
                "update streams set failed_total = failed_total + $2, last_failure_at = $3,
                 last_failure_reason = 'shutdown' where gateway = $1",
            )
            .bind(made.gateway)
            .bind(made.last - made.first + 1)
            .bind(at(made.finished_at))
            .execute(&mut self.conn)
            .await
            .unwrap();
        }
        sqlx::query_scalar(
            "insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, instance, node, started_at, finished_at)
             values ($1, $2, $3, $4, $5, '', $7, $6, $6) returning attempt",
        )
        .bind(made.gateway)
        .bind(made.first)
        .bind(made.last)
        .bind(made.outcome)
        .bind(made.reason)
        .bind(at(made.finished_at))
        .bind(NodeId::new())
        .fetch_one(&mut self.conn)
        .await
        .unwrap()
    }

    pub(super) async fn cursor(&mut self, gateway: i64, received: i64) {
        sqlx::query(
            "insert into cursors (gateway, instance, received, updated_at) values ($1, '', $2, $3)
             on conflict (gateway, instance) do update set received = excluded.received",
        )
        .bind(gateway)
        .bind(received)
        .bind(at(0))
        .execute(&mut self.conn)
        .await
        .unwrap();
    }

    pub(super) async fn dead(&mut self, gateway: i64, first: i64, last: i64) {
        sqlx::query(
            "insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at)
             values ($1, $2, $3, 'expired', $4)",
        )
        .bind(gateway)
        .bind(first)
        .bind(last)
        .bind(at(9))
        .execute(&mut self.conn)
        .await
        .unwrap();
        let text = "update streams set dead_total = dead_total + $2 where gateway = $1";
        self.run(text, &[gateway, last - first + 1]).await;
    }

    /// Trims a gateway's log as retention does.
    pub(super) async fn trim(&mut self, gateway: i64, floor: i64) {
        self.run("delete from outbox where gateway = $1 and sequence <= $2", &[gateway, floor])
            .await;
        self.run("update streams set floor = $2 where gateway = $1", &[gateway, floor]).await;
    }

    pub(super) async fn run(&mut self, text: &'static str, values: &[i64]) {
        let mut query = sqlx::query(text);
        for value in values {
            query = query.bind(value);
        }
        query.execute(&mut self.conn).await.unwrap();
    }
}
