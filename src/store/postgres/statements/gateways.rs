//! Looking up gateways.

use std::collections::BTreeSet;

use super::super::sql::dialect::GatewayStatements;
use super::super::sql::dialect::gateways::{GatewayById, GatewayByLabels, GatewayRow, Manifests};
use super::{Connection, keys, query_as};
use crate::clock::Timestamp;
use crate::event::{Epoch, GatewayId, GatewayKey, OrganisationKey, Reason, Sequence};
use crate::store::{Labels, Result, StoreError};

impl GatewayStatements for Connection {
    async fn gateways_by_id(&mut self, ids: &BTreeSet<GatewayId>) -> Result<Vec<GatewayById>> {
        let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.0).collect();
        Ok(query_as!(
            GatewayById,
            r#"
            select gateway as "gateway!: GatewayKey", id as "id!: GatewayId",
                organisation as "organisation!: OrganisationKey"
            from gateways where id = any($1) and deleted_at is null
            "#,
            &ids
        )
        .fetch_all(self)
        .await?)
    }

    async fn gateways_by_labels(
        &mut self,
        organisation: OrganisationKey,
        wanted: &Labels,
    ) -> Result<Vec<GatewayByLabels>> {
        let wanted = serde_json::to_string(wanted).map_err(|error| {
            StoreError::Unavailable(format!("failed to encode labels as JSON: {error}"))
        })?;
        Ok(query_as!(
            GatewayByLabels,
            r#"
            select gateway as "gateway!: GatewayKey", id as "id!: GatewayId" from gateways
            where organisation = $1 and deleted_at is null and labels::jsonb @> ($2::text)::jsonb
            order by gateway
            "#,
            organisation.0,
            wanted
        )
        .fetch_all(self)
        .await?)
    }

    /// No dead letter begins after the head. Saying so makes the planner expect few of them, and use
    /// the index even if the table is small.
    #[expect(clippy::too_many_lines, reason = "one statement")]
    async fn gateway_details(
        &mut self,
        gateways: &[GatewayKey],
        manifests: Manifests,
    ) -> Result<Vec<GatewayRow>> {
        let reads_manifests = i64::from(manifests == Manifests::Read);
        Ok(query_as!(
            GatewayRow,
            r#"
            with chosen as materialized (
                select g.gateway, g.id, g.name, g.labels, g.replicas, g.created_at, g.disabled_at, g.paused_at,
                    g.paused_by, g.pause_reason, g.manifest_at, g.last_refusal_at, g.last_refusal_code,
                    g.last_refusal_cause, g.last_refusal_address,
                    case when cast($2 as bigint) = 1 then g.manifest end as manifest, s.confirmation, s.epoch, s.head, s.floor, s.failing_since, s.failing_reason, s.failing_count,
                    s.left_at, s.left_reason, s.last_failure_at, s.last_failure_reason,
                    coalesce((select received from cursors c where c.gateway = g.gateway and c.instance = ''),
                             (select max(received) from cursors c where c.gateway = g.gateway), 0) as confirmed
                from gateways g join streams s using (gateway)
                where g.gateway = any($1)
            ),
            placed as materialized (
                select *, case when floor > confirmed then floor else confirmed end as position from chosen
            )
            select gateway as "gateway!: GatewayKey", id as "id!: GatewayId", name as "name!: String",
                labels as "labels!: String", confirmation as "confirmation!: String",
                replicas as "replicas!: i64",
                created_at as "created_at!: Timestamp", disabled_at as "disabled_at?: Timestamp",
                paused_at as "paused_at?: Timestamp", paused_by as "paused_by?: String",
                pause_reason as "pause_reason?: String", manifest as "manifest?: String",
                manifest_at as "manifest_at?: Timestamp", epoch as "epoch!: Epoch",
                head as "head!: Sequence", floor as "floor!: Sequence",
                confirmed as "confirmed!: Sequence",
                cast(head - position - coalesce((
                    select sum(case when d.first_sequence > p.position then d.last_sequence - d.first_sequence + 1
                        else d.last_sequence - p.position end)
                    from dead_letters d
                    where d.gateway = p.gateway and d.first_sequence > p.position - 1000
                        and d.first_sequence <= p.head and d.last_sequence > p.position
                ), 0) as bigint) as "pending!: i64",
                case when head > position then (
                    select coalesce(
                        o.appended_at,
                        (
                            select case when d.redriven_first + d.last_sequence - d.first_sequence >= o.sequence
                                then d.redriven_at end
                            from dead_letters d
                            where d.gateway = o.gateway and d.redriven_first <= o.sequence
                            order by d.redriven_first desc limit 1
                        ),
                        e.appended_at
                    )
                    from outbox o join events e using (event)
                    where o.gateway = p.gateway and o.sequence = (
                        -- The first sequence after the position or a dead letter that is not a dead letter.
                        select min(next) from (
                            select p.position + 1 as next
                            union all
                            select d.last_sequence + 1 from dead_letters d
                            where d.gateway = p.gateway and d.first_sequence > p.position - 1000
                                and d.first_sequence <= p.head and d.last_sequence > p.position
                        ) as ends
                        -- They don't overlap, so only the last one before it may cover it.
                        where not coalesce((
                            select d.last_sequence >= ends.next from dead_letters d
                            where d.gateway = p.gateway and d.first_sequence <= ends.next
                            order by d.first_sequence desc limit 1
                        ), false)
                    )
                ) end as "oldest_pending_at?: Timestamp",
                (select count(*) from connections n
                 where n.gateway = p.gateway and n.closed_at is null) as "live!: i64",
                (select min(n.connected_at) from connections n
                 where n.gateway = p.gateway and n.closed_at is null) as "connected_since?: Timestamp",
                left_at as "left_at?: Timestamp", left_reason as "left_reason?: Reason",
                failing_since as "failing_since?: Timestamp", failing_reason as "failing_reason?: Reason",
                failing_count as "failing_count!: i64",
                last_failure_at as "last_failure_at?: Timestamp", last_failure_reason as "last_failure_reason?: Reason",
                (select max(c.updated_at) from cursors c
                 where c.gateway = p.gateway and c.instance = ''
                    and c.updated_at > to_timestamp(0)) as "last_receipt_at?: Timestamp",
                last_refusal_at as "refused_at?: Timestamp",
                last_refusal_code as "refused_code?: String", last_refusal_cause as "refused_cause?: String",
                last_refusal_address as "refused_address?: String"
            from placed p order by name
            "#,
            &keys(gateways),
            reads_manifests
        )
        .fetch_all(self)
        .await?)
    }
}
