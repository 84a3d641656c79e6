//! The ledger's writing side: receipts move cursors, outcomes become
//! run-length coded attempts.

use sqlx::sqlite::SqliteConnection;

use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayKey, NodeId, Reason, Sequence};
use crate::store::{Range, Record, Result};

/// The longest range of one row; the schema checks it too.
pub(super) const LONGEST_RANGE: i64 = 1000;

/// Puts outcomes on record, in order. Returns the gateways whose connections
/// ended: they may have events and nobody there to receive them.
pub(super) async fn run(
    connection: &mut SqliteConnection,
    now: Timestamp,
    node: NodeId,
    records: &[Record],
) -> Result<Vec<GatewayKey>> {
    let mut ledger = Ledger { connection, now, node: node.to_string() };
    let mut unserved = Vec::new();
    for record in merged(records) {
        if let Record::Closed { gateway, .. } = &record {
            unserved.push(*gateway);
        }
        ledger.put(record).await?;
    }
    Ok(unserved)
}

/// Joins neighbouring receipts of one connection: under load one row then
/// stands for hundreds of deliveries.
fn merged(records: &[Record]) -> Vec<Record> {
    let mut merged: Vec<Record> = Vec::with_capacity(records.len());
    for record in records {
        if let (
            Some(Record::Confirmed {
                connection: last_connection,
                range: last,
                finished_at: end,
                ..
            }),
            Record::Confirmed { connection, range, finished_at, .. },
        ) = (merged.last_mut(), record)
            && last_connection == connection
            && last.last.next() == range.first
        {
            last.last = range.last;
            *end = *finished_at;
            continue;
        }
        merged.push(record.clone());
    }
    merged
}

/// What one row of the ledger says, less its range.
pub(super) struct Entry<'a> {
    pub(super) gateway: GatewayKey,
    pub(super) outcome: &'static str,
    pub(super) reason: Option<Reason>,
    pub(super) detail: Option<&'a str>,
    pub(super) connection: Option<ConnectionId>,
    pub(super) started_at: Timestamp,
    pub(super) finished_at: Timestamp,
}

pub(super) struct Ledger<'c> {
    pub(super) connection: &'c mut SqliteConnection,
    pub(super) now: Timestamp,
    pub(super) node: String,
}

impl Ledger<'_> {
    async fn put(&mut self, record: Record) -> Result<()> {
        match record {
            Record::Confirmed { gateway, connection, range, started_at, finished_at } => {
                self.confirm(gateway, range).await?;
                self.advance(gateway, connection, range.last).await?;
                let entry = Entry {
                    gateway,
                    outcome: "received",
                    reason: None,
                    detail: None,
                    connection: Some(connection),
                    started_at,
                    finished_at,
                };
                self.attempt(range, &entry).await
            }
            Record::Reported { gateway, connection, sequence, result, at } => {
                self.report(gateway, connection, sequence, result, at).await
            }
            Record::Skipped { gateway, connection, range, reason, advance_to, at } => {
                self.give_up(gateway, range, reason).await?;
                self.fail(gateway, range, reason, None, Some(connection), at, at).await?;
                if let Some(position) = advance_to {
                    self.advance(gateway, connection, position).await?;
                }
                Ok(())
            }
            Record::Heartbeat { connection, at } => {
                let (id, at) = (connection.to_string(), at.micros());
                sqlx::query!("update connections set last_heartbeat_at = $2 where id = $1", id, at)
                    .execute(&mut *self.connection)
                    .await?;
                Ok(())
            }
            Record::Closed { gateway, connection, reason, detail, unconfirmed, give_up, at } => {
                if let Some((range, started_at)) = unconfirmed {
                    self.lost(gateway, connection, reason, &detail, range, started_at, at).await?;
                    if give_up {
                        let poison = Range { first: range.first, last: range.first };
                        self.give_up(gateway, poison, reason).await?;
                        self.advance(gateway, connection, range.first).await?;
                    }
                }
                self.close(gateway, connection, reason, at).await
            }
        }
    }

    /// Counts what is confirmed for the first time.
    async fn confirm(&mut self, gateway: GatewayKey, range: Range) -> Result<()> {
        sqlx::query!(
            "update streams set confirmed_total = confirmed_total + max(0, $3 - max($2 - 1,
                 coalesce((select received from cursors where gateway = $1 and instance = ''), 0)))
             where gateway = $1",
            gateway.0,
            range.first.0,
            range.last.0
        )
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    /// Raises a connection's cursor and the gateway's own; never lowers one.
    async fn advance(
        &mut self,
        gateway: GatewayKey,
        connection: ConnectionId,
        position: Sequence,
    ) -> Result<()> {
        let (id, now) = (connection.to_string(), self.now.micros());
        // A named instance's cursor is found through its connection.
        sqlx::query!(
            "update cursors set received = max(received, $3), updated_at = $4
             where gateway = $1 and instance in
                 ($2, (select nullif(instance, '') from connections where id = $2))",
            gateway.0,
            id,
            position.0,
            now
        )
        .execute(&mut *self.connection)
        .await?;
        sqlx::query!(
            "insert into cursors (gateway, instance, received, updated_at) values ($1, '', $2, $3)
             on conflict (gateway, instance) do update
             set received = max(received, excluded.received), updated_at = excluded.updated_at",
            gateway.0,
            position.0,
            now
        )
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    async fn report(
        &mut self,
        gateway: GatewayKey,
        connection: ConnectionId,
        sequence: Sequence,
        result: Result<(), (Reason, String)>,
        at: Timestamp,
    ) -> Result<()> {
        let range = Range { first: sequence, last: sequence };
        match result {
            Ok(()) => {
                let entry = Entry {
                    gateway,
                    outcome: "applied",
                    reason: None,
                    detail: None,
                    connection: Some(connection),
                    started_at: at,
                    finished_at: at,
                };
                self.attempt(range, &entry).await
            }
            Err((reason, detail)) => {
                self.give_up(gateway, range, reason).await?;
                self.fail(gateway, range, reason, Some(&detail), Some(connection), at, at).await
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one record")]
    async fn lost(
        &mut self,
        gateway: GatewayKey,
        connection: ConnectionId,
        reason: Reason,
        detail: &str,
        range: Range,
        started_at: Timestamp,
        at: Timestamp,
    ) -> Result<()> {
        self.fail(gateway, range, reason, Some(detail), Some(connection), started_at, at).await?;
        // These have their failed attempt: the sweep need not record another.
        sqlx::query!(
            "update streams set missed = max(missed, min($2, head)) where gateway = $1",
            gateway.0,
            range.last.0
        )
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    async fn close(
        &mut self,
        gateway: GatewayKey,
        connection: ConnectionId,
        reason: Reason,
        at: Timestamp,
    ) -> Result<()> {
        let (id, reason, at) = (connection.to_string(), reason.as_str(), at.micros());
        sqlx::query!(
            "update connections set closed_at = $2, close_reason = $3 where id = $1 and closed_at is null",
            id,
            at,
            reason
        )
        .execute(&mut *self.connection)
        .await?;
        sqlx::query!(
            "update cursors set left_at = $3 where gateway = $1 and instance = $2",
            gateway.0,
            id,
            at
        )
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    /// Writes dead letters. One that is already there stays as it is.
    pub(super) async fn give_up(
        &mut self,
        gateway: GatewayKey,
        range: Range,
        reason: Reason,
    ) -> Result<()> {
        let (reason, now) = (reason.as_str(), self.now.micros());
        sqlx::query!(
            "insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at)
             select $1, $2, $3, $4, $5
             where not exists (select 1 from dead_letters
                               where gateway = $1 and first_sequence <= $2 and last_sequence >= $3)",
            gateway.0,
            range.first.0,
            range.last.0,
            reason,
            now
        )
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    /// A failed attempt, with the totals that /stats shows.
    #[expect(clippy::too_many_arguments, reason = "the parts of one attempt")]
    pub(super) async fn fail(
        &mut self,
        gateway: GatewayKey,
        range: Range,
        reason: Reason,
        detail: Option<&str>,
        connection: Option<ConnectionId>,
        started_at: Timestamp,
        finished_at: Timestamp,
    ) -> Result<()> {
        let entry = Entry {
            gateway,
            outcome: "failed",
            reason: Some(reason),
            detail: detail.filter(|detail| !detail.is_empty()),
            connection,
            started_at,
            finished_at,
        };
        self.attempt(range, &entry).await?;
        let (count, at, reason) =
            (range.last.0 - range.first.0 + 1, finished_at.micros(), reason.as_str());
        sqlx::query!(
            "update streams set failed_total = failed_total + $2, last_failure_at = $3,
                                last_failure_reason = $4 where gateway = $1",
            gateway.0,
            count,
            at,
            reason
        )
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    async fn attempt(&mut self, range: Range, entry: &Entry<'_>) -> Result<()> {
        let reason = entry.reason.map(Reason::as_str);
        let connection = entry.connection.map(|id| id.to_string());
        let (started, finished) = (entry.started_at.micros(), entry.finished_at.micros());
        let mut first = range.first.0;
        while first <= range.last.0 {
            let last = range.last.0.min(first + LONGEST_RANGE - 1);
            sqlx::query!(
                "insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, detail,
                                       connection, instance, node, started_at, finished_at)
                 values ($1, $2, $3, $4, $5, $6, $7,
                         coalesce((select instance from connections where id = $7), ''), $8, $9, $10)",
                entry.gateway.0,
                first,
                last,
                entry.outcome,
                reason,
                entry.detail,
                connection,
                self.node,
                started,
                finished
            )
            .execute(&mut *self.connection)
            .await?;
            first = last + 1;
        }
        Ok(())
    }
}
