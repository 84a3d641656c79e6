//! Jobs, and the deliveries that a replay appends again.

use super::super::sql::dialect::BulkStatements;
use super::super::sql::dialect::bulk::{LockedJob, ReplayRow};
use super::{Connection, LOCK_SPACE, locks, query, query_as};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, Sequence};
use crate::store::Result;

impl BulkStatements for Connection {
    async fn lock_new_jobs(&mut self) -> Result<()> {
        query!("select pg_advisory_xact_lock($1, $2)", LOCK_SPACE, locks::NEW_JOBS)
            .execute(self)
            .await?;
        Ok(())
    }

    async fn lock_event_actions(&mut self) -> Result<()> {
        query!("select pg_advisory_xact_lock($1, $2)", LOCK_SPACE, locks::EVENT_ACTIONS)
            .execute(self)
            .await?;
        Ok(())
    }

    /// Another node that works on the job need not be waited for.
    async fn lock_job(&mut self, job: i64) -> Result<Option<LockedJob>> {
        Ok(query_as!(
            LockedJob,
            r#"
            select state as "state!: String", position as "position!: String"
            from bulk_jobs where job = $1 for no key update skip locked
            "#,
            job
        )
        .fetch_optional(self)
        .await?)
    }

    /// Later occurrences are repeats, which have an index of their own; the index by event has the
    /// deliveries to all gateways. `limit 1` makes the planner look up events one by one.
    async fn replay_rows(
        &mut self,
        gateway: GatewayKey,
        after: Sequence,
        to: Sequence,
        limit: i64,
    ) -> Result<Vec<ReplayRow>> {
        Ok(query_as!(
            ReplayRow,
            r#"
            select l.sequence as "sequence!: Sequence", l.event as "event!: i64",
                e.expires_at as "expires_at?: Timestamp", (e.purged_at is not null) as "is_purged!: bool",
                (exists (
                    select 1 from outbox r where r.gateway = $1 and r.event = l.event
                        and r.sequence > l.sequence and r.sequence <= $3 and r.repeats is not null
                ) or exists (
                    select 1 from trimmed r where r.gateway = $1 and r.event = l.event
                        and r.sequence > l.sequence and r.sequence <= $3 and r.repeats is not null
                )) as "repeated!: bool"
            from (
                (select sequence, event from outbox
                 where gateway = $1 and sequence > $2 and sequence <= $3 order by sequence limit $4)
                union all
                (select sequence, event from trimmed
                 where gateway = $1 and sequence > $2 and sequence <= $3 order by sequence limit $4)
                order by sequence limit $4
            ) as l
            cross join lateral (select expires_at, purged_at from events where event = l.event limit 1) as e
            order by l.sequence
            "#,
            gateway.0,
            after.0,
            to.0,
            limit
        )
        .fetch_all(self)
        .await?)
    }
}
