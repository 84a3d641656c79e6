//! What follows the events of a filled ledger: attempts, dead letters, positions, and the rows of
//! the other lists.

use gateway_events::event::NodeId;
use sqlx::Connection as _;

use super::super::Span;
use super::Sqlite;

/// Attempts that one transaction inserts.
const ATTEMPTS: i64 = 200_000;

/// A failed attempt for each event.
const ATTEMPT: &str = "
    insert into attempts (gateway, first_sequence, last_sequence, outcome, reason,
        instance, node, started_at, finished_at)
    select gateway, sequence, sequence, 'failed',
        case when event % 100000 = 7 then 'expired' else 'not_connected' end, '', $3,
        $1 + (event - 1) * $2, $1 + (event - 1) * $2
    from outbox where event between $4 and $5 order by event";

/// The rest. $1 is the instant of the first event, $2 the time between two of them, and $3 their
/// number.
const REST: [&str; 12] = [
    // What selective filters find.
    "update events set type = 'bench.rare', correlation_id = 'bench-correlation',
        user_id = 'bench-user', artifact_id = 'bench-artifact', deployment_id = 'bench-deployment'
    where event % 100000 = 7",
    "insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at)
    select gateway, sequence, sequence, 'skipped', $1 + (event - 1) * $2
    from outbox where sequence % 1000 = 1",
    "insert into cursors (gateway, instance, received, updated_at)
    select gateway, '', head * 9 / 10, $1 + $2 * $3 from streams",
    "update streams set missed = head, failed_total = head, confirmed_total = head * 9 / 10,
        dead_total = (select count(*) from dead_letters d where d.gateway = streams.gateway),
        last_failure_at = $1 + $2 * $3, last_failure_reason = 'not_connected'",
    "update gateways set created_at = $1, labels = json_object('shard', cast(gateway % 10 as text))",
    "insert into gateway_history (gateway, changed_at, name, labels, changed_by)
    select gateway, created_at, name, labels, 'bench' from gateways",
    "insert into event_counts (organisation, minute, count)
    select 1, appended_at / 60000000, count(*) from events group by 2",
    "update event_counts_mark set last_event = (select max(event) from events)",
    "with recursive numbered (n) as (select 0 union all select n + 1 from numbered where n < 9)
    insert into connections (id, gateway, token, instance, transport, node, remote_address,
        connected_at, last_heartbeat_at, closed_at, close_reason, confirmed)
    select format('00000000-0000-4000-900%d-%012d', n, gateway), gateway, 'token', '', 'websocket',
        '00000000-0000-4000-8000-000000000000', '192.0.2.1:4711', $1 + n * ($2 * $3 / 10),
        $1 + n * ($2 * $3 / 10) + 1, $1 + n * ($2 * $3 / 10) + 1, 'connection_lost', 0
    from gateways, numbered",
    "insert into audit (sequence, organisation, recorded_at, principal, principal_name, source,
        request_id, action, object_kind, object_id, object_name, before, after, hash)
    select event, 1, $1 + (event - 1) * $2, 'bench', 'bench', '192.0.2.1', '', 'event.purged',
        'event', id, '', '{}', '{}', zeroblob(32)
    from events where event <= 100000 order by event",
    "update audit_head set sequence = (select max(sequence) from audit)",
    "insert into inbox_rejected (inbox_id, organisation, type, payload, inserted_at, reason,
        detail, rejected_at)
    select event, 'default', type, payload, appended_at, 'unknown_event_type', 'bench', appended_at
    from events where event <= 10000 order by event",
];

/// Jobs that have ended.
const JOBS: &str = "
    insert into bulk_jobs (id, organisation, kind, parameters, principal, principal_name, source,
        request_id, state, position, done, total, counts, created_at, updated_at, ended_at)
    select format('00000000-0000-4000-8000-%012d', event), 1, 'redrive', '{}', 'bench', 'bench',
        '192.0.2.1', '', 'done', '{\"counted\":null}', 0, 0, '{}', appended_at, appended_at, appended_at
    from events where event <= 10000 order by event";

impl Sqlite {
    /// Inserts everything that belongs to the events of a ledger; returns the gateways' ids.
    pub(in super::super) async fn fill_ledger(
        &mut self,
        span: Span,
    ) -> anyhow::Result<Vec<String>> {
        let (node, mut first) = (NodeId::new(), 1);
        while first <= span.last {
            let last = span.last.min(first + ATTEMPTS - 1);
            let mut transaction = self.0.begin_with("begin immediate").await?;
            sqlx::query(ATTEMPT)
                .bind(span.from)
                .bind(span.step)
                .bind(node)
                .bind(first)
                .bind(last)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            first = last + 1;
        }
        let mut transaction = self.0.begin_with("begin immediate").await?;
        for statement in REST {
            sqlx::query(statement)
                .bind(span.from)
                .bind(span.step)
                .bind(span.last)
                .execute(&mut *transaction)
                .await?;
        }
        sqlx::query(JOBS).execute(&mut *transaction).await?;
        let gateways = sqlx::query_scalar("select id from gateways order by gateway");
        let gateways = gateways.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(gateways)
    }
}
