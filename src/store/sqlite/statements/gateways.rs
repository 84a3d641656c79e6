//! Looking up gateways.

use std::collections::BTreeSet;

use super::super::sql::dialect::GatewayStatements;
use super::super::sql::dialect::gateways::{GatewayById, GatewayByLabels, GatewayRow, Manifests};
use super::{Connection, json, query_as};
use crate::clock::Timestamp;
use crate::event::{Epoch, GatewayId, GatewayKey, OrganisationKey, Reason, Sequence};
use crate::store::{Labels, Result};

impl GatewayStatements for Connection {
    async fn gateways_by_id(&mut self, ids: &BTreeSet<GatewayId>) -> Result<Vec<GatewayById>> {
        let ids = json(ids)?;
        Ok(query_as!(
            GatewayById,
            r#"
            select g.gateway as "gateway!: GatewayKey", g.id as "id!: GatewayId",
                g.organisation as "organisation!: OrganisationKey"
            from json_each($1) as wanted
            join gateways g on g.id = wanted.value
            where g.deleted_at is null
            "#,
            ids
        )
        .fetch_all(self)
        .await?)
    }

    async fn gateways_by_labels(
        &mut self,
        organisation: OrganisationKey,
        wanted: &Labels,
    ) -> Result<Vec<GatewayByLabels>> {
        let wanted = json(wanted)?;
        Ok(query_as!(
            GatewayByLabels,
            r#"
            select gateway as "gateway!: GatewayKey", id as "id!: GatewayId" from gateways
            where organisation = $1 and deleted_at is null
                and not exists (
                    select 1 from json_each($2) as wanted
                    where not exists (
                        select 1 from json_each(gateways.labels) as has
                        where has.key = wanted.key and has.value = wanted.value
                    )
                )
            order by gateway
            "#,
            organisation.0,
            wanted
        )
        .fetch_all(self)
        .await?)
    }

    #[expect(clippy::too_many_lines, reason = "one statement")]
    async fn gateway_details(
        &mut self,
        keys: &[GatewayKey],
        manifests: Manifests,
    ) -> Result<Vec<GatewayRow>> {
        let reads_manifests = i64::from(manifests == Manifests::Read);
        let keys = json(&keys.iter().map(|key| key.0).collect::<Vec<_>>())?;
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
                where g.gateway in (select value from json_each($1))
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
                        and d.last_sequence > p.position
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
                                and d.last_sequence > p.position
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
                last_failure_at as "last_failure_at?: Timestamp",
                last_failure_reason as "last_failure_reason?: Reason",
                (select max(c.updated_at) from cursors c
                 where c.gateway = p.gateway and c.instance = ''
                    and c.updated_at > 0) as "last_receipt_at?: Timestamp",
                last_refusal_at as "refused_at?: Timestamp",
                last_refusal_code as "refused_code?: String",
                last_refusal_cause as "refused_cause?: String",
                last_refusal_address as "refused_address?: String"
            from placed p order by name
            "#,
            keys,
            reads_manifests
        )
        .fetch_all(self)
        .await?)
    }
}
