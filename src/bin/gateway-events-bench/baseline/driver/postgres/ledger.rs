//! What follows the events of a filled ledger: attempts, dead letters, positions, and the rows of
//! the other lists.

use gateway_events::event::NodeId;
use sqlx::Connection as _;

use super::super::Span;
use super::Postgres;

/// Attempts that one transaction inserts.
const ATTEMPTS: i64 = 500_000;

/// A failed attempt for each event.
const ATTEMPT: &str = "
    insert into attempts (gateway, first_sequence, last_sequence, outcome, reason,
        instance, node, started_at, finished_at)
    select gateway, sequence, sequence, 'failed',
        case when event % 100000 = 7 then 'expired' else 'not_connected' end, '', $3, at, at
    from outbox, lateral (select $1 + (event - 1) * $2 * interval '1 microsecond') as t (at)
    where event between $4 and $5 order by event";

/// Counts per minute, as the service keeps them. Its triggers would append a row for each attempt.
const COUNTS: [&str; 3] = [
    "insert into failure_counts (organisation, minute, reason, count, merged)
    select 1, floor(extract(epoch from finished_at) / 60)::bigint, reason, count(*), true
    from attempts group by 1, 2, 3",
    "insert into event_counts (organisation, minute, count)
    select 1, floor(extract(epoch from appended_at) / 60)::bigint, count(*) from events group by 1, 2",
    "update event_counts_mark set last_event = (select max(event) from events)",
];

/// The rest, which runs without a limit of time.
const REST: [&str; 11] = [
    // What selective filters find.
    "update events set type = 'bench.rare', correlation_id = 'bench-correlation',
        user_id = 'bench-user', artifact_id = 'bench-artifact', deployment_id = 'bench-deployment'
    where event % 100000 = 7",
    "insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at)
    select o.gateway, o.sequence, o.sequence, 'skipped', e.appended_at
    from outbox o join events e on e.event = o.event where o.sequence % 1000 = 1",
    "insert into cursors (gateway, instance, received, updated_at)
    select gateway, '', head * 9 / 10, now() from streams",
    "update streams set missed = head, failed_total = head, confirmed_total = head * 9 / 10,
        dead_total = (select count(*) from dead_letters d where d.gateway = streams.gateway),
        last_failure_at = now(), last_failure_reason = 'not_connected'",
    "update gateways set created_at = now() - interval '1 day',
        labels = jsonb_build_object('shard', (gateway % 10)::text)::text",
    "insert into gateway_history (gateway, changed_at, name, labels, changed_by)
    select gateway, created_at, name, labels, 'bench' from gateways",
    "insert into connections (id, gateway, token, instance, transport, node, remote_address,
        connected_at, last_heartbeat_at, closed_at, close_reason, confirmed)
    select gen_random_uuid(), gateway, 'token', '', 'websocket', gen_random_uuid(),
        '192.0.2.1:4711', at, at, at, 'connection_lost', 0
    from generate_series(0, 9) n, gateways,
        lateral (select now() - (10 - n) * interval '1 hour') as t (at)
    order by n, gateway",
    "insert into audit (sequence, organisation, recorded_at, principal, principal_name, source,
        request_id, action, object_kind, object_id, object_name, before, after, hash)
    select event, 1, appended_at, 'bench', 'bench', '192.0.2.1', '', 'event.purged', 'event', id, '',
        '{}', '{}', decode(repeat('00', 32), 'hex')
    from events where event <= 100000 order by event",
    "update audit_head set sequence = (select max(sequence) from audit)",
    "insert into inbox_rejected (inbox_id, organisation, type, payload, inserted_at, reason,
        detail, rejected_at)
    select event, 'default', type, payload, appended_at, 'unknown_event_type', 'bench', appended_at
    from events where event <= 10000 order by event",
    "insert into bulk_jobs (id, organisation, kind, parameters, principal, principal_name, source,
        request_id, state, position, done, total, counts, created_at, updated_at, ended_at)
    select gen_random_uuid(), 1, 'redrive', '{}', 'bench', 'bench', '192.0.2.1', '', 'done',
        '{\"counted\":null}', 0, 0, '{}', appended_at, appended_at, appended_at
    from events where event <= 10000 order by event",
];

impl Postgres {
    /// Inserts everything that belongs to the events of a ledger; returns the gateways' ids.
    pub(in super::super) async fn fill_ledger(
        &mut self,
        span: Span,
    ) -> anyhow::Result<Vec<String>> {
        // May take longer than the service's limit for a statement.
        sqlx::query("set statement_timeout = 0").execute(&mut self.0).await?;
        sqlx::query("alter table attempts disable trigger user").execute(&mut self.0).await?;
        let (node, mut first) = (NodeId::new(), 1);
        while first <= span.last {
            let last = span.last.min(first + ATTEMPTS - 1);
            sqlx::query(ATTEMPT)
                .bind(span.from)
                .bind(span.step)
                .bind(node)
                .bind(first)
                .bind(last)
                .execute(&mut self.0)
                .await?;
            first = last + 1;
        }
        sqlx::query("alter table attempts enable trigger user").execute(&mut self.0).await?;
        let mut transaction = self.0.begin().await?;
        for statement in COUNTS {
            sqlx::query(statement).execute(&mut *transaction).await?;
        }
        for statement in REST {
            sqlx::query(statement).execute(&mut *transaction).await?;
        }
        let gateways = sqlx::query_scalar("select id::text from gateways order by gateway");
        let gateways = gateways.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        self.move_sequences().await?;
        // As autovacuum does after a while.
        sqlx::query("vacuum (analyze)").execute(&mut self.0).await?;
        Ok(gateways)
    }
}
