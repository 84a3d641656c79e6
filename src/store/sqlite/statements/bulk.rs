//! Jobs, and the deliveries that a replay appends again.

use super::super::sql::dialect::BulkStatements;
use super::super::sql::dialect::bulk::{LockedJob, ReplayRow};
use super::{Connection, query_as};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, Sequence};
use crate::store::Result;

impl BulkStatements for Connection {
    /// There is one writer.
    async fn lock_new_jobs(&mut self) -> Result<()> {
        Ok(())
    }

    /// There is one writer.
    async fn lock_event_actions(&mut self) -> Result<()> {
        Ok(())
    }

    async fn lock_job(&mut self, job: i64) -> Result<Option<LockedJob>> {
        Ok(query_as!(
            LockedJob,
            r#"
            select state as "state!: String", position as "position!: String"
            from bulk_jobs where job = $1
            "#,
            job
        )
        .fetch_optional(self)
        .await?)
    }

    /// The tables have no rowid, so their indexes by event continue with gateway and sequence.
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
            with page as materialized (
                select sequence, event from outbox
                where gateway = $1 and sequence > $2 and sequence <= $3
                union all
                select sequence, event from trimmed
                where gateway = $1 and sequence > $2 and sequence <= $3
                order by 1 limit $4
            )
            select l.sequence as "sequence!: Sequence", l.event as "event!: i64",
                e.expires_at as "expires_at?: Timestamp", (e.purged_at is not null) as "is_purged!: bool",
                (exists (
                    select 1 from outbox r indexed by outbox_by_event where r.event = l.event
                        and r.gateway = $1 and r.sequence > l.sequence and r.sequence <= $3
                ) or exists (
                    select 1 from trimmed r indexed by trimmed_by_event where r.event = l.event
                        and r.gateway = $1 and r.sequence > l.sequence and r.sequence <= $3
                )) as "repeated!: bool"
            from page l cross join events e on e.event = l.event
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
