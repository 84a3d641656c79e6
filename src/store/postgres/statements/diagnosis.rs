//! Evidence for a diagnosis.

use super::super::sql::dialect::DiagnosisStatements;
use super::{Connection, query, query_as};
use crate::clock::Timestamp;
use crate::event::{EventId, EventType, GatewayKey, OrganisationKey, Reason};
use crate::store::{LabelTarget, ReasonTally, Result, StoreError};

impl DiagnosisStatements for Connection {
    async fn failures_by_reason(
        &mut self,
        gateway: GatewayKey,
        limit: i64,
    ) -> Result<Vec<ReasonTally>> {
        Ok(query_as!(
            ReasonTally,
            r#"
            select reason as "reason!: Reason", (sum(deliveries))::bigint as "count!: i64",
                min(finished_at) as "first_at!: Timestamp", max(finished_at) as "last_at!: Timestamp"
            from (
                select reason, last_sequence - first_sequence + 1 as deliveries, finished_at
                from attempts
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
            select reason as "reason!: Reason", (sum(deliveries))::bigint as "count!: i64",
                min(dead_at) as "first_at!: Timestamp", max(dead_at) as "last_at!: Timestamp"
            from (
                select reason, last_sequence - first_sequence + 1 as deliveries, dead_at
                from dead_letters
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
            from events
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
            };
            Ok((row.event, target))
        });
        targets.collect()
    }
}
