//! Evidence for a diagnosis.

use std::collections::BTreeSet;

use super::super::sql::dialect::DiagnosisStatements;
use super::{Connection, json, query, query_as};
use crate::clock::Timestamp;
use crate::event::{EventId, EventType, GatewayKey, OrganisationKey, Reason};
use crate::store::{FailureDetail, LabelTarget, ReasonTally, Result, StoreError};

impl DiagnosisStatements for Connection {
    async fn failures_by_reason(
        &mut self,
        gateway: GatewayKey,
        limit: i64,
    ) -> Result<Vec<ReasonTally>> {
        Ok(query_as!(
            ReasonTally,
            r#"
            select reason as "reason!: Reason", sum(deliveries) as "count!: i64",
                min(finished_at) as "first_at!: Timestamp", max(finished_at) as "last_at!: Timestamp"
            from (
                select reason, last_sequence - first_sequence + 1 as deliveries, finished_at
                from attempts indexed by attempts_failed_by_gateway
                where gateway = $1 and outcome = 'failed'
                order by finished_at desc, attempt desc limit $2
            ) as newest
            group by reason order by max(finished_at) desc, reason
            "#,
            gateway.0,
            limit
        )
        .fetch_all(self)
        .await?)
    }

    async fn dead_letters_by_reason(
        &mut self,
        gateway: GatewayKey,
        limit: i64,
    ) -> Result<Vec<ReasonTally>> {
        Ok(query_as!(
            ReasonTally,
            r#"
            select reason as "reason!: Reason", sum(deliveries) as "count!: i64",
                min(dead_at) as "first_at!: Timestamp", max(dead_at) as "last_at!: Timestamp"
            from (
                select reason, last_sequence - first_sequence + 1 as deliveries, dead_at
                from dead_letters indexed by dead_letters_open
                where gateway = $1 and redriven_at is null
                order by first_sequence desc limit $2
            ) as newest
            group by reason order by max(dead_at) desc, reason
            "#,
            gateway.0,
            limit
        )
        .fetch_all(self)
        .await?)
    }

    async fn newest_details(
        &mut self,
        gateway: GatewayKey,
        limit: i64,
    ) -> Result<Vec<FailureDetail>> {
        Ok(query_as!(
            FailureDetail,
            r#"
            select reason as "reason!: Reason", detail as "detail!: String" from (
                select reason, detail,
                    row_number() over (partition by reason order by finished_at desc, attempt desc) as place
                from (
                    select attempt, reason, detail, finished_at
                    from attempts indexed by attempts_failed_by_gateway
                    where gateway = $1 and outcome = 'failed'
                    order by finished_at desc, attempt desc limit $2
                ) as newest
                where detail is not null and detail <> ''
            ) as placed
            where place = 1 order by reason
            "#,
            gateway.0,
            limit
        )
        .fetch_all(self)
        .await?)
    }

    async fn shared_labels(
        &mut self,
        organisation: OrganisationKey,
        gateway: GatewayKey,
        labels: &BTreeSet<(String, String)>,
    ) -> Result<BTreeSet<(String, String)>> {
        let labels = json(labels)?;
        let rows = query!(
            r#"
            select m.value ->> 0 as "name!: String", m.value ->> 1 as "value!: String"
            from jsonb_each($3) as m
            where exists (
                select 1 from gateways g, json_each(g.labels) as has
                where g.organisation = $1 and g.gateway <> $2 and g.deleted_at is null
                    and has.key = m.value ->> 0 and has.value = m.value ->> 1
            )
            "#,
            organisation.0,
            gateway.0,
            labels
        )
        .fetch_all(self)
        .await?;
        Ok(rows.into_iter().map(|row| (row.name, row.value)).collect())
    }

    async fn label_targets(
        &mut self,
        organisation: OrganisationKey,
        since: Timestamp,
        limit: i64,
    ) -> Result<Vec<(i64, LabelTarget)>> {
        let rows = query!(
            r#"
            select event as "event!: i64", id as "event_id!: EventId", type as "event_type!: EventType",
                appended_at as "appended_at!: Timestamp", target as "target!: String",
                coalesce(matched, 0) as "matched!: i64"
            from events indexed by events_by_label_target
            where organisation = $1 and appended_at >= $2 and substr(target, 1, 1) = '{'
            order by appended_at desc, event desc limit $3
            "#,
            organisation.0,
            since as _,
            limit
        )
        .fetch_all(self)
        .await?;
        let read = |text: &str| {
            serde_json::from_str(text)
                .map_err(|error| StoreError::Corrupt(format!("a target: {error}")))
        };
        let targets = rows.into_iter().map(|row| {
            let target = LabelTarget {
                event_id: row.event_id,
                event_type: row.event_type,
                appended_at: row.appended_at,
                labels: read(&row.target)?,
                matched: row.matched,
                is_logged: false,
            };
            Ok((row.event, target))
        });
        targets.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::super::scratch::Scratch;
    use super::*;

    const STEP: i32 = 10;
    const LIMIT: i64 = 200;

    /// So many failures, dead letters and events for labels of each of two gateways.
    async fn filled(rows: i64) -> (Scratch, Connection) {
        let (scratch, mut conn) = Scratch::new().await;
        for text in [
            "insert into gateways (gateway, id, organisation, name, created_at)
             values (1, 'a', 1, 'a', 0), (2, 'b', 1, 'b', 0)",
            "insert into streams (gateway, epoch, head) values (1, 'a', 1), (2, 'b', 1)",
        ] {
            sqlx::query(text).execute(&mut conn).await.unwrap();
        }
        for text in [
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 2 * $1)
             insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, instance,
                 node, started_at, finished_at)
             select i % 2 + 1, i, i, 'failed', case i % 4 when 0 then 'expired' else 'shutdown' end,
                 '', '', i, i
             from n",
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 2 * $1)
             insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at)
             select i % 2 + 1, i, i, 'expired', i from n",
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 2 * $1)
             insert into events (organisation, id, type, payload, correlation_id, occurred_at,
                 appended_at, digest, target, matched)
             select 1, 'e' || i, 'a.b', '{}', 'c', i, i, x'',
                 case i % 2 when 0 then 'all' else '{\"env\":\"prod\"}' end, 1
             from n",
        ] {
            sqlx::query(text).bind(rows).execute(&mut conn).await.unwrap();
        }
        (scratch, conn)
    }

    /// What SQLite's machine does for each statement.
    async fn steps(conn: &mut Connection) -> [usize; 3] {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        conn.lock_handle().await.unwrap().set_progress_handler(STEP, move || {
            counted.fetch_add(1, Ordering::Relaxed);
            true
        });
        let failures = conn.failures_by_reason(GatewayKey(1), LIMIT).await.unwrap();
        assert_eq!(failures.iter().map(|it| it.count).sum::<i64>(), LIMIT);
        let first = count.swap(0, Ordering::Relaxed);
        let dead = conn.dead_letters_by_reason(GatewayKey(1), LIMIT).await.unwrap();
        assert_eq!(dead.iter().map(|it| it.count).sum::<i64>(), LIMIT);
        let second = count.swap(0, Ordering::Relaxed);
        let since = Timestamp::from_micros(0);
        let targets = conn.label_targets(OrganisationKey(1), since, LIMIT).await.unwrap();
        assert_eq!(targets.len(), usize::try_from(LIMIT).unwrap());
        let third = count.swap(0, Ordering::Relaxed);
        conn.lock_handle().await.unwrap().remove_progress_handler();
        [first, second, third]
    }

    #[tokio::test]
    async fn evidence_costs_the_same_however_long_the_history_is() {
        let (_short, mut short) = filled(1_000).await;
        let (_long, mut long) = filled(20_000).await;
        let few = steps(&mut short).await;
        let many = steps(&mut long).await;
        for (few, many) in few.into_iter().zip(many) {
            assert!(many <= few + few / 4, "{few} grew to {many}");
        }
    }
}
