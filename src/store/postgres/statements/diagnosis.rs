//! Evidence for a diagnosis.

use std::collections::BTreeSet;

use super::super::sql::dialect::DiagnosisStatements;
use super::{Connection, column, query, query_as};
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
                    from attempts
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
        let labels: Vec<_> = labels.iter().collect();
        let rows = query!(
            r#"
            select distinct m.name as "name!: String", m.value as "value!: String"
            from unnest($3::text[], $4::text[]) as m (name, value)
            join gateways g on g.labels::jsonb ->> m.name = m.value
            where g.organisation = $1 and g.gateway <> $2 and g.deleted_at is null
            "#,
            organisation.0,
            gateway.0,
            &column(&labels, |it| &*it.0) as _,
            &column(&labels, |it| &*it.1) as _
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
                is_logged: false,
            };
            Ok((row.event, target))
        });
        targets.collect()
    }
}
