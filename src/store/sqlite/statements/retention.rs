//! Deletions of retention that name many rows.

use super::super::sql::dialect::RetentionStatements;
use super::super::sql::dialect::retention::SpentEvents;
use super::{Connection, json, query, query_scalar};
use crate::clock::Timestamp;
use crate::store::{Result, TrimMark};

impl RetentionStatements for Connection {
    async fn delete_orphaned_cursors(&mut self, before: Timestamp, batch: i64) -> Result<u64> {
        let done = query!(
            r#"
            delete from cursors where (gateway, instance) in (
                select gateway, instance from cursors where left_at < $1 order by left_at limit $2
            )
            "#,
            before as _,
            batch
        )
        .execute(self)
        .await?;
        Ok(done.rows_affected())
    }

    /// There is one writer, so no event is locked.
    async fn delete_spent_events(
        &mut self,
        events: &[i64],
        spent: SpentEvents,
        _: &mut TrimMark,
    ) -> Result<u64> {
        let events = json(events)?;
        let gone = query_scalar!(
            r#"
            delete from events
            where event in (select value from json_each($1)) and appended_at < $2
                and case
                    when exists (select 1 from outbox o where o.event = events.event) then false
                    else not exists (
                        select 1 from trimmed t
                        join streams s on s.gateway = t.gateway join gateways g on g.gateway = t.gateway
                        where t.event = events.event and g.deleted_at is null and (
                            select d.last_sequence >= t.sequence and d.last_sequence > s.head - $3
                                and d.redriven_at is null and d.reason <> 'retention'
                            from dead_letters d
                            where d.gateway = t.gateway and d.first_sequence <= t.sequence
                            order by d.first_sequence desc limit 1
                        )
                    )
                end
            returning event as "event!: i64"
            "#,
            events,
            spent.before as _,
            spent.most_events
        )
        .fetch_all(&mut *self)
        .await?;
        let events = json(&gone)?;
        query!("delete from trimmed where event in (select value from json_each($1))", events)
            .execute(self)
            .await?;
        Ok(gone.len() as u64)
    }

    /// There is one writer, so each count is one row.
    async fn merge_failure_counts(&mut self, _: Timestamp, _: i64) -> Result<u64> {
        Ok(0)
    }
}
